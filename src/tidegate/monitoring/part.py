"""Parts of the traffic on which the model has become worse, looked for once a week."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import TidegateError
from tidegate.evaluation.slice import SliceFinding, find_slices
from tidegate.monitoring.signal import Finding, Severity
from tidegate.monitoring.subject import Subject
from tidegate.statistics.interval import welch
from tidegate.statistics.multiple import holm

Floats = npt.NDArray[np.float64]
WINDOW_DAYS = 28
EVERY_DAYS = 7
_MOST_ROWS = 20_000
_FEWEST_ROWS = 400
_FEWEST_DAYS = 3


class PartMonitor:
    """Searches the odd days of four weeks for slices, and tests them on the even ones.

    The test compares days, not rows: by how much a slice was worse than the rest of its day, in the
    window against the reference. So neither a slice that always was worse, nor a storm that hit one
    airport on one day, is a finding.
    """

    def __init__(
        self,
        subject: Subject,
        reference: pl.DataFrame,
        losses: Floats,
        days: npt.NDArray[np.int64],
        *,
        level: float,
        rng: np.random.Generator,
    ) -> None:
        """Take labelled rows of the reference.

        Args:
            subject: What is watched.
            reference: Its rows.
            losses: Their losses, finite.
            days: Number of each row's day.
            level: Of one search.
            rng: Source of randomness.
        """
        self._subject = subject
        self._level = level
        self._rng = rng
        chosen = _sample(len(losses), _MOST_ROWS, rng)
        self._columns = _columns(subject, reference[chosen])
        self._losses, self._days = losses[chosen], days[chosen]
        self._window: deque[tuple[int, pl.DataFrame, Floats]] = deque(maxlen=WINDOW_DAYS)
        self._since = 0

    def take(self, day: int, labelled: pl.DataFrame, losses: Floats) -> None:
        """Take a day whose labels had their time."""
        chosen = _sample(len(losses), _MOST_ROWS // WINDOW_DAYS, self._rng)
        self._window.append((day, labelled[chosen], losses[chosen]))
        self._since += 1

    @property
    def is_due(self) -> bool:
        """Whether a week has passed and the window is full."""
        return len(self._window) == WINDOW_DAYS and self._since >= EVERY_DAYS

    def search(self) -> list[Finding]:
        """Look for slices that have become worse."""
        self._since = 0
        odd = [each for each in self._window if each[0] % 2]
        even = [each for each in self._window if not each[0] % 2]
        table, losses = pl.concat([t for _, t, _ in odd]), np.concatenate([found for _, _, found in odd])
        if len(losses) < _FEWEST_ROWS:
            return []
        try:
            found = find_slices(_columns(self._subject, table), losses, rng=self._rng)
        except TidegateError:  # no loss at all, or nothing that could be cut
            return []
        tested = [(each, *self._test(each, even)) for each in found if each.confirmed]
        adjusted = holm([p for _, p, _, _ in tested])
        return [
            self._finding(each, p, now, before)
            for (each, _, now, before), p in zip(tested, adjusted, strict=True)
            if p <= self._level
        ]

    def _test(
        self, candidate: SliceFinding, even: list[tuple[int, pl.DataFrame, Floats]]
    ) -> tuple[float, float, float]:
        """Return the p-value, and by how much the slice is worse than the rest now and in the reference."""
        now = [_gap(candidate.matches(_columns(self._subject, table)), losses) for _, table, losses in even]
        inside = candidate.matches(self._columns)
        of_day = [self._days == day for day in np.unique(self._days)]
        before = [_gap(inside[mine], self._losses[mine]) for mine in of_day]
        a, b = (np.array([gap for gap in gaps if math.isfinite(gap)]) for gaps in (now, before))
        if min(len(a), len(b)) < _FEWEST_DAYS:
            return 1.0, math.nan, math.nan
        return welch(a, b)[1], float(a.mean()), float(b.mean())

    def _finding(self, candidate: SliceFinding, p_value: float, now: float, before: float) -> Finding:
        return Finding(
            kind="slice",
            # columns too: slices of the same columns are one cause
            subjects=(str(candidate), *(each.column for each in candidate.conditions)),
            title=f"Worse where {candidate}: mean error {now:+.4f} against the rest, {before:+.4f} before",
            severity=Severity.WARNING,
            evidence={
                "p_value": p_value,
                "level": self._level,
                "gap": now,
                "gap_before": before,
                "n_rows": candidate.n_rows,
            },
            remedy="Look at these records. If they are few, let a person answer them; else retrain.",
            cost=f"{now - before:+.4f} mean error on that part",
        )


def _gap(inside: npt.NDArray[np.bool_], losses: Floats) -> float:
    if not inside.any() or inside.all():
        return math.nan
    return float(losses[inside].mean() - losses[~inside].mean())


def _columns(subject: Subject, table: pl.DataFrame) -> dict[str, npt.NDArray[np.generic]]:
    return {name.split(".", 1)[-1]: plain_column(table[name]) for name in subject.inputs}


def plain_column(column: pl.Series) -> npt.NDArray[np.generic]:
    """Return a column as numpy has it: numbers with NaN for gaps, else texts with None."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.to_numpy()
    return column.cast(pl.String).to_numpy()


def _sample(n_rows: int, at_most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    if n_rows <= at_most:
        return np.arange(n_rows)
    return np.sort(rng.choice(n_rows, at_most, replace=False))
