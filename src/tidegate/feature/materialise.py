"""From a view's table, or one new event, into the online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.core.error import InvalidSetting
from tidegate.feature.online import Event, OnlineStore, encode
from tidegate.feature.transform import CREATED, EVENT, EVENT_ID, InvalidFeatureData, dtype_of, prepare
from tidegate.feature.view import FeatureView

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PUT_EVENTS = 10_000  # a transaction of this size takes some tens of milliseconds


class Materialised(msgspec.Struct, frozen=True):
    """What was put into a store.

    Attributes:
        n_events: Events of the table within the bounds.
        n_new: Those that the store did not have.
    """

    n_events: int
    n_new: int


def events_of(view: FeatureView, table: pl.DataFrame | pl.LazyFrame) -> list[tuple[bytes, Event]]:
    """Return the events of a table as a store keeps them, each with its key.

    Raises:
        InvalidFeatureData: The table cannot be this view's source.
        RowsMixed: The transform looks at other rows.
    """
    prepared = prepare(view, table)
    plan = view.plan
    n_key = len(plan.entity)
    columns = [field.name for field in plan.entity] + [EVENT, CREATED, EVENT_ID]
    rest = [name for name in prepared.columns if name not in columns]
    keys: dict[tuple[Any, ...], bytes] = {}
    events = []
    identities = prepared.select(columns).iter_rows()
    values = prepared.select(rest).rows() if rest else [()] * prepared.height
    for (*entity, event_us, created_us, event_id), row in zip(identities, values, strict=True):
        name = tuple(entity[:n_key])
        key = keys.get(name)
        if key is None:
            key = keys[name] = plan.key_of(name)
        events.append((key, Event(event_us, created_us, event_id.encode(), encode(list(row)))))
    return events


def materialise(
    view: FeatureView,
    table: pl.DataFrame | pl.LazyFrame,
    store: OnlineStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Materialised:
    """Put a table's events into a store; repeating it changes nothing. Bounds make it a backfill.

    Args:
        view: What the table is the source of.
        table: Its rows.
        store: Where they go.
        since: First event time to put, aware.
        until: First event time not to put, aware.

    Raises:
        InvalidFeatureData: The table cannot be this view's source. Nothing was put.
        OnlineStoreUnavailable: The store failed; what was put before stays, and repeating is safe.
    """
    first, end = _moment_us(since), _moment_us(until)
    events = [
        (key, event)
        for key, event in events_of(view, table)
        if (first is None or event.event_us >= first) and (end is None or event.event_us < end)
    ]
    n_new = sum(
        store.put(view.name, events[start : start + _PUT_EVENTS])
        for start in range(0, len(events), _PUT_EVENTS)
    )
    return Materialised(len(events), n_new)


def push(view: FeatureView, row: Mapping[str, Any], store: OnlineStore) -> bool:
    """Put one event by the view's own transform, and tell whether the store did not have it.

    Raises:
        InvalidFeatureData: The row is none of this view's table.
        OnlineStoreUnavailable: The store failed; pushing again is safe.
    """
    return push_all(view, [row], store).n_new == 1


def push_all(view: FeatureView, rows: Sequence[Mapping[str, Any]], store: OnlineStore) -> Materialised:
    """Put events by the view's own transform, all or none.

    Args:
        view: What the rows are events of.
        rows: The columns of the view's table; times as datetimes, whole microseconds, or RFC 3339.
        store: Where they go.

    Raises:
        InvalidFeatureData: A row is none of this view's table. Nothing was put.
        OnlineStoreUnavailable: The store failed; pushing again is safe.
    """
    times = _time_columns(view)
    plain = [
        {name: _moment(view, value) if name in times else value for name, value in row.items()}
        for row in rows
    ]
    schema = _table_schema(view, plain)
    try:
        table = pl.DataFrame({name: [row.get(name) for row in plain] for name in schema}, schema=schema)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidFeatureData(
            f"An event does not fit the table of view {view.name!r}: {reason}", view=view.name
        ) from error
    events = events_of(view, table)
    return Materialised(len(events), store.put(view.name, events))


def _time_columns(view: FeatureView) -> set[str]:
    named = {view.event_time, view.created_time or view.event_time}
    return named | {field.name for field in view.source_fields if field.type is DataType.TIMESTAMP}


def _moment(view: FeatureView, value: Any) -> Any:
    """Return a time that came as text as whole microseconds."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidFeatureData(
            f"An event of view {view.name!r} has the time {value[:40]!r}, which is none.",
            hint="Send RFC 3339 with an offset, or whole microseconds since 1970 UTC.",
            view=view.name,
        ) from error
    if moment.tzinfo is None:
        raise InvalidFeatureData(
            f"An event of view {view.name!r} has the time {value[:40]!r} without an offset from UTC.",
            hint="Write for example 2013-10-01T06:00:00Z.",
            view=view.name,
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _table_schema(
    view: FeatureView, rows: Sequence[Mapping[str, Any]]
) -> dict[str, pl.DataType | type[pl.DataType]]:
    def some(name: str) -> Any:
        return next((row[name] for row in rows if row.get(name) is not None), None)

    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        field.name: _push_dtype(field, some(field.name))
        for field in (*view.entity_fields, *view.source_fields)
    }
    for name in (view.event_time, view.created_time):
        if name:
            schema[name] = _time_dtype(some(name))
    if view.event_id and view.event_id not in schema:
        schema[view.event_id] = pl.String if isinstance(some(view.event_id), str) else pl.Int64
    return schema


def _push_dtype(field: Field, value: Any) -> pl.DataType | type[pl.DataType]:
    if field.type is DataType.TIMESTAMP:
        return _time_dtype(value)
    if field.type is DataType.DURATION and isinstance(value, timedelta):
        return pl.Duration("us")
    return dtype_of(field)


def _time_dtype(value: Any) -> pl.DataType | type[pl.DataType]:
    if isinstance(value, datetime):
        return pl.Datetime("us", "UTC" if value.tzinfo else None)
    return pl.Int64


def _moment_us(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidSetting(f"A bound is a time with its zone. Got {moment.isoformat()}.")
    return (moment - _EPOCH) // timedelta(microseconds=1)
