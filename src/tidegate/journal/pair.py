"""Pairs: what a version answered, and what its shadow would have answered to the same request.

A shadow's record follows its prediction's within seconds, from the same worker. So the tailer keeps
the answers of the last moments of streams that have shadows, and looks each shadow's record up by
its request's id. Pairs are counted in the transaction that moves the positions, so each once; after a
crash the kept answers are read again from the journal. A shadow's record whose answer is not found is
counted as unpaired.

Rows of one key are no independent evidence. The counts whose names begin with `key_` take only the
first pair of each key (without keys: the first row of each request), and are what a decision may rest on.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, Column
from tidegate.contract.field import DataType
from tidegate.journal.decode import Ints, Turns
from tidegate.journal.record import Flag, RecordKind
from tidegate.journal.tally import US_PER_MINUTE, step_of

Bools = npt.NDArray[np.bool_]

MAX_KEPT_REQUESTS = 1 << 16
"""Answers kept until their shadows come: at 5,000 requests/s for 13 s, twice what a copy waits at most."""
MAX_KEYS = 200_000
"""Keys known of one pair of versions; beyond it no new ones are counted, in neither direction."""
KEPT_SHADOWS = 8
"""Pairs of versions whose keys are known, the latest ones: an older comparison is over."""
DEFAULT_TOLERANCE = 0.05
"""Of the larger of two numbers, where no tolerance is declared and the field has no range."""
SLOWER = 2.0
"""Times that differ by less than this factor may well be the machine's doing."""
MAX_VALUES = 64
"""Categories of a field by which pairs are counted apart."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS pair (
    service TEXT NOT NULL, minute INTEGER NOT NULL, version INTEGER NOT NULL, shadow INTEGER NOT NULL,
    arm TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (service, minute, version, shadow, arm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pair_key (
    service TEXT NOT NULL, version INTEGER NOT NULL, shadow INTEGER NOT NULL, hash INTEGER NOT NULL,
    PRIMARY KEY (service, version, shadow, hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pair_seen (
    service TEXT NOT NULL, version INTEGER NOT NULL, shadow INTEGER NOT NULL, minute INTEGER NOT NULL,
    PRIMARY KEY (service, version, shadow)
) WITHOUT ROWID
"""


class PairKey(msgspec.Struct, frozen=True, order=True):
    """Whose pairs they are.

    Attributes:
        service: Name of the service.
        version: Number of the version that answered.
        shadow: Number of the version that got the copy.
        arm: Part of the route by which the answer went.
        minute: Minutes since 1970 UTC of the requests' arrival.
    """

    service: str
    version: int
    shadow: int
    arm: str
    minute: int


