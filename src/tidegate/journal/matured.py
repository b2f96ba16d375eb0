"""What became of a release's answers: outcomes old enough to be complete, by arm and by pair.

Requests are looked at once, in order, when they are as old as outcomes take. Later is not waited for, and
earlier nothing is counted: outcomes that come early are not like those that come late. What arms are
compared by is the first event of each key, as for everything else (`journal.watch`). Where a version
shadows the other, both have said something of the same request, and share its outcome: of each key the
first such pair counts.

An outcome that is corrected after its request was counted changes nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tidegate.core.clock import Clock
from tidegate.journal.decode import Turns
from tidegate.journal.firsts import ENTRY, KeySet
from tidegate.journal.index import PredictionIndex
from tidegate.journal.ledger import LATEST, Ledger
from tidegate.journal.plain import finite, plain
from tidegate.journal.record import UNNAMED, Flag, RecordKind
from tidegate.journal.watch import Column, Counter, EventTally, KeyTally, Rows
from tidegate.journal.watched import add_counted, counted, keep_keys, keys_of, pieces_of, shares_of

EVENT = "event"
"""Name of the one kind of event that each counter here counts."""

SLACK_MS = 2_000
"""A record is written before its answer leaves, and joined within the second: so much later than outcomes
take, everything that is to be counted has been."""
_LOOK_MS = 1_000
_LONGEST_MS = 10_000
"""Requests of at least and at most so much time are counted at one look: it must not hold up the tailer."""
_PAIRS = "pairs"
_COUNTS = ("pairs", "worse", "better", "candidate_rows", "stable_rows", "candidate_known", "stable_known")


_SELECT_TRUTH = f"""
SELECT request, row, value FROM truth
WHERE service = :service AND request >= :least AND request < :beyond AND {LATEST}
"""  # noqa: S608  # a constant


class OutcomeEvent(msgspec.Struct, frozen=True):
    """What of an outcome is bad.

    Attributes:
        name: Of the guardrail.
        outcome: Name of the outcome.
        against: Output that says beforehand what the outcome will be; "": the outcome itself is the event,
            and where there is none, it did not happen.
        beyond: Difference of the two above which the answer was wrong, where they are numbers.
        unnamed: Whether an outcome without a name is this one: so it is if the service is judged by it.
    """

    name: str
    outcome: str
    against: str = ""
    beyond: float = 0.5
    unnamed: bool = False


class OutcomeWatch(msgspec.Struct, frozen=True):
    """What is counted of the outcomes of one release.

    Attributes:
        release: Id of the release.
        service: Name of the service.
        stable: Number of the stable version.
        candidate: Number of the candidate.
        since_us: When the release began, microseconds UTC.
        horizon_s: How long outcomes take, seconds.
        events: What is counted.
        max_keys: Keys that are told apart.
    """

    release: str
    service: str
    stable: int
    candidate: int
    since_us: int
    horizon_s: float
    events: tuple[OutcomeEvent, ...]
    max_keys: int = 1_000_000


class OutcomeTallies(msgspec.Struct, frozen=True):
    """What was counted of one event.

    Attributes:
        events: First events.
        keys: Keys at first sight, of those rows whose outcome is known.
        candidate, stable: Rows that each arm answered and that are old enough.
        candidate_known, stable_known: Those of them whose outcome is known.
        dropped: Rows around which the journal lost records.
        pairs: Keys with a row of which both versions have said something, and the outcome is known.
        worse, better: Those for which only the candidate, or only stable, was wrong.
        until_us: Up to which arrival everything is in, microseconds UTC.
    """

    events: list[EventTally] = []
    keys: list[KeyTally] = []
    candidate: int = 0
    stable: int = 0
    candidate_known: int = 0
    stable_known: int = 0
    dropped: int = 0
    pairs: int = 0
    worse: int = 0
    better: int = 0
    until_us: int = 0


class MaturedCounts:
    """Counts outcomes as they mature, in the process that writes the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        folder: Path,
        *,
        clock: Clock,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take up what the ledger has.

        Args:
            ledger: The tailer's.
            folder: Of the journal.
            clock: Says how old a request is.
            is_behind: Whether records that are due may not have been counted yet.
        """
        self._ledger = ledger
        self._index = PredictionIndex(folder, ledger, key_window_s=0)
        self._due = Due(clock)
        self._is_behind = is_behind
        self._counters: dict[str, Counter] = {}
        self._paired: dict[str, KeySet] = {}

    def advance(self, watch: OutcomeWatch) -> None:
        """Count what has matured since the last look."""
        if self._is_behind():
            return
        span = due_requests(self._ledger, self._due, watch.release, watch.since_us, horizon_s=watch.horizon_s)
        if span is None:
            return
        rows = _Matured(watch, span)
        for turns in self._index.turns_between(*span):
            rows.add(turns)
        try:
            with self._ledger.transaction():
                for event in watch.events:
                    self._count(watch, event, rows)
                keep_cut(self._ledger, watch.release, span[1])
        except BaseException:
            self.forget(watch.release)  # what they hold is ahead of what is kept
            raise

    def forget(self, release: str) -> None:
        """Drop what is held in memory for a release."""
        for held in (self._counters, self._paired):
            for name in [name for name in held if name.startswith(f"{release}/")]:
                del held[name]

    def _count(self, watch: OutcomeWatch, event: OutcomeEvent, rows: _Matured) -> None:
        connection = self._ledger.connection
        place = place_of(watch.release, event.name)
        truth = truth_between(connection, watch.service, event, rows.span)
        counter = self._counters.get(place)
        if counter is None:
            changes = pieces_of(connection, place)
            counter = Counter(
                watch.max_keys, names=(EVENT,), changes=changes, shares=shares_of(connection, place)
            )
            self._counters[place] = counter
        seen, counts = rows.judge(event, truth)
        if seen:
            counter.take(seen)
        paired = self._pairs(watch, place, rows.pairs(event, truth)) if event.against else {}
        add_counted(connection, place, counter, {**counts, **paired})

    def _pairs(
        self, watch: OutcomeWatch, place: str, found: Sequence[tuple[bytes, int | None, bool, bool]]
    ) -> dict[str, int]:
        """Count pairs, of each key the first."""
        connection = self._ledger.connection
        name = f"{place}/{_PAIRS}"
        known = self._paired.get(name)
        if known is None:
            known = self._paired[name] = keys_of(connection, name, watch.max_keys)
        first: dict[int, tuple[bool, bool]] = {}
        alone: list[tuple[bool, bool]] = []
        for _, key, candidate, stable in sorted(found, key=lambda each: each[0]):
            if key is None:
                alone.append((candidate, stable))
            else:
                first.setdefault(key, (candidate, stable))
        keys = np.array(sorted(first), np.uint64)
        _, is_known = known.find(keys)
        fresh = keys[~is_known][: known.max_keys - len(known)]
        change = np.zeros(len(fresh), ENTRY)
        change["key"] = fresh
        if len(fresh):
            known.update(change)
            keep_keys(connection, name, known, [change])
        judged = alone + [first[int(key)] for key in fresh]
        return {
            "pairs": len(judged),
            "worse": sum(candidate and not stable for candidate, stable in judged),
            "better": sum(stable and not candidate for candidate, stable in judged),
        }


def place_of(release: str, event: str) -> str:
    """Return the name under which the ledger keeps what is counted of an event."""
    return f"{release}/{event}"


def outcome_tallies(ledger: Ledger, watch: OutcomeWatch, event: str) -> OutcomeTallies:
    """Return what was counted of one event so far."""
    tallies, counts = counted(ledger, place_of(watch.release, event), names=(EVENT,))
    return OutcomeTallies(
        tallies.events[EVENT],
        tallies.keys,
        candidate=counts.get("candidate_rows", 0),
        stable=counts.get("stable_rows", 0),
        candidate_known=counts.get("candidate_known", 0),
        stable_known=counts.get("stable_known", 0),
        dropped=tallies.dropped,
        pairs=counts.get("pairs", 0),
        worse=counts.get("worse", 0),
        better=counts.get("better", 0),
        until_us=cut_ms(ledger, watch.release, watch.since_us) * 1000,
    )


def forget_matured(ledger: Ledger, release: str) -> None:
    """Drop the keys of a release that has ended; what was counted stays."""
    with ledger.transaction():
        ledger.connection.execute(
            "DELETE FROM watch_key WHERE release >= ? AND release < ?", (f"{release}/", f"{release}0")
        )


class Due:
    """Says up to when requests are old enough; a wall clock that jumps ahead makes none older."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms: float | None = None

    def before_ms(self, horizon_s: float) -> int:
        """Return the time before which requests began whose outcomes are in, milliseconds UTC."""
        steady_ms = self._clock.monotonic_s() * 1000
        ahead_ms = self._clock.wall_us() / 1000 - steady_ms
        self._ahead_ms = ahead_ms if self._ahead_ms is None else min(self._ahead_ms, ahead_ms)
        return round(steady_ms + self._ahead_ms - horizon_s * 1000) - SLACK_MS


