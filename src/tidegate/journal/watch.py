"""What a running release has counted: the first event of each key, and how keys were drawn.

A request whose user has had an error before tells nothing new about the version: users who meet one
error meet many, and counting them all turned a nominal 1% of false alarms into 27%. So for every key
only its first event counts, found once, here, in the order of request ids within a cut of the journal.

An event comes with the candidate's share of what could have had it. For a key seen for the first time
that is the share of its phase, exactly. For one that is seen again it is the candidate's share of the
keys still at risk (exact if versions do not differ, however keys differ) and of their traffic (exact if
requests are alike): both ends are kept, widened to a grid so that counts of like events add up, and
each test takes the end that cannot favour it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.journal.decode import Turns
from tidegate.journal.firsts import ENTRY, KeySet
from tidegate.journal.record import Flag, RecordKind

Column = npt.NDArray[Any]

ERRORS = "errors"
CONTRACT = "contract"
FALLBACK = "fallback"
LATENCY = "latency"
EVENTS = (ERRORS, CONTRACT, FALLBACK, LATENCY)
"""What may happen to a request, in the order of the bits of a key."""

_SEEN_BY_CANDIDATE = 1


def bits_of(names: Sequence[str]) -> dict[str, int]:
    """Return the bit that stands for each kind of event."""
    return {name: 2 << position for position, name in enumerate(names)}


_BITS = bits_of(EVENTS)
_BLOCK_ROWS = 4096
"""Rows between two looks at who is still at risk: within a block nobody's weight changes."""
_GRID = 0.02
"""Relative step of the grid that weights are widened to."""
_STALE = 0.01
"""Weights are kept until so much of what they rest on may have changed."""


SCHEMA = """
CREATE TABLE IF NOT EXISTS watch (
    release TEXT PRIMARY KEY, body BLOB NOT NULL, shares TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watch_tally (
    release TEXT NOT NULL, event TEXT NOT NULL, share REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL,
    expose REAL NOT NULL, fresh_candidate INTEGER NOT NULL, fresh_stable INTEGER NOT NULL,
    back_candidate INTEGER NOT NULL, back_stable INTEGER NOT NULL, back_trials INTEGER NOT NULL,
    PRIMARY KEY (release, event, share, low, high, expose)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watch_count (
    release TEXT NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (release, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watch_key (
    id INTEGER PRIMARY KEY, release TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS watch_key_release ON watch_key (release, id);
CREATE TABLE IF NOT EXISTS matured (release TEXT PRIMARY KEY, cut_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS matured_phase (release TEXT PRIMARY KEY, shares TEXT NOT NULL) WITHOUT ROWID;
"""


class Watch(msgspec.Struct, frozen=True):
    """What the tailer counts for one release.

    Attributes:
        release: Id of the release.
        service: Name of the service.
        stable: Number of the stable version.
        candidate: Number of the candidate.
        latency_us: A call of the model that took longer is an event, microseconds: what callers wait rises in
            both arms where one is slow. None counts none.
        max_keys: Keys that are told apart; those beyond are left out in both arms. Of a million, 24 MB.
    """

    release: str
    service: str
    stable: int
    candidate: int
    latency_us: float | None = None
    max_keys: int = 1_000_000


class EventTally(msgspec.Struct, frozen=True, array_like=True):
    """First events that had the same weights. Tallies of the same weights add.

    Attributes:
        share: The candidate's share of all keys in this phase.
        low, high: Ends of the candidate's share of keys, and of traffic, still at risk.
        expose: Its share of the keys that begin the phase without having met it before; 0 if none do.
        fresh_candidate, fresh_stable: Events of keys seen for the first time, by arm.
        back_candidate, back_stable: Events of keys seen before, by arm.
        back_trials: Keys that began the phase without having met the candidate, or the event, before.
    """

    share: float
    low: float
    high: float
    expose: float
    fresh_candidate: int = 0
    fresh_stable: int = 0
    back_candidate: int = 0
    back_stable: int = 0
    back_trials: int = 0


class KeyTally(msgspec.Struct, frozen=True, array_like=True):
    """Keys at first sight, in one phase.

    Attributes:
        share: The candidate's share of all keys.
        candidate: Keys that came to the candidate.
        stable: Keys that came to stable.
    """

    share: float
    candidate: int
    stable: int


