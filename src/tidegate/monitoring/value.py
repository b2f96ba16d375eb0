"""What predictions bring, in money or in a declared figure, day by day: a signal once it is worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.evaluation.declaration import CostMatrix
from tidegate.monitoring.declaration import Kpi
from tidegate.monitoring.signal import Finding, Severity
from tidegate.monitoring.standing import StandingAlarm
from tidegate.monitoring.subject import KPI, LABEL, Subject
from tidegate.statistics.special import student_quantile

Floats = npt.NDArray[np.float64]


def brought(subject: Subject, labelled: pl.DataFrame) -> Floats | None:
    """Return what each labelled prediction brought; None without declared costs of an event.

    Args:
        subject: What is watched.
        labelled: Prepared records with a label and an answer.
    """
    costs = subject.costs
    if costs is None or subject.task != "binary":
        return None
    acted = labelled[subject.judged].cast(pl.Float64).to_numpy() >= subject.threshold
    happened = labelled[LABEL].cast(pl.Float64).to_numpy() > 0
    return np.where(
        acted,
        np.where(happened, costs.true_positive, costs.false_positive),
        np.where(happened, costs.false_negative, costs.true_negative),
    ).astype(np.float64)


def told(table: pl.DataFrame, name: str) -> Floats:
    """Return the values of a KPI that are known, shape (n_known,)."""
    column = KPI + name
    if column not in table.columns:
        return np.empty(0)
    values = _numbers(table[column]).drop_nulls().to_numpy()
    return np.asarray(values[np.isfinite(values)])


def untold(table: pl.DataFrame, name: str) -> list[Any]:
    """Return the values of a KPI, as they came, that are no numbers."""
    column = KPI + name
    if column not in table.columns:
        return []
    came = table[column]
    return came.filter(_numbers(came).is_null()).drop_nulls().to_list()


def _numbers(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float64, strict=False)  # of texts those that are none are missing


class MeanMonitor:
    """The e-SR detector over days, on how far the mean of a day lies from the best one.

    Where the values have no natural bounds, the best and the worst mean are as far from what is accepted
    as three standard deviations of days and the tolerance: beyond, a mean counts as that one.
    """

    def __init__(
        self,
        means: Floats,
        *,
        kind: str,
        subject: str,
        words: str,
        unit: str,
        remedy: str,
        tolerance: float,
        limit: float,
        higher: bool = True,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        """Learn what is normal.

        Args:
            means: Mean of each day of the reference, shape (n_days,), at least two.
            kind: Of its findings.
            subject: What they are about.
            words: The beginning of their titles, up to the accepted mean.
            unit: Of the values.
            remedy: What to do.
            tolerance: Part of the mean that may be lost without a word.
            limit: Mean days to a false alarm at least.
            higher: Whether a higher mean is better.
            bounds: The worst and the best value; None: there are none.
        """
        self._words, self._unit = words, unit
        self._kind, self._subject, self._remedy = kind, subject, remedy
        self.reference = float(means.mean())
        spread = float(means.std(ddof=1))
        sign = 1.0 if higher else -1.0
        reach = student_quantile(0.975, len(means) - 1) * spread / len(means) ** 0.5
        self.accepted = self.reference - sign * (reach + tolerance * abs(self.reference))
        if bounds is None:
            half = max(tolerance * abs(self.reference) + 3 * spread, 0.01 * abs(self.reference), 1e-9)
            bounds = (self.accepted - sign * half, self.accepted + sign * half)
        self._worst, self._best = bounds
        threshold = float(np.clip(self._missed(self.accepted), 1e-3, 0.99))
        self.alarm = StandingAlarm(threshold=threshold, limit=limit)

    def _missed(self, value: float) -> float:
        return min(1.0, max(0.0, (self._best - value) / (self._best - self._worst)))

    def take(self, mean: float, n_known: int) -> list[Finding]:
        """Take a day's mean; return a finding if it is certain enough that it is worse than accepted."""
        since = self.alarm.take(self._missed(mean))
        if since is None:
            return []
        lost = abs(self.reference - mean) * n_known
        return [
            Finding(
                kind=self._kind,
                subjects=(self._subject,),
                title=f"{self._words} {_amount(self.accepted, self._unit)} for about {since} days; "
                f"it was {self.reference:,.4g}",
                severity=Severity.CRITICAL,
                evidence={
                    "rule": "e-SR detector over days",
                    "limit": self.alarm.limit,
                    "reference": self.reference,
                    "accepted": self.accepted,
                    "last_day": mean,
                    "days_since_estimated_change": since,
                },
                remedy=self._remedy,
                cost=f"about {_amount(lost, self._unit, digits=0)} on the last such day",
            )
        ]


def _amount(value: float, unit: str, *, digits: int | None = None) -> str:
    shown = f"{value:,.4g}" if digits is None else f"{value:,.{digits}f}"
    return f"{shown} {unit}".rstrip()


def value_monitor(costs: CostMatrix, means: Floats, *, tolerance: float, limit: float) -> MeanMonitor:
    """Return the monitor of what a prediction brings; its arguments are those of `MeanMonitor`."""
    four = (costs.true_positive, costs.false_positive, costs.false_negative, costs.true_negative)
    return MeanMonitor(
        means,
        kind="value",
        subject="value of a prediction",
        words="A prediction brings less than",
        unit=costs.currency,
        remedy="See whether events became more frequent or decisions worse: compare `risk` and "
        "`label`. Set the threshold anew for today's costs, or retrain.",
        tolerance=tolerance,
        limit=limit,
        bounds=(min(four), max(four)),
    )


def kpi_monitor(kpi: Kpi, means: Floats, *, tolerance: float, limit: float) -> MeanMonitor:
    """Return the monitor of a KPI; its arguments are those of `MeanMonitor`."""
    higher = kpi.better == "higher"
    return MeanMonitor(
        means,
        kind="kpi",
        subject=kpi.name,
        words=f"The mean of {kpi.name} is {'below' if higher else 'above'}",
        unit=kpi.unit,
        remedy="See whether quality fell with it: compare `risk` and `output`. If it did not, what changed "
        "lies beyond the model: prices, customers, how answers are used.",
        tolerance=tolerance if kpi.tolerance is None else kpi.tolerance,
        limit=limit,
        higher=higher,
    )