def cut_ms(ledger: Ledger, name: str, since_us: int) -> int:
    """Return up to which request something is counted that began at `since_us`, milliseconds UTC."""
    found = ledger.connection.execute("SELECT cut_ms FROM matured WHERE release = ?", (name,)).fetchone()
    return int(found[0]) if found is not None else since_us // 1000


def keep_cut(ledger: Ledger, name: str, until_ms: int) -> None:
    """Note how far something is counted; within the transaction of what was."""
    ledger.connection.execute("INSERT OR REPLACE INTO matured VALUES (?, ?)", (name, until_ms))


def due_requests(
    ledger: Ledger, due: Due, name: str, since_us: int, *, horizon_s: float
) -> tuple[int, int] | None:
    """Return which requests are to be counted now, by when they began, milliseconds UTC; None: none yet.

    A time in which nobody asked anything is gone through at once.
    """
    from_ms, due_ms = cut_ms(ledger, name, since_us), due.before_ms(horizon_s)
    if due_ms - from_ms < _LOOK_MS:
        return None
    (first,) = ledger.connection.execute(
        "SELECT min(min_ms) FROM block WHERE max_ms >= ?", (from_ms,)
    ).fetchone()
    begins_ms = due_ms if first is None else max(from_ms, int(first))
    return from_ms, min(due_ms, begins_ms + _LONGEST_MS)