class PairTally(msgspec.Struct, omit_defaults=True):
    """Counts over any set of pairs; the tally of two disjoint sets is the sum of theirs.

    Attributes:
        pairs: Rows that both versions were asked.
        compared: Of those, rows that both answered.
        disagree: Of those, rows of which an output differs by more than its tolerance.
        shadow_worse: Rows of which the shadow alone failed: an error, or an output against the contract.
        shadow_better: Rows of which the answering version alone failed.
        both_failed: Rows of which both did.
        unpaired: Rows of the shadow whose answer was not found.
        timed: Requests whose model calls were of like size on both sides.
        slower, faster: Of those, requests at which the shadow's call took at least twice as long, or
            at most half as long.
        key_pairs, key_compared, key_disagree, key_worse, key_better, key_slower, key_faster: The same, of the
            first pair of each key alone.
        key_ignored: Rows of keys that found no place any more.
        errors: Requests by code of the shadow's error.
        answer_errors: Requests by code of the answering version's error.
        shadow_times, answer_times: Requests by step of service time; see `tally.step_of`.
        by_field: Categorical input -> value -> [rows, rows that disagree, rows of which the shadow alone
            failed]: where a difference lies.
    """

    pairs: int = 0
    compared: int = 0
    disagree: int = 0
    shadow_worse: int = 0
    shadow_better: int = 0
    both_failed: int = 0
    unpaired: int = 0
    timed: int = 0
    slower: int = 0
    faster: int = 0
    key_pairs: int = 0
    key_compared: int = 0
    key_disagree: int = 0
    key_worse: int = 0
    key_better: int = 0
    key_slower: int = 0
    key_faster: int = 0
    key_ignored: int = 0
    errors: dict[str, int] = {}
    answer_errors: dict[str, int] = {}
    shadow_times: dict[int, int] = {}
    answer_times: dict[int, int] = {}
    by_field: dict[str, dict[str, list[int]]] = {}

    def add(self, other: PairTally) -> None:
        """Add the counts of a disjoint set."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("errors", "answer_errors", "shadow_times", "answer_times"):
            _add_each(getattr(self, name), getattr(other, name))
        for field, values in other.by_field.items():
            own = self.by_field.setdefault(field, {})
            for value, counts in values.items():
                own[value] = [a + b for a, b in zip(own.get(value, (0, 0, 0)), counts, strict=True)]


_COUNTS = tuple(
    name
    for name in PairTally.__struct_fields__
    if name not in ("errors", "answer_errors", "shadow_times", "answer_times", "by_field")
)
_decoder = msgspec.msgpack.Decoder(PairTally)
_encoder = msgspec.msgpack.Encoder()


def merge_pairs(tallies: Iterable[PairTally]) -> PairTally:
    """Return the sum of tallies of disjoint sets."""
    total = PairTally()
    for tally in tallies:
        total.add(tally)
    return total


def _add_each(own: dict[Any, int], others: Mapping[Any, int]) -> None:
    for name, count in others.items():
        own[name] = own.get(name, 0) + count


class _Side:
    """One side of pairs, as columns over requests and rows; holds no bytes of the journal."""

    def __init__(self, turns: Turns) -> None:
        stream = turns.stream
        self.stream = stream
        ids = turns.request_ids
        self.ids = [ids[at : at + 16] for at in range(0, len(ids), 16)]
        self.rows = turns.rows
        self.first = np.cumsum(self.rows) - self.rows
        self.arrived_us = np.array(turns.arrived_us)
        self.service_us = np.array(turns.service_us, np.float64)
        self.batch_rows = turns.heads["batch_rows"][turns.frame_of_request].astype(np.int64)
        self.errors = turns.errors
        flags = turns.flags
        unusable = (flags & (Flag.FAILED | Flag.FALLBACK | Flag.LATE)) != 0
        if self.errors is not None:
            unusable |= np.array([error is not None for error in self.errors], np.bool_)
        self.outputs: Batch | None = turns.outputs
        self.good: Bools = ~unusable if self.outputs is not None else np.zeros(turns.n_requests, np.bool_)
        keys = turns.key_hashes
        self.keys = None if keys is None else np.frombuffer(keys, "<i8").reshape(-1, 2)[:, 0].copy()
        self.fields: dict[str, Column] = {}
        if stream.kind is RecordKind.PREDICTION and turns.inputs is not None:
            for column in stream.layout.inputs:
                few = column.type is DataType.CATEGORY and len(column.categories) <= MAX_VALUES
                if not column.shape and (few or column.type is DataType.BOOL):
                    self.fields[column.name] = turns.inputs[column.name]

    def keep_only(self, positions: Sequence[int]) -> None:
        """Forget the ids of all other requests."""
        wanted = set(positions)
        self.ids = [each if position in wanted else b"" for position, each in enumerate(self.ids)]


class _Match(NamedTuple):
    """Requests of one side that were found, and where their shadows' records are."""

    answer: _Side
    theirs: list[int]
    ours: list[int]


