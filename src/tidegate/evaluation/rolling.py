"""Figures by stretch of time: whether a model is getting worse, and how old what one knows of it is."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation.estimate import Estimate, Floats, estimate_of, resampled

MIN_ROWS = 30
"""Of a stretch: the interval of fewer rows is as wide as the scale."""

N_WINDOWS = 6


class Window(msgspec.Struct, frozen=True):
    """One stretch of time.

    Attributes:
        from_us: Its first row, microseconds UTC.
        until_us: Its last row.
        n_rows: Rows.
        loss: Mean loss, with a bootstrap interval.
        bias: Mean prediction less mean outcome, with one; None where predictions are no numbers.
    """

    from_us: int
    until_us: int
    n_rows: int
    loss: Estimate
    bias: Estimate | None = None


def roll(
    at_us: npt.NDArray[np.int64],
    losses: Floats,
    *,
    rng: np.random.Generator,
    errors: Floats | None = None,
    n_windows: int = N_WINDOWS,
    every_us: int | None = None,
    level: float = 0.95,
) -> tuple[Window, ...]:
    """Measure the loss by stretch of time, oldest first.

    Args:
        at_us: When each row happened, microseconds UTC, shape (n_rows,).
        losses: Loss of each row, shape (n_rows,).
        rng: Source of randomness of the bootstrap.
        errors: Prediction less outcome, shape (n_rows,).
        n_windows: Stretches of equal length, unless `every_us` says how long one is.
        every_us: Length of a stretch, microseconds; the last one ends with the newest row.
        level: Confidence, in (0, 1).

    Returns:
        Stretches of at least `MIN_ROWS` rows.
    """
    first, last = int(at_us.min()), int(at_us.max())
    width = every_us or max(1, -(-(last - first + 1) // n_windows))
    place = (last - at_us) // width  # counted back from the newest row
    found = []
    for each in np.unique(place)[::-1]:
        rows = np.flatnonzero(place == each)
        if len(rows) < MIN_ROWS:
            continue
        found.append(
            Window(
                int(at_us[rows].min()),
                int(at_us[rows].max()),
                len(rows),
                _mean("loss", losses[rows], rng, level, larger_is_better=False),
                None if errors is None else _mean("bias", errors[rows], rng, level),
            )
        )
    return tuple(found)


def _mean(
    name: str, values: Floats, rng: np.random.Generator, level: float, *, larger_is_better: bool | None = None
) -> Estimate:
    if not bool(np.isfinite(values).all()):
        return estimate_of(name, float("nan"), None, method="", n_rows=len(values), level=level)
    (found,) = resampled(
        np.column_stack([values, np.ones(len(values))]),
        {name: (lambda s: s[:, 0] / s[:, 1], larger_is_better)},
        rng=rng,
        level=level,
        n_replicates=400,
    )
    return found