class _Part(NamedTuple):
    """Rows of one stream that are due."""

    turns: Turns
    rows: Column
    is_candidate: bool
    is_shadow: bool


@dataclass
class _Matured:
    """The records of both versions whose requests are due."""

    watch: OutcomeWatch
    span: tuple[int, int]

    def __post_init__(self) -> None:
        self.parts: list[_Part] = []

    def add(self, turns: Turns) -> None:
        stream, watch = turns.stream, self.watch
        if stream.service != watch.service or stream.version not in (watch.stable, watch.candidate):
            return
        is_shadow = stream.kind is RecordKind.SHADOW
        if not is_shadow and stream.arm not in ("stable", "candidate"):
            return
        rows = _rows_between(turns, self.span)
        if len(rows):
            self.parts.append(_Part(turns, rows, stream.version == watch.candidate, is_shadow))

    def judge(self, event: OutcomeEvent, truth: Mapping[Any, Any]) -> tuple[list[Rows], dict[str, int]]:
        """Return the rows of both arms whose outcome is known, and how many there are of each."""
        found, counts = [], dict.fromkeys(_COUNTS, 0)
        for part in self.parts:
            share = _share(part)
            if part.is_shadow or part.turns.buckets is None or not 0 < share < 1:
                continue
            arm = "candidate" if part.is_candidate else "stable"
            said = _judged(part.turns, part.rows, event, truth)
            judged = [(row, wrong) for row, _, wrong in said if wrong is not None]
            counts[f"{arm}_rows"] += len(part.rows)
            counts[f"{arm}_known"] += len(judged)
            if judged:
                found.append(_rows(part, share, judged))
        return found, counts

    def pairs(
        self, event: OutcomeEvent, truth: Mapping[Any, Any]
    ) -> list[tuple[bytes, int | None, bool, bool]]:
        """Return request, key, and whether the candidate and stable were wrong, where both have spoken."""
        said: dict[tuple[bytes, int], dict[bool, tuple[bool, int | None]]] = {}
        for part in self.parts:
            keys = part.turns.key_numbers
            for row, target, wrong in _judged(part.turns, part.rows, event, truth):
                if wrong is None:
                    continue
                key = None if keys is None else int(keys[row])
                said.setdefault(target, {})[part.is_candidate] = (wrong, key)
        return [
            (request, both[True][1], both[True][0], both[False][0])
            for (request, _), both in said.items()
            if len(both) == 2
        ]


