"""From a view's table, or one new event, into the online store."""

from __future__ import annotations

from collections.abc import Mapping
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

    Args:
        view: What the row is an event of.
        row: The columns of the view's table; times as datetimes or whole microseconds.
        store: Where it goes.

    Raises:
        InvalidFeatureData: The row is none of this view's table.
        OnlineStoreUnavailable: The store failed; pushing again is safe.
    """
    schema = _table_schema(view, row)
    try:
        table = pl.DataFrame({name: [row.get(name)] for name in schema}, schema=schema)
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidFeatureData(
            f"The event does not fit the table of view {view.name!r}: {reason}", view=view.name
        ) from error
    return store.put(view.name, events_of(view, table)) == 1


def _table_schema(view: FeatureView, row: Mapping[str, Any]) -> dict[str, pl.DataType | type[pl.DataType]]:
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        field.name: _push_dtype(field, row.get(field.name))
        for field in (*view.entity_fields, *view.source_fields)
    }
    for name in (view.event_time, view.created_time):
        if name:
            schema[name] = _time_dtype(row.get(name))
    if view.event_id and view.event_id not in schema:
        schema[view.event_id] = pl.String if isinstance(row.get(view.event_id), str) else pl.Int64
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
