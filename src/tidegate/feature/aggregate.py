"""Trailing aggregates that come out the same, to the last bit, from a table and from a store.

Sums are kept in whole steps of a declared size, so that addition is exact and its order does not
matter: a difference of running sums (offline) equals the sum over the window (online).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum

import msgspec

from tidegate.core.error import InvalidSetting

STEPS_PER_UNIT = 1_000_000
"""Values of a mean are rounded to millionths of their unit, unless declared otherwise."""

MAX_STEPS = 1 << 46
"""Largest value in steps. 131,072 events of it still sum up within 64 bits."""


class Kind(StrEnum):
    """What is told of the events of a window."""

    COUNT = "count"  # how many events
    MEAN = "mean"  # mean of a column
    RATE = "rate"  # share of events for which a yes/no column is true


class Aggregate(msgspec.Struct, frozen=True):
    """One figure over the events of the time before a moment, that moment excluded.

    At time t an event counts when t - window <= event time < t and its created time is before t.
    Of several rows with the same entity, event time and identifier the one created last, of those
    created before t, counts. Events without a value (null, NaN) do not count for means and rates.

    Attributes:
        kind: What is told.
        window_us: Length of the window, microseconds.
        column: Source or transformed column; empty for a count.
        steps_per_unit: Resolution to which a mean's values are rounded, in parts of their unit.
    """

    kind: Kind
    window_us: int
    column: str = ""
    steps_per_unit: int = 1

    @property
    def stored(self) -> tuple[str, int] | None:
        """Column and steps of what an event must keep for this figure; None for a count."""
        return None if self.kind is Kind.COUNT else (self.column, self.steps_per_unit)


def count(window: timedelta) -> Aggregate:
    """Count the events of the `window` before a moment."""
    return Aggregate(Kind.COUNT, _window_us(window))


def mean(column: str, window: timedelta, *, steps_per_unit: int = STEPS_PER_UNIT) -> Aggregate:
    """Take the mean of `column` over the `window` before a moment.

    Args:
        column: A numeric column.
        window: How far back.
        steps_per_unit: Values are rounded to this part of their unit; 1 for whole numbers.

    Raises:
        InvalidSetting: The window or the steps are not positive.
    """
    if steps_per_unit < 1:
        raise InvalidSetting(f"A mean needs at least one step per unit. Got {steps_per_unit}.", column=column)
    return Aggregate(Kind.MEAN, _window_us(window), column, steps_per_unit)


def rate(column: str, window: timedelta) -> Aggregate:
    """Take the share of events with `column` true over the `window` before a moment."""
    return Aggregate(Kind.RATE, _window_us(window), column)


def figure(aggregate: Aggregate, values: Sequence[int | None]) -> float | int | None:
    """Return the figure over what the events of a window keep, None where it has none.

    Args:
        aggregate: What is asked.
        values: One item an event, in steps; None where the event has no value.
    """
    if aggregate.kind is Kind.COUNT:
        return len(values)
    known = [value for value in values if value is not None]
    if not known:
        return None
    # Both sides as floats first: this is what the offline expression does.
    return float(sum(known)) / float(len(known) * aggregate.steps_per_unit)


def _window_us(window: timedelta) -> int:
    length = window // timedelta(microseconds=1)
    if length <= 0:
        raise InvalidSetting(f"A trailing window has a positive length. Got {window}.")
    return length
