"""What a column looks like: counts, range, moments and a histogram that later data are held against."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import polars as pl

N_BINS = 10
"""Deciles: enough to see a shift, few enough that each holds rows in a small table."""

MAX_VALUES = 50
"""Values that are counted one by one; a column of more distinct ones is not a category."""


class ColumnSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a snapshot. Everything in it is the same whenever the same rows are summarised.

    Attributes:
        name: Of the column.
        type: As polars names it.
        n_null: Missing values, NaN among them.
        n_distinct: Distinct values present; None for nested types.
        low, high: Least and greatest number, or time as ISO text. None for text, whose values may be
            personal.
        mean, std: Of numbers, in the column's unit; `std` with n - 1. As low and high of the finite ones.
        n_infinite: Values that are infinite.
        edges: Inner bin edges, ascending: bin i holds edges[i-1] < x <= edges[i]; the first and the last
            hold the infinite values too.
        counts: Rows of each bin, one more than edges.
        values: Count of each value, of a column of few distinct texts or booleans, most frequent first.
    """

    name: str
    type: str
    n_null: int
    n_distinct: int | None = None
    low: float | str | None = None
    high: float | str | None = None
    mean: float | None = None
    std: float | None = None
    n_infinite: int = 0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    values: dict[str, int] = {}


def summarise(column: pl.Series, *, hidden: bool = False) -> ColumnSummary:
    """Describe one column; where it is hidden, by counts alone."""
    dtype = column.dtype
    present = column.drop_nulls()
    if dtype.is_float():
        present = present.drop_nans()
    basis = ColumnSummary(column.name, str(dtype), len(column) - len(present))
    if dtype.is_nested() or dtype in (pl.Object, pl.Null):
        return basis
    basis = msgspec.structs.replace(basis, n_distinct=present.n_unique())
    if dtype.is_float():
        basis = msgspec.structs.replace(basis, n_infinite=int(present.is_infinite().sum()))
    if hidden:
        return basis
    if dtype.is_numeric():
        return _numbers(basis, present.cast(pl.Float64))
    if dtype.is_temporal() and len(present):
        return msgspec.structs.replace(basis, low=str(present.min()), high=str(present.max()))
    if dtype == pl.Binary or (basis.n_distinct or 0) > MAX_VALUES:
        return basis
    return msgspec.structs.replace(basis, values=count_values(present))


def _numbers(basis: ColumnSummary, values: pl.Series) -> ColumnSummary:
    finite = values.filter(values.is_finite())
    if not len(finite):
        return basis
    cuts = [finite.quantile(step / N_BINS, "lower") for step in range(1, N_BINS)]
    edges = tuple(sorted({cut for cut in cuts if cut is not None}))
    return msgspec.structs.replace(
        basis,
        low=_number(finite.min()),
        high=_number(finite.max()),
        mean=_number(finite.mean()),
        std=_number(finite.std()),
        edges=edges,
        counts=tuple(bin_counts(values, edges)),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def bin_counts(values: pl.Series, edges: tuple[float, ...]) -> list[int]:
    """Return how many of `values` (no nulls) lie in each bin between `edges`."""
    places = np.searchsorted(np.asarray(edges), values.to_numpy(), side="left")
    return [int(count) for count in np.bincount(places, minlength=len(edges) + 1)]


def count_values(values: pl.Series) -> dict[str, int]:
    """Return how often each value (no nulls) stands in a column, most frequent first, ties by name."""
    counted = values.cast(pl.String).value_counts().iter_rows()
    return dict(sorted(counted, key=lambda pair: (-pair[1], pair[0])))