class Pairing:
    """Finds and counts pairs; one for a tailer."""

    def __init__(self, *, max_kept: int = MAX_KEPT_REQUESTS, max_keys: int = MAX_KEYS) -> None:
        """Begin without answers.

        Args:
            max_kept: Requests whose answers are kept for their shadows.
            max_keys: Keys known of one pair of versions.
        """
        self._max_kept = max_kept
        self._max_keys = max_keys
        self._kept: dict[bytes, tuple[_Side, int]] = {}
        self._order: deque[_Side] = deque()
        self._came: list[_Side] = []
        self._missed: list[_Side] = []
        self._keys: dict[tuple[str, int, int], set[int]] = {}

    def reset(self) -> None:
        """Forget everything: what is needed is read again."""
        self._kept.clear()
        self._order.clear()
        self._came.clear()
        self._missed.clear()
        self._keys.clear()

    def take(self, turns: Turns) -> None:
        """Take what was read, if it can be a side of a pair.

        Raises:
            The errors of decoding, before anything is kept.
        """
        stream = turns.stream
        if stream.kind is RecordKind.SHADOW:
            self._came.append(_Side(turns))
        elif stream.shadows:
            side = _Side(turns)
            self._order.append(side)
            for position, request in enumerate(side.ids):
                self._kept[request] = (side, position)

    @property
    def has_work(self) -> bool:
        """Whether shadows' records came, or wait for their answers."""
        return bool(self._came or self._missed)

    def settle(self, connection: sqlite3.Connection) -> None:
        """Count the pairs that are whole; within the ledger's transaction.

        An answer that is in another segment may be read just after its shadow's record: that is then
        looked for once more, with the next records.
        """
        tallies: dict[PairKey, PairTally] = {}
        came, self._came = self._came, []
        missed, self._missed = self._missed, []
        for side in missed:
            self._pair(side, tallies, connection, again=True)
        for side in came:
            self._pair(side, tallies, connection, again=False)
        _store(connection, tallies)
        self._shed()

    def _pair(
        self,
        shadow: _Side,
        tallies: dict[PairKey, PairTally],
        connection: sqlite3.Connection,
        *,
        again: bool,
    ) -> None:
        found: dict[int, _Match] = {}
        lost: list[int] = []
        for position, request in enumerate(shadow.ids):
            if not request:
                continue
            kept = self._kept.get(request)
            if kept is None or int(kept[0].rows[kept[1]]) != int(shadow.rows[position]):
                lost.append(position)
                continue
            side, at = kept
            match = found.setdefault(id(side), _Match(side, [], []))
            match.theirs.append(at)
            match.ours.append(position)
        for match in found.values():
            self._count(match, shadow, tallies, connection)
            if again:  # they had been counted as unpaired
                _count_unpaired(shadow, match.ours, tallies, sign=-1)
        if lost and not again:
            _count_unpaired(shadow, lost, tallies, sign=1)
            shadow.keep_only(lost)
            self._missed.append(shadow)

    def _count(
        self,
        match: _Match,
        shadow: _Side,
        tallies: dict[PairKey, PairTally],
        connection: sqlite3.Connection,
    ) -> None:
        answer = match.answer
        theirs, ours = np.array(match.theirs), np.array(match.ours)
        minutes = answer.arrived_us[theirs] // US_PER_MINUTE
        for minute in np.unique(minutes).tolist():
            chosen = minutes == minute
            stream = answer.stream
            key = PairKey(stream.service, stream.version, shadow.stream.version, stream.arm, int(minute))
            pairs = _Pairs(answer, theirs[chosen], shadow, ours[chosen])
            tally = tallies.setdefault(key, PairTally())
            pairs.count(tally)
            first, ignored = self._first_of_keys(key, pairs, connection)
            pairs.count_first(tally, first)
            tally.key_ignored += ignored

    def _first_of_keys(self, key: PairKey, pairs: _Pairs, connection: sqlite3.Connection) -> tuple[Ints, int]:
        """Return which rows are the first of their keys, and how many keys found no place."""
        if pairs.keys is None:
            return pairs.first_rows, 0
        about = (key.service, key.version, key.shadow)
        known = self._keys.get(about)
        if known is None:
            rows = connection.execute(
                "SELECT hash FROM pair_key WHERE service = ? AND version = ? AND shadow = ?", about
            )
            known = self._keys[about] = {number for (number,) in rows}
        first: list[int] = []
        new: list[int] = []
        ignored = 0
        for row, number in enumerate(pairs.keys.tolist()):
            if number in known:
                continue
            if len(known) >= self._max_keys:
                ignored += 1
                continue
            known.add(number)
            new.append(number)
            first.append(row)
        connection.executemany(
            "INSERT OR IGNORE INTO pair_key VALUES (?, ?, ?, ?)", [(*about, number) for number in new]
        )
        connection.execute("INSERT OR REPLACE INTO pair_seen VALUES (?, ?, ?, ?)", (*about, key.minute))
        return np.array(first, np.int64), ignored

    def _shed(self) -> None:
        """Keep to the bounds."""
        while self._order and len(self._kept) > self._max_kept:
            for request in self._order.popleft().ids:
                self._kept.pop(request, None)


