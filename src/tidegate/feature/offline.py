"""The point-in-time join: of each row, what was known strictly before its own time."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tidegate.contract.field import Field
from tidegate.feature.aggregate import Aggregate, Kind
from tidegate.feature.transform import (
    CREATED,
    EVENT,
    EVENT_ID,
    InvalidFeatureData,
    dtype_of,
    micros,
    prepare,
    stored_name,
    validated,
)
from tidegate.feature.view import FeatureView, State, stand_in

Table = pl.DataFrame | pl.LazyFrame

_ROW, _KEY, _AT, _ENTER, _EXIT, _RANK = "__row", "__key", "__at", "__enter", "__exit", "__rank"


def state_column(view: FeatureView) -> str:
    """Return the name of the column that says whether a view's values are fresh, stale or missing."""
    return f"{view.name}__state"


def age_column(view: FeatureView) -> str:
    """Return the name of the column of a view's age in microseconds, null where missing."""
    return f"{view.name}__age_us"


def join(rows: Table, at: str, *, views: Sequence[tuple[FeatureView, Table]]) -> pl.DataFrame:
    """Add to each row the features that were known strictly before its time.

    A row of a view's table is known from the later of its event time and its created time on,
    exclusively. Of the known ones, that with the latest event time counts (then the latest created
    time, then the largest identifier) if it is no older than the view's time to live.

    Args:
        rows: What is asked about; holds the key columns of every view.
        at: Column of the time of each row: a time, or whole microseconds since 1970 UTC.
        views: Views and their tables.

    Returns:
        The rows in their order, then for each view its features, `{view}__state` (fresh, stale or
        missing) and `{view}__age_us`. What is stale or missing has the features' defaults,
        whatever the policy: whoever trains decides by the state.

    Raises:
        InvalidFeatureData: A table or the rows lack a column, or hold what cannot be.
        InvalidSetting: Two columns would have the same name.
        RowsMixed: A transform looks at other rows.
    """
    asked = rows.lazy().collect()
    if at not in asked.columns or asked[at].null_count():
        raise InvalidFeatureData(f"Every row needs its time in a column {at!r}.", field=at)
    joined = asked
    for view, table in views:
        validated(view, joined.columns)
        joined = joined.hstack(_features(view, asked, at, prepare(view, table)))
    return joined


def _features(view: FeatureView, rows: pl.DataFrame, at: str, events: pl.DataFrame) -> pl.DataFrame:
    entity = [field.name for field in view.entity_fields]
    absent = [name for name in entity if name not in rows.columns]
    if absent:
        raise InvalidFeatureData(
            f"The rows have no column {absent[0]!r}, by which view {view.name!r} is keyed.", view=view.name
        )
    keys = events.select(entity).unique(maintain_order=True).with_row_index(_KEY)
    events = events.join(keys, on=entity, how="left", maintain_order="left").drop(entity)
    asked = (
        _keyed(view, rows, at)
        .with_row_index(_ROW)
        .join(keys, on=entity, how="left")
        .select(_ROW, _KEY, _AT)
        .sort(_AT, _ROW)
    )
    found = _latest(asked, events)
    return _aggregated(view, asked, events, found) if view.aggregates else _valued(view, found)


def _keyed(view: FeatureView, rows: pl.DataFrame, at: str) -> pl.DataFrame:
    """Return the time and the key of each row, of the types that the view declares."""
    for field in view.entity_fields:
        # A number would become a text, and then never be found.
        if field.type.is_text and rows.schema[field.name].is_numeric():
            raise InvalidFeatureData(
                f"Column {field.name!r} of the rows, by which view {view.name!r} is keyed, must be "
                f"{field.type.value}. Got {rows.schema[field.name]}.",
                view=view.name,
                field=field.name,
            )
    keys = (pl.col(field.name).cast(dtype_of(field)) for field in view.entity_fields)
    try:
        return rows.select(micros(rows, at, where="rows").alias(_AT), *keys)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidFeatureData(
            f"The rows do not fit the key of view {view.name!r}: {reason}", view=view.name
        ) from error


