"""Trailing aggregates of keys that are asked again and again: events read once, figures by two searches.

Within one state of the store the events of a stretch of time do not change. A block holds them for one
key, decoded and summed up from its beginning, so that a figure over any window within is a difference of
two sums: the same whole steps, and so the same last bit, as when each event is added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from tidegate.feature.aggregate import Aggregate, Kind
from tidegate.feature.view import Plan

if TYPE_CHECKING:
    from tidegate.feature.online import Kept, OnlineStore

MAX_EVENTS = 500_000
"""Events of all blocks of one process: some 100 bytes each. Beyond it all are read anew."""

_MARGIN = 8
"""A block reaches beyond what it was read for by this part of the longest window, both ways: so that it
serves later and earlier moments too."""


@runtime_checkable
class Versioned(Protocol):
    """A store that can say, at next to no cost, whether it has changed."""

    def version(self) -> Hashable:
        """Return something that is another after anybody has put or removed an event."""
        ...


class Block:
    """The events of one key in a stretch of time."""

    __slots__ = ("_known", "_n", "_sums", "is_plain", "n_events", "since_us", "times", "until_us")

    def __init__(
        self, events: Sequence[Kept], columns: Sequence[Sequence[int | None]], since_us: int, until_us: int
    ) -> None:
        """Sum up.

        Args:
            events: All of the stretch that were known before its end, in order.
            columns: What they keep, a column an item of `Plan.stored`.
            since_us: Beginning of the stretch.
            until_us: Its end, exclusive.
        """
        self.since_us = since_us
        self.until_us = until_us
        self.n_events = len(events)
        self.times = [event[0] for event in events]
        # Where one event corrects another, what counts depends on when it is asked.
        self.is_plain = len({(event[0], event[2]) for event in events}) == len(events)
        self._known = list(accumulate((event[1] for event in events), max))
        self._sums = [list(accumulate((value or 0 for value in column), initial=0)) for column in columns]
        self._n = [list(accumulate((value is not None for value in column), initial=0)) for column in columns]

    def holds(self, since_us: int, at_us: int) -> bool:
        """Tell whether the block can say what was known at a moment, back to `since_us`."""
        if not (self.is_plain and self.since_us <= since_us and at_us <= self.until_us):
            return False
        end = bisect_left(self.times, at_us)
        return end == 0 or self._known[end - 1] < at_us

    def figure(self, aggregate: Aggregate, place: int | None, at_us: int) -> float | int | None:
        """Return a figure at a moment, as `aggregate.figure` would."""
        first, end = bisect_left(self.times, at_us - aggregate.window_us), bisect_left(self.times, at_us)
        if aggregate.kind is Kind.COUNT or place is None:
            return end - first
        n_known = self._n[place][end] - self._n[place][first]
        if not n_known:
            return None
        total = self._sums[place][end] - self._sums[place][first]
        return float(total) / float(n_known * aggregate.steps_per_unit)

    def latest(self, since_us: int, at_us: int) -> int | None:
        """Return the time of the last event before a moment, from `since_us` on."""
        end = bisect_left(self.times, at_us)
        return self.times[end - 1] if end and self.times[end - 1] >= since_us else None


class Blocks:
    """The blocks of one store, dropped whenever it changes."""

    def __init__(self, store: OnlineStore, versioned: Versioned) -> None:
        self._store = store
        self._versioned = versioned
        self._version: Hashable = None
        self._blocks: dict[tuple[int, bytes], Block] = {}
        self._plans: dict[int, Plan] = {}  # held, so that no other plan gets the same id
        self._n_events = 0

    def refresh(self) -> None:
        """Drop what was read if the store has changed since; called before each read.

        Raises:
            OnlineStoreUnavailable: The store cannot be read.
        """
        version = self._versioned.version()
        if version != self._version or self._n_events > MAX_EVENTS:
            self._version = version
            self._blocks.clear()
            self._plans.clear()
            self._n_events = 0

    def find(self, plan: Plan, key: bytes, at_us: int) -> Block | None:
        """Return a block that holds a key's events as of a moment; None where none can.

        Raises:
            OnlineStoreUnavailable: The store cannot be read.
        """
        name = (id(plan), key)
        since_us = at_us - plan.ttl_us
        block = self._blocks.get(name)
        if block is None or not (block.since_us <= since_us and at_us <= block.until_us):
            margin_us = plan.ttl_us // _MARGIN
            block = self._read(plan, key, since_us - margin_us, at_us + margin_us)
            self._plans[id(plan)] = plan
            self._blocks[name] = block
            self._n_events += block.n_events
        return block if block.holds(since_us, at_us) else None

    def _read(self, plan: Plan, key: bytes, since_us: int, until_us: int) -> Block:
        (events,) = self._store.within(plan.name, [key], since_us=since_us, at_us=until_us)
        columns = columns_of([event[3] for event in events])
        return Block(events, columns or [()] * len(plan.stored), since_us, until_us)


def columns_of(payloads: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """Return the columns of many events' values; none of no event.

    They are read at once, as one array, whose head is the mark 0xdd and the length.
    """
    rows = _decode_rows(b"".join((b"\xdd", len(payloads).to_bytes(4, "big"), *payloads)))
    return list(zip(*rows, strict=True))


_decode_rows: Callable[[bytes], list[list[Any]]] = msgspec.msgpack.Decoder(list[list[Any]]).decode
