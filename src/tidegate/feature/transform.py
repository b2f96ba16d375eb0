"""The one place where rows of a table become events: what is joined offline and put online."""

from __future__ import annotations

import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.feature.aggregate import MAX_STEPS, Kind
from tidegate.feature.view import FeatureView

EVENT, CREATED, EVENT_ID = "__event_us", "__created_us", "__id"
"""Columns of a prepared table beside the entity's and the values': microseconds, and text."""

_PROBES = 8


class InvalidFeatureData(TidegateError):
    """A table cannot be the source of a feature view."""

    code = "invalid_feature_data"


class RowsMixed(TidegateError):
    """A transform looked at other rows, so it cannot be computed of one event alone."""

    code = "feature_rows_mixed"


_DTYPES: dict[DataType, type[pl.DataType]] = {
    DataType.BOOL: pl.Boolean,
    DataType.INT8: pl.Int8,
    DataType.INT16: pl.Int16,
    DataType.INT32: pl.Int32,
    DataType.INT64: pl.Int64,
    DataType.UINT8: pl.UInt8,
    DataType.UINT16: pl.UInt16,
    DataType.UINT32: pl.UInt32,
    DataType.UINT64: pl.UInt64,
    DataType.FLOAT32: pl.Float32,
    DataType.FLOAT64: pl.Float64,
    DataType.STRING: pl.String,
    DataType.CATEGORY: pl.String,
    DataType.TIMESTAMP: pl.Int64,
    DataType.DURATION: pl.Int64,
}


def dtype_of(field: Field) -> type[pl.DataType]:
    """Return the column type of a feature; times are whole microseconds."""
    return _DTYPES[field.type]


def stored_name(column: str, steps_per_unit: int) -> str:
    """Return the name of a column that an aggregate's events keep."""
    return f"{column}/{steps_per_unit}"


