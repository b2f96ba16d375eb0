"""A figure with its interval: the form in which every measurement leaves this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.bootstrap import (
    MIN_UNITS,
    N_REPLICATES,
    count_units,
    percentile_interval,
    replicate_sums,
)
from tidegate.statistics.interval import Interval

Floats = npt.NDArray[np.float64]
Column = npt.NDArray[Any]
Figure = Callable[[Floats], Floats]


class Estimate(msgspec.Struct, frozen=True):
    """One figure and how well it is known.

    Attributes:
        name: Name of the figure, for example `auc`.
        value: The figure on the rows given; None where it is not defined for them.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
        level: Confidence of the interval.
        method: How the interval was found: `wilson`, `delong`, `bootstrap`; empty without one.
        n_rows: Units it rests on (rows; for a share, those in its denominator; for rankings, queries).
        larger_is_better: Which way is good; None where neither is.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    method: str = ""
    n_rows: int = 0
    larger_is_better: bool | None = None


def estimate_of(
    name: str,
    value: float,
    interval: Interval | None,
    *,
    method: str,
    n_rows: int,
    level: float = 0.95,
    larger_is_better: bool | None = None,
) -> Estimate:
    """Return an estimate; a value that is not finite becomes None, for it has no place in JSON."""
    known = math.isfinite(value)
    if not known or interval is None:
        return Estimate(
            name, value if known else None, level=level, n_rows=n_rows, larger_is_better=larger_is_better
        )
    return Estimate(
        name, value, interval.low, interval.high, level, method, n_rows, larger_is_better=larger_is_better
    )


def resampled(
    terms: Floats,
    figures: Mapping[str, tuple[Figure, bool | None]],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    n_replicates: int = N_REPLICATES,
    cluster: npt.NDArray[np.int64] | None = None,
) -> tuple[Estimate, ...]:
    """Return figures that are functions of sums over rows, with bootstrap intervals from one resampling.

    Of fewer than `MIN_UNITS` rows or clusters the figures have no interval: see `few_units`.

    Args:
        terms: What each row adds to each sum, shape (n_rows, n_sums).
        figures: By name: the function from sums (k, n_sums) to figures (k,), and whether larger is better.
        rng: Source of randomness.
        level: Confidence, in (0, 1).
        n_replicates: Replicates.
        cluster: Which rows belong together, as in `replicate_sums`.
    """
    whole = terms.sum(axis=0, keepdims=True)
    sums = None
    if count_units(len(terms), cluster) >= MIN_UNITS:
        sums = replicate_sums(terms, rng=rng, n_replicates=n_replicates, cluster=cluster)
    found = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, (figure, larger_is_better) in figures.items():
            found.append(
                estimate_of(
                    name,
                    float(figure(whole)[0]),
                    None if sums is None else percentile_interval(figure(sums), level=level),
                    method="bootstrap",
                    n_rows=len(terms),
                    level=level,
                    larger_is_better=larger_is_better,
                )
            )
    return tuple(found)


def few_units(n_units: int, unit: str) -> tuple[str, ...]:
    """Return the note that so many pieces of independent evidence give no interval; none if they do."""
    if n_units >= MIN_UNITS:
        return ()
    return (f"Intervals by resampling: {n_units} {unit} are no basis for one; {MIN_UNITS} are needed.",)


def numbers(values: npt.ArrayLike, *, name: str, n_rows: int | None = None) -> Floats:
    """Return a column of finite numbers.

    Raises:
        NotMeasurable: It is no column, is empty, has another length than `n_rows`, or holds a NaN
            or an infinity.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not column.size or (n_rows is not None and len(column) != n_rows):
        expected = "at least one row" if n_rows is None else f"{n_rows} rows"
        raise NotMeasurable(f"{name} must be a column of {expected}. Got shape {column.shape}.")
    if not bool(np.isfinite(column).all()):
        raise NotMeasurable(f"{name} must be finite numbers; {int((~np.isfinite(column)).sum())} are not.")
    return column
