"""What a feature view must say, by looking at every event for every question."""

import math
from datetime import timedelta
from typing import Any, NamedTuple

import polars as pl
from hypothesis import strategies as st

import tidegate as tg
from tidegate.feature.aggregate import count, mean, rate
from tidegate.feature.view import FeatureView

TTL = 5
WINDOWS = (3, 7)


class Entity(tg.Input):
    key: str
    part: int


class Source(tg.Input):
    value: float
    yes: bool


class Features(tg.Output):
    value: float
    doubled: float
    label: str = tg.field(default="none")


class Row(NamedTuple):
    key: str
    part: int
    event: int
    created: int | None
    event_id: int
    value: float | None
    yes: bool | None


class Asked(NamedTuple):
    key: str
    part: int
    at: int


def us(n: int) -> timedelta:
    return timedelta(microseconds=n)


def value_view(**options: Any) -> FeatureView:
    return FeatureView(
        name="latest",
        entity=Entity,
        source=Source,
        event_time="event",
        created_time="created",
        event_id="event_id",
        ttl=us(TTL),
        transform={
            "doubled": pl.col("value") * 2,
            "label": pl.when(pl.col("yes")).then(pl.lit("yes")).otherwise(pl.lit("no")),
        },
        features=Features,
        **options,
    )


def aggregate_view(**options: Any) -> FeatureView:
    short, long = map(us, WINDOWS)
    return FeatureView(
        name="trailing",
        entity=Entity,
        source=Source,
        event_time="event",
        created_time="created",
        event_id="event_id",
        transform={"negative": -pl.col("value")},
        aggregates={
            "n_short": count(short),
            "n_long": count(long),
            "mean_short": mean("value", short),
            "mean_long": mean("negative", long, steps_per_unit=1000),
            "rate_long": rate("yes", long),
        },
        **options,
    )


def table(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        schema={
            "key": pl.String,
            "part": pl.Int64,
            "event": pl.Int64,
            "created": pl.Int64,
            "event_id": pl.Int64,
            "value": pl.Float64,
            "yes": pl.Boolean,
        },
        orient="row",
    )


def questions(asked: list[Asked]) -> pl.DataFrame:
    return pl.DataFrame(asked, schema={"key": pl.String, "part": pl.Int64, "at": pl.Int64}, orient="row")


def created(row: Row) -> int:
    return row.event if row.created is None else row.created


def known(rows: list[Row], asked: Asked) -> list[Row]:
    """Rows of the key that were true and known strictly before the question, last one last."""
    found = [
        row
        for row in rows
        if (row.key, row.part) == (asked.key, asked.part) and row.event < asked.at and created(row) < asked.at
    ]
    return sorted(found, key=lambda row: (row.event, created(row), str(row.event_id)))


def latest(rows: list[Row], asked: Asked) -> tuple[float, float, str, str, int | None]:
    found = known(rows, asked)
    if not found:
        return math.nan, math.nan, "none", "missing", None
    last = found[-1]
    age = asked.at - last.event
    if age > TTL:
        return math.nan, math.nan, "none", "stale", age
    value = math.nan if last.value is None else last.value
    return value, value * 2, "yes" if last.yes else "no", "fresh", age


def trailing(rows: list[Row], asked: Asked) -> tuple[int, int, float, float, float, str, int | None]:
    current = {(row.event, row.event_id): row for row in known(rows, asked)}
    short, long = ([r for r in current.values() if r.event >= asked.at - window] for window in WINDOWS)
    near = [round(row.value * 1e6) for row in short if row.value is not None]
    far = [round(-row.value * 1000) for row in long if row.value is not None]
    told = [row.yes for row in long if row.yes is not None]
    return (
        len(short),
        len(long),
        sum(near) / (len(near) * 1e6) if near else math.nan,
        sum(far) / (len(far) * 1000) if far else math.nan,
        sum(told) / len(told) if told else math.nan,
        "fresh" if long else "missing",
        asked.at - max(row.event for row in long) if long else None,
    )


def same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    """Equal to the bit, where NaN is NaN."""
    return len(ours) == len(theirs) and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        for a, b in zip(ours, theirs, strict=True)
    )


_keys = st.sampled_from(["a", "b"])
_parts = st.integers(0, 1)
_times = st.integers(0, 20)
# Quarters, so that the oracle's rounding is no question.
_values = st.none() | st.integers(-40, 40).map(lambda n: n / 4)

_answers = st.none() | st.booleans()

events = st.lists(
    st.builds(Row, _keys, _parts, _times, st.none() | _times, st.integers(0, 12), _values, _answers),
    max_size=25,
    unique_by=lambda row: (row.key, row.part, row.event, created(row), row.event_id),
)
asked = st.lists(st.builds(Asked, st.sampled_from(["a", "b", "c"]), _parts, st.integers(-1, 30)), max_size=12)