def prepare(view: FeatureView, table: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return one event a row: the entity's columns, `EVENT`, `CREATED`, `EVENT_ID` and the values.

    Values are the features, or what the aggregates' events keep (whole steps). Exact repetitions
    are one event; the order of the rows is kept.

    Raises:
        InvalidFeatureData: A column is missing or of another type; a key or an event time is null;
            two rows of one identity say different things.
        RowsMixed: The transform looks at other rows.
    """
    frame = table.lazy().collect()
    _check_columns(view, frame)
    moments = frame.select(
        micros(frame, view.event_time, where=view.name).alias(EVENT),
        micros(frame, view.created_time or view.event_time, where=view.name).alias(CREATED),
        (pl.col(view.event_id).cast(pl.String) if view.event_id else pl.lit("")).alias(EVENT_ID),
    ).with_columns(pl.col(CREATED).fill_null(pl.col(EVENT)))
    source = _cast(view, frame, (*view.entity_fields, *view.source_fields))
    # NaN and null are one kind of gap before a transform too: NaN is above every number that it compares with
    source = source.with_columns(pl.selectors.float().fill_nan(None))
    entity = source.select(field.name for field in view.entity_fields)
    return _check_identity(view, entity.hstack(moments).hstack(_values(view, source)))


def micros(frame: pl.DataFrame, name: str, *, where: str) -> pl.Expr:
    """Return the expression of a column of times as whole microseconds since 1970 UTC.

    Raises:
        InvalidFeatureData: The column is neither a time nor an integer.
    """
    dtype = frame.schema[name]
    if dtype.is_integer():
        return pl.col(name).cast(pl.Int64)
    if isinstance(dtype, pl.Datetime | pl.Date):
        return pl.col(name).dt.timestamp("us")
    raise InvalidFeatureData(
        f"Column {name!r} of {where!r} must hold times (or whole microseconds). Got {dtype}.", field=name
    )


def _check_columns(view: FeatureView, frame: pl.DataFrame) -> None:
    named = [view.event_time, *(name for name in (view.created_time, view.event_id) if name)]
    wanted = [*named, *(field.name for field in (*view.entity_fields, *view.source_fields))]
    absent = sorted({name for name in wanted if name not in frame.columns})
    if absent:
        raise InvalidFeatureData(
            f"The table of view {view.name!r} has no column {', '.join(map(repr, absent))}.",
            hint=f"Its columns: {', '.join(frame.columns)}.",
            view=view.name,
        )
    never_null = [field.name for field in view.entity_fields]
    never_null += [name for name in (view.event_time, view.event_id) if name]
    for name in never_null:
        if n_null := frame[name].null_count():
            raise InvalidFeatureData(
                f"Column {name!r} of view {view.name!r} is null in {n_null} of {frame.height} rows.",
                hint="Leave these rows out: a value that belongs to no one, or to no time, cannot be found.",
                view=view.name,
                field=name,
            )

    if view.event_id and frame[view.event_id].cast(pl.String).str.contains("\0", literal=True).any():
        raise InvalidFeatureData(
            f"Column {view.event_id!r} of view {view.name!r} holds a NUL character, which no identifier has.",
            view=view.name,
            field=view.event_id,
        )


def _cast(view: FeatureView, frame: pl.DataFrame, fields: tuple[Field, ...]) -> pl.DataFrame:
    columns = []
    for field in fields:
        if field.type is DataType.TIMESTAMP and frame.schema[field.name].is_temporal():
            columns.append(micros(frame, field.name, where=view.name).alias(field.name))
        elif field.type is DataType.DURATION and frame.schema[field.name].is_temporal():
            columns.append(pl.col(field.name).dt.total_microseconds())
        else:
            _check_whole(view, field, frame[field.name])
            columns.append(pl.col(field.name).cast(dtype_of(field)))
    try:
        return frame.select(columns)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidFeatureData(
            f"The table of view {view.name!r} does not fit its schema: {reason}", view=view.name
        ) from error


def _check_whole(view: FeatureView, field: Field, column: pl.Series) -> None:
    """Refuse fractions where whole numbers are declared: a key that is cut off is another entity's."""
    if not column.dtype.is_float() or field.type.is_float or not dtype_of(field).is_integer():
        return
    fractions = column.filter(column != column.round())
    if fractions.len():
        raise InvalidFeatureData(
            f"Column {field.name!r} of view {view.name!r} must be {field.type.value}, and holds fractions: "
            f"{fractions[0]}.",
            view=view.name,
            field=field.name,
        )


def _values(view: FeatureView, source: pl.DataFrame) -> pl.DataFrame:
    values = _transformed(view, source)
    rows = range(0, source.height, max(1, source.height // _PROBES))
    for row in rows if view.transform and source.height > 1 else ():
        alone = _transformed(view, source[row : row + 1])
        if alone.height != 1 or not alone.equals(values[row : row + 1]):
            raise RowsMixed(
                f"The transform of view {view.name!r} gives another value for a row alone than among others.",
                hint="Use expressions of one row only; for what happened before, declare an aggregate.",
                view=view.name,
            )
    return values


def _transformed(view: FeatureView, source: pl.DataFrame) -> pl.DataFrame:
    try:
        made = source.with_columns(**view.transform) if view.transform else source
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidFeatureData(
            f"The transform of view {view.name!r} cannot be computed: {reason}", view=view.name
        ) from error
    if made.height != source.height:
        raise RowsMixed(f"The transform of view {view.name!r} changes the number of rows.", view=view.name)
    if view.aggregates:
        _check_rates(view, made)
        return made.select(_steps(view, made, *item) for item in view.plan.stored)
    features = _cast(view, made, view.feature_fields)
    # NaN and null are one kind of gap, so that the declared default stands in for both.
    return features.with_columns(pl.selectors.float().fill_nan(None))


def _check_rates(view: FeatureView, frame: pl.DataFrame) -> None:
    for name, aggregate in view.aggregates.items():
        if aggregate.kind is Kind.RATE and frame.schema[aggregate.column] != pl.Boolean:
            raise InvalidFeatureData(
                f"Rate {name!r} of view {view.name!r} is over {aggregate.column!r}, which must be a truth "
                f"value. Got {frame.schema[aggregate.column]}.",
                view=view.name,
                field=name,
            )


def _steps(view: FeatureView, frame: pl.DataFrame, column: str, steps_per_unit: int) -> pl.Series:
    """Return a column in whole steps, null where it has no value."""
    values = frame[column]
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise InvalidFeatureData(
            f"Column {column!r} of view {view.name!r} must be a number or a truth value. Got {values.dtype}.",
            view=view.name,
        )
    steps = (values.cast(pl.Float64).fill_nan(None) * steps_per_unit).round()
    largest = steps.abs().max()
    if isinstance(largest, float) and largest > MAX_STEPS:
        raise InvalidFeatureData(
            f"Column {column!r} of view {view.name!r} has a value of {largest / steps_per_unit:g}, more than "
            f"{MAX_STEPS / steps_per_unit:g}.",
            hint="Declare fewer steps per unit.",
            view=view.name,
        )
    return steps.cast(pl.Int64).alias(stored_name(column, steps_per_unit))


def _check_identity(view: FeatureView, events: pl.DataFrame) -> pl.DataFrame:
    identity = [*(field.name for field in view.entity_fields), EVENT, CREATED, EVENT_ID]
    if not events.select(identity).is_duplicated().any():
        return events
    distinct = events.unique(maintain_order=True, keep="first")
    conflicts = distinct.filter(distinct.select(identity).is_duplicated())
    if conflicts.height:
        raise InvalidFeatureData(
            f"{conflicts.height} rows of view {view.name!r} have the key and times of another row and other "
            f"values; the first: {conflicts.select(identity).row(0, named=True)}.",
            hint="Leave out all but one, or name a column that tells them apart as event_id.",
            view=view.name,
        )
    return distinct


def validated(view: FeatureView, columns: list[str]) -> None:
    """Refuse a view whose columns would fall upon others of the same name.

    Raises:
        InvalidSetting: The view's features or its own columns are among `columns`.
    """
    ours = {field.name for field in view.feature_fields}
    taken = sorted(ours & set(columns))
    if taken:
        raise InvalidSetting(
            f"Features of view {view.name!r} have names that are taken: {', '.join(taken)}.",
            view=view.name,
        )