def _count_unpaired(
    shadow: _Side, positions: Sequence[int], tallies: dict[PairKey, PairTally], *, sign: int
) -> None:
    stream = shadow.stream
    for position in positions:
        minute = int(shadow.arrived_us[position]) // US_PER_MINUTE
        key = PairKey(stream.service, 0, stream.version, "", minute)
        tallies.setdefault(key, PairTally()).unpaired += sign * int(shadow.rows[position])


class _Pairs:
    """Some requests on both sides."""

    def __init__(self, answer: _Side, theirs: Ints, shadow: _Side, ours: Ints) -> None:
        rows = answer.rows[theirs]
        within = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows)
        self._answer, self._theirs, self._shadow, self._ours = answer, theirs, shadow, ours
        self._answer_rows = np.repeat(answer.first[theirs], rows) + within
        self._shadow_rows = np.repeat(shadow.first[ours], rows) + within
        self.first_rows: Ints = np.cumsum(rows) - rows
        self._request_of_row = np.repeat(np.arange(len(rows)), rows)
        self.keys = None if answer.keys is None else answer.keys[self._answer_rows]
        answered = np.repeat(answer.good[theirs], rows)
        copied = np.repeat(shadow.good[ours], rows)
        self._worse = answered & ~copied
        self._better = copied & ~answered
        self._failed = ~answered & ~copied
        self._compared = answered & copied
        self._disagree = self._compared & self._differs()
        self._slower, self._faster, self._timed = self._compare_times()

    def _differs(self) -> Bools:
        different = np.zeros(len(self._answer_rows), np.bool_)
        ours, theirs = self._shadow.outputs, self._answer.outputs
        if ours is None or theirs is None:
            return different
        tolerance = dict(self._shadow.stream.tolerances)
        for name in theirs.columns:
            if name in ours.columns:
                different |= differ(
                    theirs[name][self._answer_rows], ours[name][self._shadow_rows], tolerance.get(name)
                )
        return different

    def _compare_times(self) -> tuple[Bools, Bools, Bools]:
        answer, shadow = self._answer, self._shadow
        theirs_us, ours_us = answer.service_us[self._theirs], shadow.service_us[self._ours]
        their_batch, our_batch = answer.batch_rows[self._theirs], shadow.batch_rows[self._ours]
        timed = answer.good[self._theirs] & shadow.good[self._ours] & (theirs_us > 0) & (ours_us > 0)
        timed &= (our_batch <= 2 * their_batch) & (their_batch <= 2 * our_batch)
        return timed & (ours_us >= SLOWER * theirs_us), timed & (theirs_us >= SLOWER * ours_us), timed

    def count(self, tally: PairTally) -> None:
        """Add all pairs to a tally."""
        tally.pairs += len(self._answer_rows)
        tally.compared += int(self._compared.sum())
        tally.disagree += int(self._disagree.sum())
        tally.shadow_worse += int(self._worse.sum())
        tally.shadow_better += int(self._better.sum())
        tally.both_failed += int(self._failed.sum())
        tally.timed += int(self._timed.sum())
        tally.slower += int(self._slower.sum())
        tally.faster += int(self._faster.sum())
        sides = (
            (self._shadow, self._ours, tally.errors, tally.shadow_times),
            (self._answer, self._theirs, tally.answer_errors, tally.answer_times),
        )
        for side, at, errors, times in sides:
            if side.errors is not None:
                _add_each(errors, Counter(e for e in (side.errors[p] for p in at.tolist()) if e is not None))
            steps, counts = np.unique(step_of(side.service_us[at]), return_counts=True)
            _add_each(times, dict(zip(steps.tolist(), counts.tolist(), strict=True)))
        for name, column in self._answer.fields.items():
            own = tally.by_field.setdefault(name, {})
            told = zip(
                column[self._answer_rows].tolist(),
                self._disagree.tolist(),
                self._worse.tolist(),
                strict=True,
            )
            for (value, disagrees, is_worse), count in Counter(told).items():
                counted = own.setdefault("missing" if value is None else str(value), [0, 0, 0])
                counted[0] += count
                counted[1] += count if disagrees else 0
                counted[2] += count if is_worse else 0

    def count_first(self, tally: PairTally, first: Ints) -> None:
        """Add the first pairs of keys to a tally."""
        if not len(first):
            return
        requests = self._request_of_row[first]
        tally.key_pairs += len(first)
        tally.key_compared += int(self._compared[first].sum())
        tally.key_disagree += int(self._disagree[first].sum())
        tally.key_worse += int(self._worse[first].sum())
        tally.key_better += int(self._better[first].sum())
        tally.key_slower += int(self._slower[requests].sum())
        tally.key_faster += int(self._faster[requests].sum())


