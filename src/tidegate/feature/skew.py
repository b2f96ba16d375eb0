"""Training-serving skew, exactly: features as they were served beside what the offline path says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import polars as pl

from tidegate.feature.offline import Table, join
from tidegate.feature.transform import InvalidFeatureData, dtype_of
from tidegate.feature.view import FeatureView
from tidegate.statistics.interval import Interval, clopper_pearson


class FeatureSkew(msgspec.Struct, frozen=True):
    """What was found of one feature.

    Attributes:
        view: Its view.
        feature: Its name.
        n_rows: Rows compared.
        n_mismatches: Rows in which the served value is not the recomputed one, to the bit.
        interval: Of the mismatch rate, exact binomial.
        first_row: Position of the first mismatch, None without one.
    """

    view: str
    feature: str
    n_rows: int
    n_mismatches: int
    interval: Interval
    first_row: int | None

    @property
    def rate(self) -> float:
        """Share of rows that differ, 0 without rows."""
        return self.n_mismatches / self.n_rows if self.n_rows else 0.0


def measure_skew(
    logged: Table, at: str, *, views: Sequence[tuple[FeatureView, Table]], level: float = 0.95
) -> tuple[FeatureSkew, ...]:
    """Recompute logged features by the offline join, and count where they differ.

    Equal means equal, not close; two gaps (null, NaN) are equal. A difference is a defect of the
    serving path or an event that had not reached the store when it was asked: for these, compare
    with a table whose created time says when it did.

    Args:
        logged: Rows with the keys, the decision time and the features as they were served.
        at: Column of the decision time.
        views: Views and the tables of their events as known today.
        level: Confidence of the intervals.

    Returns:
        One finding a feature, in the order of the views.

    Raises:
        InvalidFeatureData: A table or the log lacks a column.
    """
    served = logged.lazy().collect()
    names = [field.name for view, _ in views for field in view.feature_fields]
    absent = [name for name in names if name not in served.columns]
    if absent:
        raise InvalidFeatureData(f"The log has no column {', '.join(map(repr, absent))}.")
    recomputed = join(served.drop(names), at, views=views)
    found = []
    for view, _ in views:
        for field in view.feature_fields:
            ours = recomputed[field.name].alias("ours")
            theirs = served[field.name].cast(dtype_of(field), strict=False).alias("theirs")
            if field.type.is_float:
                ours, theirs = ours.fill_nan(None), theirs.fill_nan(None)
            differs = ours.ne_missing(theirs)
            # What the cast lost was a value, and a gap would be another.
            differs |= served[field.name].is_not_null() & theirs.is_null() & ~_is_nan(served[field.name])
            n_mismatches = int(differs.sum())
            found.append(
                FeatureSkew(
                    view=view.name,
                    feature=field.name,
                    n_rows=served.height,
                    n_mismatches=n_mismatches,
                    interval=clopper_pearson(n_mismatches, served.height, level=level),
                    first_row=differs.arg_max() if n_mismatches else None,
                )
            )
    return tuple(found)


def _is_nan(values: pl.Series) -> pl.Series:
    if values.dtype.is_float():
        return values.is_nan()
    return pl.Series([False]).new_from_index(0, len(values))
