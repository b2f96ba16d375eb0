"""The tailer: follows all segments of a folder and turns them into the ledger.

What has been read is counted, indexed and joined in the same transaction that moves the positions,
so a crash at any point means that the same bytes are read again, and counted once.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from tidegate.core.clock import Clock
from tidegate.core.error import Corrupt, NotFound, TidegateError
from tidegate.journal.codec import FORMAT, OUTCOMES, REFUSALS, STREAM, TURN
from tidegate.journal.decode import Ints, StreamCodec, Turns, decode_outcomes, decode_refusals, mask_of
from tidegate.journal.index import Block, PredictionIndex, blocks_of, declaration_of
from tidegate.journal.ledger import Ledger, LedgerUnavailable
from tidegate.journal.outcome import OutcomeBook, Uncountable
from tidegate.journal.pair import Pairing, forget_old_keys
from tidegate.journal.reader import Damage, End, Frame, SegmentEntry, SegmentReader, list_segments
from tidegate.journal.record import Outcome, RecordKind
from tidegate.journal.retention import KEY_WINDOW_S, LATE_S
from tidegate.journal.slice import SliceBook
from tidegate.journal.tally import US_PER_MINUTE, Tally, TallyKey, count_turns
from tidegate.journal.watched import Counters

_log = logging.getLogger("tidegate.journal")

_JOIN_LIMIT = 2000
_MAX_OPEN = 256
_SINK_RETRY_S = 5.0
_REREAD_BLOCKS = 64  # 4 MiB: more than is written while a copy waits for its shadow
_END_OF_TIME_US = 2**63 - 1
_QUAD = struct.Struct("<Q")
_SHORT = struct.Struct("<H")
_UNREADABLE = (TidegateError, ValueError, IndexError, struct.error, msgspec.MsgspecError)


class Progress(msgspec.Struct):
    """What one call of `poll` did.

    Attributes:
        read_bytes: Bytes of the journal that were counted.
        requests, rows: Requests and rows that were counted.
        settled: Outcomes that are no longer pending.
        behind_bytes: Bytes that are there and not counted yet.
        damages: Damage that was met for the first time.
        unkept: Why rows could not be kept as files just now; they are caught up with later.
    """

    read_bytes: int = 0
    requests: int = 0
    rows: int = 0
    settled: int = 0
    behind_bytes: int = 0
    damages: list[Damage] = []
    unkept: str = ""


class Sink(Protocol):
    """Keeps the rows themselves, with positions of its own: it may be ahead of the ledger or behind."""

    def take(self, segment: str, turns: Turns, frames: Sequence[Frame]) -> None:
        """Take rows in."""
        ...

    def advance(self, positions: Mapping[str, int]) -> None:
        """Note up to where whole segments have been handed over; may write."""
        ...

    def forget(self) -> None:
        """Drop what was taken and not written: it will be handed over again."""
        ...

    def catch_up(self, journal: Path, counted: Mapping[str, int]) -> int:
        """Take what was counted and will not be handed over again."""
        ...


class _Source:
    """A segment that is being followed."""

    def __init__(self, number: int, reader: SegmentReader, streams: dict[int, StreamCodec]) -> None:
        self.number = number
        self.reader = reader
        self.streams = streams
        self.last_us = reader.identity.created_us if reader.identity else 0

    @property
    def behind_bytes(self) -> int:
        """How many of the segment's bytes are not counted yet."""
        return max(0, self.reader.size_bytes - self.reader.position)


class _Draught:
    """What was read and is not yet in the ledger."""

    def __init__(self) -> None:
        self.groups: dict[_Source, dict[int, list[Frame]]] = {}
        self.outcomes: list[Outcome] = []
        self.refusals: dict[tuple[str, int, str], int] = {}
        self.streams: list[tuple[int, int, bytes]] = []
        self.damages: list[Damage] = []
        self.touched: dict[_Source, None] = {}
        self.size_bytes = 0