class ReleaseTallies(msgspec.Struct, frozen=True):
    """Everything that was counted for one release, up to a cut of the journal.

    Attributes:
        events: First events by kind.
        keys: Keys at first sight, a tally a phase.
        candidate, stable: Rows that each arm answered.
        dropped: Rows around which the journal lost records.
        ignored: Rows of keys beyond the limit, left out.
        carried: Rows that their own key did not draw to the arm that answered, left out.
        cut: Segment -> bytes counted, for the segments that grow.
    """

    events: dict[str, list[EventTally]] = {}
    keys: list[KeyTally] = []
    candidate: int = 0
    stable: int = 0
    dropped: int = 0
    ignored: int = 0
    carried: int = 0
    cut: dict[str, int] = {}


COUNTS = ("candidate", "stable", "dropped", "ignored", "carried")


@dataclass(frozen=True)
class Rows:
    """Rows of both arms, as columns.

    Attributes:
        ids: Request ids, dtype two big-endian halves, shape (n, 2).
        keys: First half of each row's key hash; None where every row is a key of its own.
        buckets: Where each key falls on the route's unit interval.
        candidate: Whether the candidate answered.
        shares: The candidate's share at that time.
        bits: What happened, one bit each.
        dropped: Whether the journal lost records just before.
    """

    ids: Column
    keys: Column | None
    buckets: Column
    candidate: npt.NDArray[np.bool_]
    shares: Column
    bits: Column
    dropped: npt.NDArray[np.bool_]

    def take(self, index: Column) -> Rows:
        """Return some of the rows, in the order of `index`."""
        keys = None if self.keys is None else self.keys[index]
        return Rows(
            self.ids[index],
            keys,
            self.buckets[index],
            self.candidate[index],
            self.shares[index],
            self.bits[index],
            self.dropped[index],
        )


def rows_of(turns: Turns, watch: Watch) -> Rows | None:
    """Return what the watch sees in turns of one stream; None if they are none of its business."""
    stream = turns.stream
    if stream.service != watch.service or stream.kind is not RecordKind.PREDICTION or turns.buckets is None:
        return None
    of_candidate = stream.arm == "candidate" and stream.version == watch.candidate
    if not of_candidate and not (stream.arm == "stable" and stream.version == watch.stable):
        return None
    share = round(stream.share if of_candidate else 1.0 - stream.share, 6)
    if not 0 < share < 1:
        return None
    requests, keys = turns.request_of_row, turns.key_numbers
    halves = np.frombuffer(turns.request_ids, ">u8").reshape(-1, 2)
    flags = turns.flags.astype(np.int64)
    bits = _bits(turns, flags, watch)
    if keys is None:  # the request is what was drawn: one row of it stands for all
        requests = np.flatnonzero(turns.rows > 0)
        buckets = turns.buckets[(np.cumsum(turns.rows) - turns.rows)[requests]]
    else:
        buckets = turns.buckets
    n = len(requests)
    return Rows(
        halves[requests],
        keys,
        buckets,
        np.full(n, of_candidate),
        np.full(n, share),
        bits[requests],
        (flags[requests] & Flag.DROPPED) != 0,
    )


def _bits(turns: Turns, flags: Column, watch: Watch) -> Column:
    failed = (flags & Flag.FAILED) != 0
    if turns.errors is not None:
        failed |= np.fromiter((error is not None for error in turns.errors), bool, turns.n_requests)
    bits = np.where(failed, _BITS[ERRORS], 0)
    bits |= np.where(flags & Flag.INVALID, _BITS[CONTRACT], 0)
    bits |= np.where(flags & Flag.FALLBACK, _BITS[FALLBACK], 0)
    if watch.latency_us is not None:
        slow = (turns.service_us > watch.latency_us) & ((flags & Flag.CACHED) == 0)
        bits |= np.where(slow, _BITS[LATENCY], 0)
    # an input that brings down other versions too says nothing of this one
    return np.where(flags & Flag.POISON, 0, bits).astype(np.uint32)


Place = tuple[str, float, float, float, float]
"""Kind of event ("" for keys), share, and the three weights."""


class Counted(NamedTuple):
    """What a counter has counted since it was last asked.

    Attributes:
        tallies: Counts by kind of event and weights, in the order of `EventTally`.
        counts: Rows by name.
        changes: Changes of keys.
        shares: The phases so far.
    """

    tallies: dict[Place, list[int]]
    counts: dict[str, int]
    changes: list[Column]
    shares: list[float]