def _share(part: _Part) -> float:
    share = part.turns.stream.share
    return round(share if part.is_candidate else 1.0 - share, 6)


def judged_rows(
    turns: Turns, event: OutcomeEvent, truth: Mapping[Any, Any], *, span: tuple[int, int]
) -> Iterator[tuple[int, tuple[bytes, int], bool | None]]:
    """Give row, request and number, and whether the event happened, of the rows that are due.

    None: nobody knows.
    """
    yield from _judged(turns, _rows_between(turns, span), event, truth)


def _rows_between(turns: Turns, span: tuple[int, int]) -> Column:
    due = (turns.request_ms >= span[0]) & (turns.request_ms < span[1])
    return np.flatnonzero(due[turns.request_of_row])


def _judged(
    turns: Turns, rows: Column, event: OutcomeEvent, truth: Mapping[Any, Any]
) -> Iterator[tuple[int, tuple[bytes, int], bool | None]]:
    ids, requests, numbers = turns.request_ids, turns.request_of_row, turns.row_in_request
    column, is_said = None, True
    if event.against and turns.outputs is not None:
        column = turns.outputs.columns.get(event.against)
        is_said = column is not None  # a version that says nothing of it cannot be compared
    for row in rows.tolist():
        request = int(requests[row])
        target = (ids[16 * request : 16 * request + 16], int(numbers[row]))
        value = truth.get(target)
        happened: bool | None = None
        if not event.against:
            happened = _happened(value)
        elif value is not None and is_said:
            # whoever gave no answer was not right
            happened = column is None or _differs(plain(column[row]), value, event.beyond)
        yield row, target, happened


def _happened(value: object) -> bool:
    return isinstance(value, bool | int | float) and value > 0


def _differs(said: object, value: object, beyond: float) -> bool:
    if isinstance(said, bool | int | float) and isinstance(value, bool | int | float):
        number = finite(value)  # what no float can hold is far from all that was said
        return number is None or abs(float(said) - number) > beyond
    return said != value


def _rows(part: _Part, share: float, judged: Sequence[tuple[int, bool]]) -> Rows:
    turns = part.turns
    at = np.array([row for row, _ in judged], np.intp)
    wrong = np.array([wrong for _, wrong in judged], bool)
    requests = turns.request_of_row[at]
    assert turns.buckets is not None
    buckets = turns.buckets[at]
    keys = turns.key_numbers
    if keys is not None:
        keys = keys[at]
    else:  # the request was drawn as a whole: one row of it stands for all
        requests, first, inverse = np.unique(requests, return_index=True, return_inverse=True)
        wrong = np.bincount(inverse, wrong) > 0
        buckets = buckets[first]
    n = len(requests)
    return Rows(
        np.frombuffer(turns.request_ids, ">u8").reshape(-1, 2)[requests],
        keys,
        buckets,
        np.full(n, part.is_candidate),
        np.full(n, share),
        np.where(wrong, 2, 0).astype(np.uint32),
        (turns.flags[requests] & Flag.DROPPED) != 0,
    )


def truth_between(
    connection: sqlite3.Connection, service: str, event: OutcomeEvent, span: tuple[int, int]
) -> dict[Any, Any]:
    """Return the values of an outcome, by request and row, of requests that began in a span of time."""
    least, beyond = ((ms << 80).to_bytes(16) for ms in span)
    names = {"name": event.outcome, "other": UNNAMED if event.unnamed else event.outcome}
    found = {}
    for request, row, value in connection.execute(
        _SELECT_TRUTH, {"service": service, "least": least, "beyond": beyond, **names}
    ):
        with suppress(msgspec.MsgspecError):
            found[request, row] = msgspec.json.decode(value)
    return found
