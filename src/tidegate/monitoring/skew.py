"""Training-serving skew, exactly: features as they were served beside what the offline path says.

Nothing is estimated from distributions: each recorded value is computed again as training would have
computed it, for the same key and moment, and compared to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from tidegate.core.decision import Verdict
from tidegate.feature.definition import STATES, state_column
from tidegate.feature.offline import Table
from tidegate.feature.skew import FeatureSkew, measure_skew
from tidegate.feature.transform import dtype_of
from tidegate.feature.view import FeatureView, State

TOLERATED = 0.01
"""Mismatch rate that is no defect: an event may reach the store after it was asked for."""

LEVEL = 0.95
"""Confidence of all intervals of a report together."""

_AT = "__at_us"


class CheckedFeature(msgspec.Struct, frozen=True):
    """What was found of one feature.

    Attributes:
        skew: Counts and interval.
        verdict: Regressed: more mismatches than tolerated. Safe: fewer. Undecided: too few rows.
        example: Key, moment, served and recomputed value of the first mismatch.
    """

    skew: FeatureSkew
    verdict: Verdict
    example: dict[str, Any] = {}


class SkewReport(msgspec.Struct, frozen=True):
    """What was found of a service's features.

    Attributes:
        service: Its name.
        tolerated: Mismatch rate up to which a feature is as good as equal.
        features: One a feature, the worst first.
        unread: View -> records for which it could not be read; they are not compared.
    """

    service: str
    tolerated: float
    features: tuple[CheckedFeature, ...]
    unread: dict[str, int]

    @property
    def skewed(self) -> tuple[str, ...]:
        """The features whose mismatch rate is above what is tolerated, the worst first."""
        return tuple(
            checked.skew.feature for checked in self.features if checked.verdict is Verdict.REGRESSED
        )


def check_skew(
    service: str,
    records: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    views: Sequence[tuple[FeatureView, Table]],
    tolerated: float = TOLERATED,
) -> SkewReport:
    """Compare recorded features with what the offline path makes of the views' tables.

    Args:
        service: Whose predictions they are.
        records: Decision time (microseconds since 1970 UTC) and recorded inputs, one a prediction.
        views: Views and their tables as known today.
        tolerated: Mismatch rate up to which a feature is as good as equal.

    Returns:
        A verdict a feature. The intervals hold together: each has its part of the error.
    """
    n_features = sum(len(view.feature_fields) for view, _ in views)
    level = 1 - (1 - LEVEL) / n_features
    found: list[CheckedFeature] = []
    unread: dict[str, int] = {}
    for view, table in views:
        kept = [
            record for record in records if record[1].get(state_column(view.plan)) != STATES[State.UNREAD]
        ]
        unread[view.name] = len(records) - len(kept)
        log = _log(view, kept)
        for skew in measure_skew(log, _AT, views=[(view, table)], level=level):
            example = {} if skew.first_row is None else _example(view, table, log, skew)
            found.append(CheckedFeature(skew, _verdict(skew, tolerated), example))
    found.sort(key=lambda checked: -checked.skew.rate)
    return SkewReport(service, tolerated, tuple(found), {name: n for name, n in unread.items() if n})


def _log(view: FeatureView, records: Sequence[tuple[int, Mapping[str, Any]]]) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {_AT: pl.Series([at_us for at_us, _ in records], dtype=pl.Int64)}
    for field in (*view.entity_fields, *view.feature_fields):
        values = [inputs.get(field.name) for _, inputs in records]
        columns[field.name] = pl.Series(values, dtype=dtype_of(field))
    return pl.DataFrame(columns)


def _verdict(skew: FeatureSkew, tolerated: float) -> Verdict:
    if skew.interval.low > tolerated:
        return Verdict.REGRESSED
    return Verdict.SAFE if skew.interval.high <= tolerated else Verdict.UNDECIDED


def _example(view: FeatureView, table: Table, log: pl.DataFrame, skew: FeatureSkew) -> dict[str, Any]:
    from tidegate.feature.offline import join

    assert skew.first_row is not None
    row = log.slice(skew.first_row, 1)
    names = [field.name for field in view.feature_fields]
    again = join(row.drop(names), _AT, views=[(view, table)])
    return {
        "key": {field.name: row[field.name][0] for field in view.entity_fields},
        "at_us": row[_AT][0],
        "served": row[skew.feature][0],
        "recomputed": again[skew.feature][0],
    }
