"""Reading features by key, with their freshness. Light: a data-plane worker imports this.

A store keeps the events themselves, not what follows from them: so it does not matter in which
order or how often an event is put, and what was known at a moment can be asked again later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.field import Field
from tidegate.core.error import TidegateError
from tidegate.feature.aggregate import figure
from tidegate.feature.block import Blocks, columns_of
from tidegate.feature.view import Plan, Policy, State, stand_in


class OnlineStoreUnavailable(TidegateError):
    """The store of online features cannot be read or written."""

    code = "online_store_unavailable"


class Event(NamedTuple):
    """One event of one key, as a store keeps it.

    Attributes:
        event_us: When it was true, microseconds since 1970 UTC; within +-2**53.
        created_us: When it became known.
        event_id: Tells events of one key and time apart, UTF-8 without NUL.
        payload: Its values, opaque to the store.
    """

    event_us: int
    created_us: int
    event_id: bytes
    payload: bytes


Kept = tuple[int, int, bytes, bytes]
"""An event as a bare tuple: hundreds are read for one trailing aggregate, and names cost time."""


Moments = int | Sequence[int]
"""Microseconds since 1970 UTC: one moment for all keys, or one a key."""


def each(moments: Moments, count: int) -> Sequence[int]:
    """Return a moment a key."""
    return [moments] * count if isinstance(moments, int) else moments


class OnlineStore(Protocol):
    """The port: a log of events by view and key.

    Two events are one if all four parts are equal. Events of a key are ordered by event time, then
    created time, identifier and payload.

    Every method raises OnlineStoreUnavailable if the store cannot do it.
    """

    def put(self, view: str, events: Sequence[tuple[bytes, Event]]) -> int:
        """Keep events, each with its key, and return how many were new. All are kept, or an error raised."""
        ...

    def latest(self, view: str, keys: Sequence[bytes], *, at_us: Moments) -> list[Event | None]:
        """Return for each key its last event with event and created time before `at_us`."""
        ...

    def within(
        self, view: str, keys: Sequence[bytes], *, since_us: Moments, at_us: Moments
    ) -> list[list[Kept]]:
        """Return for each key its events from `since_us` on with event and created time before `at_us`."""
        ...

    def forget(self, view: str, *, before_us: int) -> int:
        """Remove events older than `before_us`, except the last of each key; return how many."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Pushed(msgspec.Struct, frozen=True):
    """What became of events that were sent.

    Attributes:
        accepted: How many the store has now.
        new: How many of them it did not have before.
    """

    accepted: int
    new: int


class FeatureRows(msgspec.Struct, frozen=True):
    """Features of several keys, in the order asked.

    Attributes:
        columns: Feature -> values, shape (n_keys,); object for text, int64 microseconds for times.
        states: A `State` a key, shape (n_keys,), uint8.
        ages_us: Age of the latest event, microseconds, shape (n_keys,); -1 where missing.
    """

    columns: dict[str, npt.NDArray[Any]]
    states: npt.NDArray[np.uint8]
    ages_us: npt.NDArray[np.int64]

    def take(self, index: npt.NDArray[np.intp] | slice) -> FeatureRows:
        """Return some of the rows, in the order given."""
        columns = {name: column[index] for name, column in self.columns.items()}
        return FeatureRows(columns, self.states[index], self.ages_us[index])

    def rows_with(self, plan: Plan, policy: Policy) -> npt.NDArray[np.int64]:
        """Return the rows to which a policy of the view applies."""
        states = [state for state in State if plan.policy(state) is policy]
        return np.flatnonzero(np.isin(self.states, states))


def read(
    plan: Plan, store: OnlineStore, keys: Sequence[bytes], *, at_us: Moments, blocks: Blocks | None = None
) -> FeatureRows:
    """Return what was known of each key strictly before `at_us`, as the offline join would.

    Args:
        plan: Of the view.
        store: Where its events are.
        keys: From `plan.key_of`; an empty one finds nothing.
        at_us: The moment of all, or of each.
        blocks: What was read of this store before, refreshed.

    Raises:
        OnlineStoreUnavailable: The store cannot be read.
    """
    moments = each(at_us, len(keys))
    if plan.aggregates:
        return _read_aggregates(plan, store, keys, moments, blocks)
    return _read_values(plan, store, keys, moments)


