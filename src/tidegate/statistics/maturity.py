"""What may count already, where the truth arrives late.

A final verdict uses only predictions older than the horizon of their outcomes: among younger ones those
whose truth arrives early are a biased sample. Younger ones are shown as provisional, with their coverage.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Cohort(msgspec.Struct, frozen=True, array_like=True):
    """Predictions of one minute.

    Attributes:
        minute: Minutes since 1970 UTC.
        predictions: How many there were.
        known: How many of them have an outcome.
        events: How many of those had the event.
    """

    minute: int
    predictions: int
    known: int
    events: int


class Matured(msgspec.Struct, frozen=True):
    """Cohorts, by whether they are old enough.

    Attributes:
        predictions, known, events: Of the cohorts older than the horizon.
        provisional_predictions, provisional_known, provisional_events: Of the younger ones.
    """

    predictions: int = 0
    known: int = 0
    events: int = 0
    provisional_predictions: int = 0
    provisional_known: int = 0
    provisional_events: int = 0

    @property
    def coverage(self) -> float:
        """Part of all predictions, old and young, whose outcome is known; 0 without any."""
        everything = self.predictions + self.provisional_predictions
        return (self.known + self.provisional_known) / everything if everything else 0.0


def mature(cohorts: Iterable[Cohort], *, now_minute: int, horizon_minutes: float) -> Matured:
    """Sum up cohorts; one is final when its whole minute is older than the horizon."""
    old, young = [0, 0, 0], [0, 0, 0]
    for cohort in cohorts:
        into = old if cohort.minute + 1 + horizon_minutes <= now_minute else young
        for position, count in enumerate((cohort.predictions, cohort.known, cohort.events)):
            into[position] += count
    return Matured(*old, *young)