class Tailer:
    """Follows a journal folder; one process at a time, one thread."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        *,
        clock: Clock,
        batch_bytes: int = 8 << 20,  # some 35,000 requests of 20 floats
        settle_s: float = 1.0,  # a shadow's record follows its prediction's; an outcome waits for both
        give_up_s: float = LATE_S,  # an hour, in which other cells and edges deliver their segments
        key_window_s: float = KEY_WINDOW_S,  # 36 bytes a keyed row are kept so long
        sink: Sink | None = None,
    ) -> None:
        """Take up where the ledger stands.

        Args:
            folder: Where the segments are.
            ledger: Where the counts are; this is its only writer.
            clock: Wall time, by which outcomes are tried again.
            batch_bytes: About how much is read before it is committed: the bound of memory.
            settle_s: How long after it was read an outcome is joined at the earliest.
            give_up_s: How long after its receipt an outcome without prediction is unknown.
            key_window_s: How far back predictions are found by key, in event time.
            sink: Keeps the rows themselves; None: nobody does, beside the journal.
        """
        self._folder = folder
        self._ledger = ledger
        self._clock = clock
        self._batch_bytes = batch_bytes
        self._settle_us = int(settle_s * 1e6)
        self._index = PredictionIndex(folder, ledger, key_window_s=key_window_s)
        self._slices = SliceBook(ledger.connection)
        self._book = OutcomeBook(ledger, self._index, give_up_s=give_up_s, slices=self._slices)
        self._pairing = Pairing()
        self._watched: Counters | None = None
        self._sink = sink
        self._sink_follows = False
        self._sink_again_s = 0.0
        self._sources: dict[str, _Source] = {}
        self._finished: set[str] = set()
        self._unopened: list[SegmentEntry] = []

    def poll(self, *, max_bytes: int = 64 << 20, settle_now: bool = False) -> Progress:
        """Count what has come since the last call, and join outcomes that are due.

        Args:
            max_bytes: About how much to read at most; the rest is left for the next call.
            settle_now: Do not wait for `settle_s`, nor for the next try of pending outcomes.

        Raises:
            Conflict: Another process writes the ledger.
            LedgerUnavailable: The ledger cannot be written.
        """
        progress = Progress()
        try:
            if self._watched is None:
                self._watched = Counters(self._ledger)
            self._watched.refresh()
            self._catch_up(progress)
            while progress.read_bytes < max_bytes:
                self._discover()
                draught = self._draw()
                if not draught.touched:
                    break
                self._commit(draught, progress)
                if draught.size_bytes < self._batch_bytes and not self._unopened:
                    break  # what has come meanwhile is little, and costs as much as all that came before
            self._keep(lambda sink: sink.advance({}), progress)  # what waits may be due
            progress.behind_bytes = self.behind_bytes()
            self._join(progress, settle_now=settle_now)
        except sqlite3.Error as error:
            self.close()
            raise LedgerUnavailable(
                f"The ledger {self._ledger.path} cannot be written: {error}.",
                hint="Check free space and permissions; counting goes on from where it stopped.",
                path=str(self._ledger.path),
            ) from error
        except BaseException:
            self.close()  # the readers have moved on from what the ledger says; begin again from there
            raise
        return progress

    def behind_bytes(self) -> int:
        """Return how many bytes are not counted yet, of the segments that the last call knew."""
        followed = sum(source.behind_bytes for source in self._sources.values())
        return followed + sum(_size_of(entry) for entry in self._unopened)

    def close(self) -> None:
        """Give the segments' files back. A later `poll` takes up where the ledger stands."""
        for source in self._sources.values():
            source.reader.close()
        self._sources.clear()
        self._finished.clear()
        if self._sink is not None:
            self._sink.forget()
            self._sink_follows = False
        self._pairing.reset()
        self._slices.reset()
        self._watched = None

    def _discover(self) -> None:
        """Open what has come, oldest first, as many as may be open."""
        entries = list_segments(self._folder)
        self._finished.intersection_update(entry.name for entry in entries)
        new = [
            entry for entry in entries if entry.name not in self._sources and entry.name not in self._finished
        ]
        if not new:
            self._unopened = []
            return
        known = self._register(new)
        new = [entry for entry in new if entry.name not in self._finished]
        n_free = _MAX_OPEN - len(self._sources)
        self._unopened = new[n_free:]
        for entry in new[:n_free]:
            number, position = known[entry.name]
            try:
                reader = SegmentReader(entry.path, position=position)
            except NotFound:  # cleared away between the listing and now
                continue
            rows = self._ledger.connection.execute(
                "SELECT number, declaration FROM stream WHERE segment = ?", (number,)
            )
            streams = {stream: self._index.codec_for(declaration) for stream, declaration in rows}
            self._sources[entry.name] = _Source(number, reader, streams)
            if any(codec.stream.shadows for codec in streams.values()):
                self._reread(entry, number, position, streams)

    def _reread(
        self, entry: SegmentEntry, number: int, position: int, streams: dict[int, StreamCodec]
    ) -> None:
        """Read the last counted answers again, whose shadows' records may still come."""
        rows = self._ledger.connection.execute(
            "SELECT start FROM block WHERE segment = ? AND start < ? ORDER BY start DESC LIMIT ?",
            (number, position, _REREAD_BLOCKS),
        ).fetchall()
        groups: dict[int, list[Frame]] = {}
        if not rows:
            return
        with SegmentReader(entry.path, position=rows[-1][0], chunk_bytes=position - rows[-1][0]) as reader:
            for frame in reader.read():
                body = frame.body
                codec = streams.get(_stream_number(body)) if body[0] == TURN and body[1] == FORMAT else None
                if frame.offset < position and codec is not None and codec.stream.shadows:
                    groups.setdefault(_group_key(body), []).append(frame)
        for frames in groups.values():
            with suppress(*_UNREADABLE):
                self._pairing.take(_decode_turns(streams[_stream_number(frames[0].body)], frames))

    def _register(self, entries: Sequence[SegmentEntry]) -> dict[str, tuple[int, int]]:
        """Return number and position of segments by name, and sort out those that are finished."""
        known: dict[str, tuple[int, int]] = {}
        missing = []
        for entry in entries:
            row = self._ledger.connection.execute(
                "SELECT id, position, end FROM segment WHERE name = ?", (entry.name,)
            ).fetchone()
            if row is None:
                if self._ledger.is_cleared(entry.name):  # a copy that came back
                    self._finished.add(entry.name)
                else:
                    missing.append(entry)
            elif row[2] == End.GROWING.value:
                known[entry.name] = (row[0], row[1])
            else:
                self._finished.add(entry.name)
        if missing:
            seen_us = self._clock.wall_us()
            with self._ledger.transaction():
                for entry in missing:
                    cursor = self._ledger.connection.execute(
                        "INSERT INTO segment (name, position, end, seen_us) VALUES (?, 0, ?, ?)",
                        (entry.name, End.GROWING.value, seen_us),
                    )
                    known[entry.name] = (cursor.lastrowid or 0, 0)
        return known

    def _draw(self) -> _Draught:
        """Read about a batch, oldest segments first."""
        draught = _Draught()
        for name in sorted(self._sources):
            source = self._sources[name]
            reader = source.reader
            before = (reader.position, reader.end)
            while draught.size_bytes < self._batch_bytes and (frames := reader.read()):
                draught.size_bytes += frames[-1].end - frames[0].offset
                self._sort(source, frames, draught)
            if (reader.position, reader.end) != before or reader.damage is not None:
                draught.touched[source] = None
            if reader.damage is not None:
                draught.damages.append(reader.damage)
            if draught.size_bytes >= self._batch_bytes:
                break
        return draught

    def _sort(self, source: _Source, frames: Iterable[Frame], draught: _Draught) -> None:
        """Put turns by stream and sections, and take in what the other frames say."""
        groups = draught.groups.setdefault(source, {})
        for frame in frames:
            body = frame.body
            kind = body[0]
            if kind == TURN:
                key = _group_key(body)
                group = groups.get(key)
                if group is None:
                    group = groups[key] = []
                group.append(frame)
            elif body[1] == FORMAT:
                try:
                    self._take(source, kind, body, draught)
                except _UNREADABLE as error:
                    draught.damages.append(_unreadable(source, frame, error))

    def _take(self, source: _Source, kind: int, body: memoryview, draught: _Draught) -> None:
        if kind == STREAM:
            number = _stream_number(body)
            declaration = declaration_of(body)
            source.streams[number] = self._index.codec_for(declaration)
            draught.streams.append((source.number, number, declaration))
        elif kind == OUTCOMES:
            draught.outcomes += decode_outcomes(body)
        elif kind == REFUSALS:
            for refusal in decode_refusals(body):
                key = (refusal.service, refusal.at_us // US_PER_MINUTE, refusal.cause)
                draught.refusals[key] = draught.refusals.get(key, 0) + refusal.count

    def _commit(self, draught: _Draught, progress: Progress) -> None:
        tallies: dict[TallyKey, Tally] = {}
        blocks: list[tuple[int, list[Block]]] = []
        keyed: list[Turns] = []
        watched: list[Turns] = []
        for source, groups in draught.groups.items():
            places = _Places()
            for turns, frames in self._decode(source, groups, draught):
                count_turns(turns, tallies)
                places.add(turns, frames)
                self._keep(partial(_hand, source.reader.name, turns, frames), progress)
                self._slices.take(turns)
                self._pairing.take(turns)
                watched.append(turns)
                if turns.key_hashes is not None:
                    keyed.append(turns)
                source.last_us = max(source.last_us, int(turns.arrived_us.max()))
                progress.requests += turns.n_requests
                progress.rows += turns.n_rows
            if places:
                blocks.append((source.number, places.blocks()))
        ends = [
            (source.reader.position, source.reader.end.value, source.number) for source in draught.touched
        ]
        found_us = self._clock.wall_us()
        if self._watched is not None:
            self._watched.take(watched)
        with self._ledger.transaction():
            connection = self._ledger.connection
            connection.executemany("INSERT OR REPLACE INTO stream VALUES (?, ?, ?)", draught.streams)
            self._ledger.add_tallies(tallies)
            self._slices.keep()
            self._ledger.add_refusals(draught.refusals)
            for number, found in blocks:
                self._index.add_blocks(number, found)
            for turns in keyed:
                self._index.add_keys(turns)
            if self._watched is not None:
                self._watched.keep()
            if self._pairing.has_work:
                self._pairing.settle(connection)
                forget_old_keys(connection)
            self._book.take(draught.outcomes, try_us=found_us + self._settle_us)
            connection.executemany(
                "INSERT OR IGNORE INTO damage VALUES (?, ?, ?, ?)",
                [(one.segment, one.offset, one.reason, found_us) for one in draught.damages],
            )
            connection.executemany("UPDATE segment SET position = ?, end = ? WHERE id = ?", ends)
        progress.read_bytes += draught.size_bytes
        progress.damages += draught.damages
        reached = {source.reader.name: source.reader.position for source in draught.touched}
        self._keep(lambda sink: sink.advance(reached), progress)
        self._drop_finished(draught.touched)

    def _keep(self, act: Callable[[Sink], object], progress: Progress) -> None:
        """Have the sink do something; what it cannot do now is caught up with later, counting goes on."""
        if self._sink is None or not self._sink_follows:
            return
        try:
            act(self._sink)
        except TidegateError as error:
            self._sink.forget()
            self._sink_follows = False
            self._sink_again_s = self._clock.monotonic_s() + _SINK_RETRY_S
            progress.unkept = error.message

    def _catch_up(self, progress: Progress) -> None:
        if self._sink is None or self._sink_follows or self._clock.monotonic_s() < self._sink_again_s:
            return
        self._sink_follows = True
        counted = {each.name: each.position for each in self._ledger.segments()}
        self._keep(lambda sink: sink.catch_up(self._folder, counted), progress)

    def _drop_finished(self, sources: Iterable[_Source]) -> None:
        for source in sources:
            if source.reader.end is not End.GROWING:
                source.reader.close()
                del self._sources[source.reader.name]
                self._finished.add(source.reader.name)

    def _decode(
        self, source: _Source, groups: dict[int, list[Frame]], draught: _Draught
    ) -> Iterator[tuple[Turns, list[Frame]]]:
        """Decode each group; frame by frame where the group cannot be, so that the others count."""
        for frames in groups.values():
            first = frames[0].body
            if first[1] != FORMAT:
                continue
            codec = source.streams.get(_stream_number(first))
            if codec is None:
                reason = f"its stream {_stream_number(first)} was never declared"
                draught.damages += [Damage(source.reader.name, frame.offset, reason) for frame in frames]
                continue
            try:
                yield _decode_turns(codec, frames), frames
            except _UNREADABLE:
                for frame in frames:
                    try:
                        turns = _decode_turns(codec, [frame])
                    except _UNREADABLE as error:
                        draught.damages.append(_unreadable(source, frame, error))
                    else:
                        yield turns, [frame]

    def _join(self, progress: Progress, *, settle_now: bool) -> None:
        """Join the outcomes whose predictions must have been counted by now, if they are in the journal.

        A prediction is written before its answer leaves, so before anyone can send its outcome. Where
        the tailer is behind, only what was written before the oldest thing unread has been counted.
        """
        unread_us = [source.last_us for source in self._sources.values() if source.behind_bytes]
        unread_us += [_created_us(entry) for entry in self._unopened]
        before_us = min(unread_us, default=_END_OF_TIME_US)
        if settle_now:
            with self._ledger.transaction():
                self._book.retry_all()
        while True:
            now_us = self._clock.wall_us()
            waiting = self._book.due(now_us=now_us, before_us=before_us, limit=_JOIN_LIMIT)
            if not waiting:
                return
            located = self._book.locate(waiting)
            try:
                with self._ledger.transaction() as commit:
                    progress.settled += self._book.settle(waiting, located, now_us=now_us, commit=commit)
            except Uncountable as error:
                _log.exception("outcome.unreadable: %s", error)
                with self._ledger.transaction():
                    self._book.set_aside(error.outcome)
                progress.settled += 1


class _Places:
    """Where the turns of one segment are, and the times of their ids."""

    def __init__(self) -> None:
        self._columns: list[tuple[Ints, Ints, Ints, Ints]] = []

    def __bool__(self) -> bool:
        return bool(self._columns)

    def add(self, turns: Turns, frames: Sequence[Frame]) -> None:
        n_requests = turns.heads["n_requests"].astype(np.int64)
        firsts = np.cumsum(n_requests) - n_requests
        self._columns.append(
            (
                np.array([frame.offset for frame in frames], np.int64),
                np.array([frame.end for frame in frames], np.int64),
                np.minimum.reduceat(turns.request_ms, firsts),
                np.maximum.reduceat(turns.request_ms, firsts),
            )
        )

    def blocks(self) -> list[Block]:
        offsets, ends, least, greatest = (np.concatenate(c) for c in zip(*self._columns, strict=True))
        order = np.argsort(offsets)
        return blocks_of(offsets[order], ends[order], least[order], greatest[order])


def _decode_turns(codec: StreamCodec, frames: Sequence[Frame]) -> Turns:
    """Decode what is counted and indexed, so that nothing can fail once it is being added up.

    Raises:
        One of `_UNREADABLE`.
    """
    turns = Turns(codec, mask_of(frames[0].body), [frame.body for frame in frames])
    if not turns.heads["n_requests"].all() or int(turns.rows.sum()) != turns.n_rows:
        raise Corrupt("A turn's counts of requests and rows contradict each other.")
    for lengths in (turns.arrived_us, turns.service_us, turns.flags, turns.request_ms):
        if len(lengths) != turns.n_requests:
            raise Corrupt("A turn has another number of requests than it says.")
    if turns.errors is not None and len(turns.errors) != turns.n_requests:
        raise Corrupt("A turn has another number of errors than of requests.")
    if turns.key_hashes is not None and (
        len(turns.key_hashes) != 16 * turns.n_rows or len(turns.event_us) != turns.n_rows
    ):
        raise Corrupt("A turn has another number of keys than of rows.")
    if turns.stream.shadows or turns.stream.kind is RecordKind.SHADOW or turns.stream.slicing.fields:
        _ = turns.outputs, turns.inputs  # decoded here, since pairs and slices are made of them
    return turns


def _hand(segment: str, turns: Turns, frames: Sequence[Frame], sink: Sink) -> None:
    sink.take(segment, turns, frames)


def _unreadable(source: _Source, frame: Frame, error: Exception) -> Damage:
    return Damage(source.reader.name, frame.offset, f"the frame is whole but cannot be understood: {error}")


def _size_of(entry: SegmentEntry) -> int:
    try:
        return entry.path.stat().st_size
    except FileNotFoundError:  # renamed or cleared away since it was listed
        return 0


def _created_us(entry: SegmentEntry) -> int:
    digits = entry.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _group_key(body: memoryview) -> int:
    """Return kind, format, stream and mask of a turn as one number."""
    key: int = _QUAD.unpack_from(body)[0]
    return key


def _stream_number(body: memoryview) -> int:
    number: int = _SHORT.unpack_from(body, 2)[0]
    return number