class _Weights(msgspec.Struct, frozen=True):
    low: float
    high: float
    expose: float


class Counter:
    """Counts first events; what it has counted since the last `drain` waits to be kept."""

    def __init__(
        self,
        max_keys: int,
        *,
        names: Sequence[str] = EVENTS,
        changes: Iterable[Column] = (),
        shares: Sequence[float] = (),
    ) -> None:
        """Begin, or take up what was kept.

        Args:
            max_keys: Keys that are told apart.
            names: Kinds of events, in the order of the bits of `Rows`.
            changes: Changes of keys, as `drain` gave them.
            shares: The phases so far.
        """
        self.keys = KeySet(max_keys)
        self._bits = bits_of(names)
        for change in changes:
            self.keys.update(change)
        self._shares = list(shares)
        self._weights: dict[float, dict[str, _Weights]] = {}
        self._weighed_at: dict[float, tuple[int, int]] = {}
        self._n_seen = 0
        self._forget()

    def _forget(self) -> None:
        self._tallies: dict[Place, list[int]] = {}
        self._counts: dict[str, int] = {}
        self._changes: list[Column] = []

    def drain(self) -> Counted:
        """Return what was counted since the last call."""
        found = Counted(self._tallies, self._counts, self._changes, list(self._shares))
        self._forget()
        return found

    def take(self, parts: Sequence[Rows]) -> None:
        """Count rows of one cut; their order is that of their ids."""
        keyed = [part for part in parts if part.keys is not None]
        alone = [part for part in parts if part.keys is None]
        for rows in (_joined(keyed), _joined(alone)):
            if rows is None:
                continue
            order = np.lexsort((rows.ids[:, 1], rows.ids[:, 0]))
            for start in range(0, len(order), _BLOCK_ROWS):
                block = rows.take(order[start : start + _BLOCK_ROWS])
                for share in np.unique(block.shares).tolist():
                    self._count(block.take(np.flatnonzero(block.shares == share)), share)

    def _count(self, rows: Rows, share: float) -> None:
        self._add("candidate", int(rows.candidate.sum()))
        self._add("stable", int((~rows.candidate).sum()))
        self._add("dropped", int(rows.dropped.sum()))
        drawn = (rows.buckets < share) == rows.candidate
        drawn &= rows.buckets >= 0
        if not drawn.all():
            self._add("carried", int((~drawn).sum()))
            rows = rows.take(np.flatnonzero(drawn))
        if share not in self._shares:
            self._shares.append(share)
        if rows.keys is None:
            self._count_alone(rows, share)
        elif len(rows.keys):
            self._count_keyed(rows, rows.keys, share)

    def _count_alone(self, rows: Rows, share: float) -> None:
        n_candidate = int(rows.candidate.sum())
        self._add_keys(share, n_candidate, len(rows.candidate) - n_candidate)
        weights = _Weights(share, share, 0.0)
        for name, bit in self._bits.items():
            happened = (rows.bits & bit) != 0
            if happened.any():
                of_candidate = int((happened & rows.candidate).sum())
                self._add_events(
                    name, share, weights, [of_candidate, int(happened.sum()) - of_candidate, 0, 0, 0]
                )

    def _count_keyed(self, rows: Rows, keys: Column, share: float) -> None:
        phase = self._shares.index(share)
        unique, first, inverse, counts = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        slots, known = self.keys.find(unique)
        kept = self._within_limit(first, known)
        if not kept.all():
            self._add("ignored", int(counts[~kept].sum()))
        fresh = kept & ~known
        of_candidate = rows.candidate[first]
        n_fresh = int(fresh.sum())
        n_candidate = int((fresh & of_candidate).sum())
        self._add_keys(share, n_candidate, n_fresh - n_candidate)
        weights = self._weigh(share, phase)
        before = np.zeros(len(unique), ENTRY)
        if known.any():
            before[known] = self.keys.entries[slots[known]]
        begins = known & (before["phase"] < phase) & ((before["bits"] & _SEEN_BY_CANDIDATE) == 0)
        bits = np.where(of_candidate, _SEEN_BY_CANDIDATE, 0).astype(np.uint32)
        for name, bit in self._bits.items():
            at_risk = kept & ((before["bits"] & bit) == 0)
            n_trials = int((begins & at_risk).sum())
            events = [0, 0, 0, 0]
            happened = np.flatnonzero((rows.bits & bit) != 0)
            if len(happened):
                whose, at = np.unique(inverse[happened], return_index=True)
                bits[whose] |= bit
                counted = at_risk[whose]
                whose, at = whose[counted], happened[at[counted]]
                yes, new = rows.candidate[at], fresh[whose]
                events = [int((a & b).sum()) for a in (new, ~new) for b in (yes, ~yes)]
            if n_trials or any(events):
                self._add_events(name, share, weights[name], [*events, n_trials])
        change = np.zeros(int(kept.sum()), ENTRY)
        change["key"], change["bucket"] = unique[kept], rows.buckets[first][kept]
        change["requests"], change["phase"], change["bits"] = counts[kept], phase, bits[kept]
        self.keys.update(change)
        self._changes.append(change)
        self._n_seen += int(counts.sum())

    def _within_limit(self, first: Column, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell which keys are counted: those known, and of new ones the first there is room for."""
        n_free = self.keys.max_keys - len(self.keys)
        new = np.flatnonzero(~known)
        if len(new) <= n_free:
            return np.ones(len(known), bool)
        kept = known.copy()
        kept[new[np.argsort(first[new], kind="stable")[:n_free]]] = True
        return kept

    def _weigh(self, share: float, phase: int) -> dict[str, _Weights]:
        """Return the weights of keys seen before, from what was known before this block."""
        n_keys, n_seen = self._weighed_at.get(share, (-1, 0))
        stale = max(1.0, _STALE * len(self.keys))
        if abs(len(self.keys) - n_keys) < stale and self._n_seen - n_seen < stale:
            return self._weights[share]
        entries = self.keys.entries
        mine = entries["bucket"] < share
        begins = ((entries["bits"] & _SEEN_BY_CANDIDATE) == 0) & (entries["phase"] < phase)
        self._weights = {share: {}}
        for name, bit in self._bits.items():
            at_risk = (entries["bits"] & bit) == 0
            by_key = _part(mine, at_risk, None)
            by_traffic = _part(mine, at_risk, entries["requests"])
            found = [part for part in (by_key, by_traffic) if part is not None] or [share]
            expose = _part(mine, at_risk & begins, None) or 0.0
            self._weights[share][name] = _Weights(_down(min(found)), _up(max(found)), _down(expose))
        self._weighed_at = {share: (len(self.keys), self._n_seen)}
        return self._weights[share]

    def _add(self, name: str, count: int) -> None:
        if count:
            self._counts[name] = self._counts.get(name, 0) + count

    def _add_keys(self, share: float, candidate: int, stable: int) -> None:
        if candidate or stable:
            _add_to(self._tallies, ("", share, 0.0, 0.0, 0.0), [candidate, stable, 0, 0, 0])

    def _add_events(self, name: str, share: float, weights: _Weights, counts: list[int]) -> None:
        _add_to(self._tallies, (name, share, weights.low, weights.high, weights.expose), counts)


def _add_to(tallies: dict[Place, list[int]], key: Place, counts: list[int]) -> None:
    old = tallies.get(key)
    tallies[key] = counts if old is None else [a + b for a, b in zip(old, counts, strict=True)]


def _joined(parts: Sequence[Rows]) -> Rows | None:
    if not parts:
        return None
    keys = [part.keys for part in parts if part.keys is not None]
    return Rows(
        np.concatenate([part.ids for part in parts]),
        np.concatenate(keys) if keys else None,
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([part.candidate for part in parts]),
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.bits for part in parts]),
        np.concatenate([part.dropped for part in parts]),
    )


def _part(mine: Column, among: Column, sizes: Column | None) -> float | None:
    """Return the candidate's part of some keys, or of their requests; None of nothing."""
    if sizes is None:
        total, part = int(among.sum()), int((mine & among).sum())
    else:
        total = int(sizes[among].sum(dtype=np.int64))
        part = int(sizes[mine & among].sum(dtype=np.int64))
    return part / total if total else None


def _down(share: float) -> float:
    return (
        share
        if share in (0.0, 1.0)
        else float(f"{math.exp(math.floor(math.log(share) / _GRID) * _GRID):.6g}")
    )


def _up(share: float) -> float:
    if share in (0.0, 1.0):
        return share
    return min(1.0, float(f"{math.exp(math.ceil(math.log(share) / _GRID) * _GRID):.6g}"))