def differ(ones: Column, others: Column, tolerance: float | None) -> Bools:
    """Return which rows of one output field differ by more than they may.

    Args:
        ones: What was answered, shape (n_rows,) or (n_rows, ...).
        others: What the other version answered.
        tolerance: Largest difference of a number that means nothing, absolute; relative by
            `DEFAULT_TOLERANCE` if None. Two NaN are alike, NaN and a number are not.
    """
    if object in (ones.dtype, others.dtype) or ones.shape != others.shape:
        pairs = zip(ones.tolist(), others.tolist(), strict=True)
        return np.array([_differ_plainly(one, other, tolerance) for one, other in pairs], np.bool_)
    if ones.dtype == np.bool_:
        unlike: Bools = ones != others
    else:
        one, other = ones.astype(np.float64), others.astype(np.float64)
        allowed = _allowed(one, other, tolerance)
        with np.errstate(invalid="ignore"):
            near = np.abs(one - other) <= allowed
        unlike = ~(near | (one == other) | (np.isnan(one) & np.isnan(other)))
    rows: Bools = np.asarray(unlike.reshape(len(unlike), -1).any(axis=1))
    return rows


def _allowed(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], tolerance: float | None) -> Any:
    if tolerance is not None:
        return tolerance
    with np.errstate(invalid="ignore"):
        return DEFAULT_TOLERANCE * np.maximum(np.abs(one), np.abs(other))


def _differ_plainly(one: Any, other: Any, tolerance: float | None) -> bool:
    """Tell whether two values of any kind differ: texts, categories, arrays of free length."""
    if one is None or other is None or isinstance(one, str | bytes | bool):
        return bool(one != other)
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return True
    if a.dtype.kind not in "fiu":
        return bool((a != b).any())
    return bool(differ(a.reshape(1, -1), b.reshape(1, -1), tolerance)[0])


def _store(connection: sqlite3.Connection, tallies: Mapping[PairKey, PairTally]) -> None:
    for key, tally in tallies.items():
        place = (key.service, key.minute, key.version, key.shadow, key.arm)
        row = connection.execute(
            "SELECT body FROM pair WHERE service = ? AND minute = ? AND version = ? AND shadow = ?"
            " AND arm = ?",
            place,
        ).fetchone()
        total = _decoder.decode(row[0]) if row else PairTally()
        total.add(tally)
        connection.execute(
            "INSERT OR REPLACE INTO pair VALUES (?, ?, ?, ?, ?, ?)", (*place, _encoder.encode(total))
        )


def read_pairs(
    connection: sqlite3.Connection,
    service: str,
    *,
    version: int | None = None,
    shadow: int | None = None,
    since_minute: int = 0,
) -> list[tuple[PairKey, PairTally]]:
    """Return the tallies of pairs of a service, by minute.

    Records of a shadow whose answers were not found have version 0.

    Args:
        connection: Of the ledger.
        service: Name of the service.
        version: Only where this version answered.
        shadow: Only of this shadow.
        since_minute: Minutes since 1970 UTC, from this one on.
    """
    rows = connection.execute(
        "SELECT version, shadow, arm, minute, body FROM pair WHERE service = :service AND minute >= :since"
        " AND (:version IS NULL OR version = :version OR version = 0)"
        " AND (:shadow IS NULL OR shadow = :shadow) ORDER BY minute, version, shadow, arm",
        {"service": service, "since": since_minute, "version": version, "shadow": shadow},
    )
    return [(PairKey(service, *row[:4]), _decoder.decode(row[4])) for row in rows]


def forget_old_keys(connection: sqlite3.Connection, *, keep: int = KEPT_SHADOWS) -> None:
    """Drop the known keys of comparisons that are over; within a transaction."""
    old = connection.execute(
        "SELECT service, version, shadow FROM pair_seen ORDER BY minute DESC LIMIT -1 OFFSET ?", (keep,)
    ).fetchall()
    for about in old:
        connection.execute("DELETE FROM pair_key WHERE service = ? AND version = ? AND shadow = ?", about)
        connection.execute("DELETE FROM pair_seen WHERE service = ? AND version = ? AND shadow = ?", about)
