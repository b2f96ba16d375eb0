"""Intervals in which a figure lies with a stated confidence, looked at once."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.special import beta_quantile, normal_quantile, student_quantile, student_tail

Floats = npt.NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`, both within.

    Attributes:
        low: Lower end, in the figure's unit.
        high: Upper end.
    """

    low: float
    high: float


def wilson(successes: float, n_rows: float, *, level: float = 0.95) -> Interval:
    """Return the score interval of a proportion; its coverage is close to `level` on average.

    Args:
        successes: How often it happened, in [0, n_rows].
        n_rows: How often it was looked at; 0 gives [0, 1].
        level: Confidence, in (0, 1).

    Raises:
        InvalidSetting: An argument lies outside its range.

    Source: Wilson, JASA 22(158), 1927; Brown, Cai & DasGupta, Statistical Science 16(2), 2001.
    """
    check_counts(successes, n_rows, level=level)
    if n_rows == 0:
        return Interval(0.0, 1.0)
    z = normal_quantile(0.5 + level / 2)
    share = successes / n_rows
    centre = (share + z * z / (2 * n_rows)) / (1 + z * z / n_rows)
    half = z / (1 + z * z / n_rows) * math.sqrt(share * (1 - share) / n_rows + z * z / (4 * n_rows * n_rows))
    # at the ends the formula gives 0 and 1 but for rounding
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n_rows else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(successes: int, n_rows: int, *, level: float = 0.95) -> Interval:
    """Return the exact interval of a proportion; its coverage is never below `level`.

    Args:
        successes: How often it happened, in [0, n_rows].
        n_rows: How often it was looked at; 0 gives [0, 1].
        level: Confidence, in (0, 1).

    Raises:
        InvalidSetting: An argument lies outside its range.

    Source: Clopper & Pearson, Biometrika 26(4), 1934, by quantiles of the beta distribution.
    """
    check_counts(successes, n_rows, level=level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, n_rows - successes + 1)
    high = 1.0 if successes == n_rows else beta_quantile(1 - tail, successes + 1, n_rows - successes)
    return Interval(low, high)


def newcombe(
    successes: float, n_rows: float, other_successes: float, other_n_rows: float, *, level: float = 0.95
) -> Interval:
    """Return the interval of the difference of two independent proportions, first less second.

    Raises:
        InvalidSetting: See `wilson`.

    Source: Newcombe, Statistics in Medicine 17(8), 1998, method 10 (hybrid score).
    """
    first = wilson(successes, n_rows, level=level)
    second = wilson(other_successes, other_n_rows, level=level)
    if n_rows == 0 or other_n_rows == 0:
        return Interval(-1.0, 1.0)
    a, b = successes / n_rows, other_successes / other_n_rows
    return Interval(
        a - b - math.hypot(a - first.low, second.high - b),
        a - b + math.hypot(first.high - a, b - second.low),
    )


def welch(values: Floats, others: Floats, *, level: float = 0.95) -> tuple[Interval, float]:
    """Return the interval of the difference of two means (first less second), and P(T > t).

    The second figure is the one-sided p-value of "the first mean is not larger".

    Args:
        values: Independent values, shape (n,), n >= 2.
        others: The same of the others, shape (m,), m >= 2.
        level: Confidence of the two-sided interval, in (0, 1).

    Raises:
        InvalidSetting: A sample has fewer than two values, or see `wilson`.

    Source: Welch, Biometrika 34(1-2), 1947.
    """
    check_counts(0, 0, level=level)
    if len(values) < 2 or len(others) < 2:
        raise InvalidSetting(f"A variance needs two values. Got {len(values)} and {len(others)}.")
    difference = float(values.mean() - others.mean())
    a, b = float(values.var(ddof=1)) / len(values), float(others.var(ddof=1)) / len(others)
    if a + b == 0:
        return Interval(difference, difference), 0.0 if difference > 0 else 1.0
    freedom = (a + b) ** 2 / (a * a / (len(values) - 1) + b * b / (len(others) - 1))
    deviation = math.sqrt(a + b)
    half = student_quantile(0.5 + level / 2, freedom) * deviation
    return Interval(difference - half, difference + half), student_tail(difference / deviation, freedom)


def grouped(
    values: Floats, group: npt.NDArray[np.int64] | None = None, *, level: float = 0.95
) -> Interval | None:
    """Return the interval of the mean of rows of which some belong together; None of fewer than two groups.

    By how much the mean moves when each group is left out: where one has most of the rows, nothing says
    how like it others would be, and the interval is as wide as that.

    Args:
        values: One a row, shape (n_rows,).
        group: Which rows belong together (a day), as integers from 0, shape (n_rows,); None: none do.
        level: Confidence, in (0, 1).

    Raises:
        InvalidSetting: See `wilson`.

    Source: Cameron & Miller, Journal of Human Resources 50(2), 2015: the jackknife over clusters (CV3),
    with Student's t of one degree less than clusters.
    """
    check_counts(0, 0, level=level)
    places = np.arange(len(values)) if group is None else group
    rows = np.bincount(places)
    sums = np.bincount(places, weights=values)[rows > 0]
    rows = rows[rows > 0]
    n_groups = len(rows)
    if n_groups < 2:
        return None
    mean = float(values.mean())
    moved = (sums - rows * mean) / (len(values) - rows)
    half = student_quantile(0.5 + level / 2, n_groups - 1) * math.sqrt(
        float((moved**2).sum()) * (n_groups - 1) / n_groups
    )
    return Interval(mean - half, mean + half)


def check_counts(successes: float, n_rows: float, *, level: float) -> None:
    """Refuse counts and levels of which there is no interval.

    Raises:
        InvalidSetting: The level is not in (0, 1), or not 0 <= successes <= n_rows.
    """
    if not 0 < level < 1:
        raise InvalidSetting(f"A confidence level lies in (0, 1). Got {level}.")
    if not 0 <= successes <= n_rows:
        raise InvalidSetting(f"Successes lie in [0, n_rows]. Got {successes} of {n_rows}.")
