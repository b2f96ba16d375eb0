"""What a service asks of its monitors: declared with it, kept with each of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from tidegate.contract.schema import Contract
from tidegate.contract.slicing import MAX_FIELDS, can_be_sliced
from tidegate.core.declared import Declared
from tidegate.core.error import InvalidSetting
from tidegate.core.identifier import check_name
from tidegate.statistics.budget import AlarmBudget

SHARES = {
    "input": 0.3,
    "output": 0.15,
    "label": 0.1,
    "estimate": 0.1,
    "risk": 0.2,
    "slice": 0.1,
    "service": 0.05,
}
"""Who may spend the budget of false alarms. Inputs have most, for there are many of them."""


class Kpi(Declared, frozen=True, omit_defaults=True):
    """A figure of the business whose mean over the predictions of a day is watched.

    Attributes:
        name: Of the outcome that tells it: a number, or yes and no. It is reported for good predictions
            and bad, 0 where there was nothing, else its mean is only that of the good.
        better: Which way is good.
        unit: Of its values, for people.
        tolerance: How much worse than in the reference the mean may be, in parts of it; None: as much as
            the mean loss.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    tolerance: float | None = None


class Monitoring(Declared, frozen=True, omit_defaults=True, kw_only=True):
    """How closely a service is watched.

    Attributes:
        false_alarms_per_month: What all monitors together may raise in 30 days without cause, in
            expectation. One: a person who is called more often than that for nothing stops looking.
        tolerance: How much higher than in the reference the mean loss may be, in parts of it. A tenth:
            less than that is seldom worth a retraining.
        max_loss: The mean loss that is still accepted; None: that of the reference and `tolerance`.
        min_effect: Least PSI, beyond what days differ by anyway, at which a moved field is worth a
            word. 0.02 is a twentieth of the rows in another bin.
        slices: Input fields by whose values traffic and quality are counted apart, as they come; protected
            ones are anyway. At most 12, each with 64 values.
        kpis: Figures of the business that are reported as outcomes.
        owner: Who is told.
        reference_days: How many of the first days in the journal are the reference, unless a period
            is named.
    """

    false_alarms_per_month: float = 1.0
    tolerance: float = 0.1
    max_loss: float | None = None
    min_effect: float = 0.02
    slices: Sequence[str] = ()
    kpis: Sequence[Kpi] = ()
    owner: str = ""
    reference_days: int = 28

    @property
    def budget(self) -> AlarmBudget:
        """The budget of false alarms and who may spend it."""
        return AlarmBudget(self.false_alarms_per_month, SHARES)

    def checked(self, contract: Contract) -> Monitoring:
        """Return the declaration, as it fits a contract.

        Raises:
            InvalidSetting: A figure lies outside its range, a slice is no input field, or a KPI is
                named twice.
        """
        self.budget.checked()
        for name in self.slices:
            if name not in contract.input.by_name:
                raise InvalidSetting(
                    f"Monitoring slices by {name!r}, which is no input field.",
                    hint=f"Input fields: {', '.join(contract.input.names)}.",
                    field=name,
                )
            if not can_be_sliced(contract.input.by_name[name]):
                raise InvalidSetting(
                    f"Monitoring slices by {name!r}, by which records cannot be counted apart.",
                    hint="A slice is a scalar that is journalled, and no time or bytes: "
                    "derive a category from it.",
                    field=name,
                )
        if len(self.slices) > MAX_FIELDS:
            raise InvalidSetting(
                f"Monitoring slices by {len(self.slices)} fields; {MAX_FIELDS} are counted as they come.",
                hint="Name those that somebody would act upon; others are found by search.",
            )
        names = [check_name("KPI", kpi.name) for kpi in self.kpis]
        if len(set(names)) < len(names):
            raise InvalidSetting(f"Monitoring names a KPI twice: {', '.join(sorted(names))}.")
        for kpi in self.kpis:
            if (kpi.tolerance or 0.0) < 0:
                raise InvalidSetting(
                    f"The tolerance of the KPI {kpi.name!r} is at least 0. Got {kpi.tolerance}."
                )
        if self.tolerance < 0 or self.min_effect < 0 or (self.max_loss is not None and self.max_loss <= 0):
            raise InvalidSetting("Monitoring: tolerance and min_effect are at least 0, max_loss above 0.")
        if self.reference_days < 2:
            raise InvalidSetting(f"A reference has at least two days. Got {self.reference_days}.")
        return msgspec.structs.replace(self, slices=tuple(self.slices), kpis=tuple(self.kpis))