def unread(plan: Plan, count: int) -> FeatureRows:
    """Return what stands in for features that were not read."""
    rows = [[stand_in(field) for field in plan.features]] * count
    return _gather(plan.features, rows, [State.UNREAD] * count, [-1] * count)


def _read_values(
    plan: Plan, store: OnlineStore, keys: Sequence[bytes], moments: Sequence[int]
) -> FeatureRows:
    defaults = [stand_in(field) for field in plan.features]
    rows, states, ages = [], [], []
    for event, at_us in zip(store.latest(plan.name, keys, at_us=moments), moments, strict=True):
        if event is None:
            rows.append(defaults)
            states.append(State.MISSING)
            ages.append(-1)
            continue
        age = at_us - event.event_us
        ages.append(age)
        if age > plan.ttl_us:
            rows.append(defaults)
            states.append(State.STALE)
            continue
        values = decode(event.payload)
        rows.append([d if v is None else v for v, d in zip(values, defaults, strict=True)])
        states.append(State.FRESH)
    return _gather(plan.features, rows, states, ages)


def _read_aggregates(
    plan: Plan, store: OnlineStore, keys: Sequence[bytes], moments: Sequence[int], blocks: Blocks | None
) -> FeatureRows:
    defaults = [stand_in(field) for field in plan.features]
    position = {item: index for index, item in enumerate(plan.stored)}
    places = [None if item.stored is None else position[item.stored] for item in plan.aggregates]
    known = [
        None if blocks is None else blocks.find(plan, key, at_us)
        for key, at_us in zip(keys, moments, strict=True)
    ]
    rest = [row for row, block in enumerate(known) if block is None]
    found = iter(
        store.within(
            plan.name,
            [keys[row] for row in rest],
            since_us=[moments[row] - plan.ttl_us for row in rest],
            at_us=[moments[row] for row in rest],
        )
        if rest
        else ()
    )
    rows, states, ages = [], [], []
    for block, at_us in zip(known, moments, strict=True):
        if block is None:
            figures, latest_us = _figures(plan, places, next(found), at_us)
        else:
            latest_us = block.latest(at_us - plan.ttl_us, at_us)
            asked = zip(plan.aggregates, places, strict=True)
            figures = [block.figure(aggregate, place, at_us) for aggregate, place in asked]
        rows.append([d if value is None else value for value, d in zip(figures, defaults, strict=True)])
        states.append(State.MISSING if latest_us is None else State.FRESH)
        ages.append(-1 if latest_us is None else at_us - latest_us)
    return _gather(plan.features, rows, states, ages)


def _figures(
    plan: Plan, places: list[int | None], events: list[Kept], at_us: int
) -> tuple[list[float | int | None], int | None]:
    """Return the figures over a window's events, and the time of the last one."""
    # The one created last counts of several with one time and identifier: they come in this
    # order, so the last one stays, in the place of the first: the times keep their order.
    current = {(event_us, event_id): payload for event_us, _, event_id, payload in events}
    times = [event_us for event_us, _ in current]
    columns = columns_of(list(current.values()))
    figures = []
    for aggregate, place in zip(plan.aggregates, places, strict=True):
        first = bisect_left(times, at_us - aggregate.window_us)
        held = times if place is None or not times else columns[place]
        figures.append(figure(aggregate, held[first:]))
    return figures, times[-1] if times else None


def _gather(
    fields: tuple[Field, ...], rows: list[list[Any]], states: list[State], ages: list[int]
) -> FeatureRows:
    columns: dict[str, npt.NDArray[Any]] = {}
    for index, field in enumerate(fields):
        column = np.empty(len(rows), dtype=field.type.dtype)
        column[:] = [row[index] for row in rows]
        columns[field.name] = column
    return FeatureRows(columns, np.array(states, dtype=np.uint8), np.array(ages, dtype=np.int64))


encode: Callable[[list[Any]], bytes] = msgspec.msgpack.Encoder().encode
"""Write an event's values as its payload."""

decode: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list[Any]).decode
"""Read an event's values from its payload."""