def _latest(asked: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return the latest known event of each asked row, in the order of the rows.

    In the order in which events become known, the answer is the running maximum of (event time,
    created time, identifier); only the events that raise it can ever be one.
    """
    known = (
        events.sort(EVENT, CREATED, EVENT_ID)
        .with_row_index(_RANK)
        .with_columns(pl.max_horizontal(EVENT, CREATED).alias(_ENTER))
        .sort(_ENTER, _RANK)
        .filter(pl.col(_RANK) == pl.col(_RANK).cum_max().over(_KEY))
        .unique([_KEY, _ENTER], keep="last", maintain_order=True)
    )
    return _before(asked, known, _ENTER).sort(_ROW)


def _before(asked: pl.DataFrame, known: pl.DataFrame, time: str) -> pl.DataFrame:
    """Return each asked row with the last row of its key in `known` strictly before it."""
    return asked.join_asof(
        known, left_on=_AT, right_on=time, by=_KEY, allow_exact_matches=False, check_sortedness=False
    )


def _valued(view: FeatureView, found: pl.DataFrame) -> pl.DataFrame:
    age = pl.col(_AT) - pl.col(EVENT)
    fresh = age <= view.plan.ttl_us  # null where there is no event
    columns = [_filled(pl.when(fresh).then(pl.col(field.name)), field) for field in view.feature_fields]
    state = (
        pl.when(fresh)
        .then(pl.lit(State.FRESH.name.lower()))
        .when(pl.col(EVENT).is_null())
        .then(pl.lit(State.MISSING.name.lower()))
        .otherwise(pl.lit(State.STALE.name.lower()))
    )
    return found.select(*columns, state.alias(state_column(view)), age.alias(age_column(view)))


def _aggregated(
    view: FeatureView, asked: pl.DataFrame, events: pl.DataFrame, found: pl.DataFrame
) -> pl.DataFrame:
    plan = view.plan
    identity = [_KEY, EVENT, EVENT_ID]
    versions = events.sort(*identity, CREATED).with_columns(
        pl.max_horizontal(EVENT, CREATED).alias(_ENTER),
        pl.col(CREATED).shift(-1).over(identity).alias("__next"),
    )
    sums: dict[int, pl.DataFrame] = {}
    for aggregate in plan.aggregates:
        if aggregate.window_us not in sums:
            sums[aggregate.window_us] = _sums(asked, versions, aggregate.window_us, plan.stored)
    columns = [
        sums[aggregate.window_us].select(_filled(_figure(aggregate), field)).to_series()
        for field, aggregate in zip(plan.features, plan.aggregates, strict=True)
    ]
    age = found[_AT] - found[EVENT]
    within = (age <= plan.ttl_us).fill_null(value=False)
    states = pl.select(
        pl.when(within)
        .then(pl.lit(State.FRESH.name.lower()))
        .otherwise(pl.lit(State.MISSING.name.lower()))
        .alias(state_column(view)),
        pl.when(within).then(age).alias(age_column(view)),
    )
    return pl.DataFrame(columns).hstack(states)


def _sums(
    asked: pl.DataFrame, versions: pl.DataFrame, window_us: int, stored: Sequence[tuple[str, int]]
) -> pl.DataFrame:
    """Return count and sums over the window before each asked row, in the order of the rows.

    A version counts from when it is known until it leaves the window or is corrected; what counts
    at a moment is what came before it less what went before it.
    """
    names = [stored_name(*item) for item in stored]
    counted = versions.with_columns(
        pl.min_horizontal(pl.col(EVENT) + window_us, "__next").alias(_EXIT)
    ).filter(pl.col(_EXIT) > pl.col(_ENTER))

    def up_to(time: str) -> pl.DataFrame:
        running = counted.sort(time).select(
            _KEY,
            time,
            pl.col(_KEY).cum_count().over(_KEY).cast(pl.Int64).alias("n"),
            *(_known(name).cast(pl.Int64).cum_sum().over(_KEY).alias(f"n/{name}") for name in names),
            *(pl.col(name).fill_null(0).cum_sum().over(_KEY).alias(name) for name in names),
        )
        running = running.unique([_KEY, time], keep="last", maintain_order=True)
        figures = ["n", *(f"n/{name}" for name in names), *names]
        return _before(asked, running, time).sort(_ROW).select(pl.col(figures).fill_null(0))

    came, went = up_to(_ENTER), up_to(_EXIT)
    return came.select(came[name] - went[name] for name in came.columns)


def _known(name: str) -> pl.Expr:
    return pl.col(name).is_not_null()


def _figure(aggregate: Aggregate) -> pl.Expr:
    if aggregate.kind is Kind.COUNT:
        return pl.col("n")
    name = stored_name(aggregate.column, aggregate.steps_per_unit)
    n_known = pl.col(f"n/{name}")
    steps = (n_known * aggregate.steps_per_unit).cast(pl.Float64)
    return pl.when(n_known > 0).then(pl.col(name).cast(pl.Float64) / steps)


def _filled(values: pl.Expr, field: Field) -> pl.Expr:
    default = stand_in(field)
    known = values if default is None else values.fill_null(default)
    return known.cast(dtype_of(field)).alias(field.name)
