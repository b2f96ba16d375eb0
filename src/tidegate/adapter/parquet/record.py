"""The record store: predictions as Parquet by service and day, each record in exactly one file.

A part is written under a hidden name, then its row and the positions it reaches are committed to a
small index, then it is renamed. A crash before the commit leaves a draft that is thrown away and
read again; one after it leaves a draft that is renamed at the next start. Whoever reads the folder
without the index sees each record at most once at any time, and exactly once when nothing is running.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from tidegate.adapter.parquet.outbox import SCHEMA as OUTBOX_SCHEMA
from tidegate.adapter.parquet.outbox import begin
from tidegate.adapter.parquet.part import DRAFT, REPLACED, WHOLE, Part, part_of, read_parts, row_of
from tidegate.adapter.parquet.stack import TableStack
from tidegate.adapter.parquet.table import TIME, table_of
from tidegate.core.clock import Clock
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.journal.codec import FORMAT, STREAM, TURN
from tidegate.journal.decode import Ints, StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import Frame, SegmentReader, list_segments

_US_PER_DAY = 86_400_000_000
_MANY_ROWS = 4_096
"""Rows that become a table together: a table costs some milliseconds, however small it is."""
_LEVEL = 1  # of zstd: half the default's time, and 1% larger with numbers that are hardly compressible
_SCHEMA = """
CREATE TABLE IF NOT EXISTS part (
    number INTEGER PRIMARY KEY, service TEXT NOT NULL, day TEXT NOT NULL, contract TEXT NOT NULL,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, state TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS part_day ON part (service, day);
CREATE TABLE IF NOT EXISTS reached (segment TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS next (number INTEGER NOT NULL);
"""


_Key = tuple[str, StreamCodec, int]
"""Segment, stream and sections: what rows of one table have in common."""


class RecordsUnavailable(TidegateError):
    """The record store cannot be read or written. What it would have kept is still in the journal."""

    code = "records_unavailable"


class RecordStore:
    """Writes what the tailer has read; one process at a time. Readers need no lock."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        max_rows: int = 100_000,  # some 40 MB of 40 columns
        max_age_s: float = 60.0,  # a crash costs reading a minute again, and a day has 1,440 parts at most
        n_compacted: int = 16,  # parts of one day from which they are put together
        copy_to: str = "",
    ) -> None:
        """Open the store, and finish what a crash left half done.

        Args:
            folder: Where the files go; made if it is not there.
            clock: Says when rows have waited long enough.
            max_rows: Rows that wait in memory at most: its bound.
            max_age_s: How long they wait at most.
            n_compacted: Parts of one service, day and contract that become one file.
            copy_to: Where each part is copied to as well, by whoever reads the outbox; "": nowhere.

        Raises:
            RecordsUnavailable: The folder or its index cannot be used.
        """
        self.folder = folder
        self._clock = clock
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._n_compacted = n_compacted
        self._copies = bool(copy_to)
        self._turns: dict[_Key, list[tuple[Turns, Ints]]] = {}
        self._tables: dict[tuple[str, int, str], TableStack] = {}
        self._n_held = 0
        self._held_since_s: float | None = None
        self._reached: dict[str, int] = {}
        with self._translated():
            folder.mkdir(parents=True, exist_ok=True)
            self._index = sqlite3.connect(folder / "index.db", isolation_level=None, timeout=30)
            self._index.execute("PRAGMA journal_mode = WAL")
            self._index.execute("PRAGMA synchronous = FULL")  # a part is not read again once it is listed
            self._index.executescript(_SCHEMA + OUTBOX_SCHEMA)
            with self._transaction() as index:
                begin(index, copy_to)
            self._stored: dict[str, int] = dict(self._index.execute("SELECT segment, position FROM reached"))
            self._recover()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, pl.exceptions.PolarsError) as error:
            self.forget()
            raise RecordsUnavailable(
                f"The record store {self.folder} cannot be written: {error}.",
                hint="Check free space and permissions; it goes on from where it stopped.",
                path=str(self.folder),
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._index.execute("BEGIN IMMEDIATE")
        try:
            yield self._index
        except BaseException:
            self._index.execute("ROLLBACK")
            raise
        self._index.execute("COMMIT")

    def _recover(self) -> None:
        """Rename parts that were committed, and throw away drafts that were not."""
        for row in self._index.execute(
            "SELECT number, service, day, contract, rows, bytes FROM part WHERE state = ?", (REPLACED,)
        ).fetchall():
            part_of(row).path(self.folder).unlink(missing_ok=True)
            self._index.execute("DELETE FROM part WHERE number = ?", (row[0],))
        for row in self._index.execute(
            "SELECT number, service, day, contract, rows, bytes FROM part WHERE state = ?", (DRAFT,)
        ).fetchall():
            self._show(part_of(row))
        for draft in self.folder.glob("*/*/.*.draft"):
            draft.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the index back. Rows that wait are read again by the next."""
        self.forget()
        self._index.close()

    def forget(self) -> None:
        """Drop the rows that wait, as after a fault of whoever handed them over."""
        self._turns.clear()
        self._tables.clear()
        self._reached.clear()
        self._n_held = 0
        self._held_since_s = None

    def position(self, segment: str) -> int:
        """Return up to where a segment is taken: in a file, or waiting."""
        return max(self._reached.get(segment, 0), self._stored.get(segment, 0))

    def stored(self, segment: str) -> int:
        """Return up to where a segment's records are in files that survive a crash."""
        return self._stored.get(segment, 0)

    @property
    def n_waiting(self) -> int:
        """Rows in memory."""
        return self._n_held

    def take(self, segment: str, turns: Turns, frames: Sequence[Frame]) -> None:
        """Take rows that the tailer has decoded; those that are in a file already are left out."""
        with self._translated():
            self._take(segment, turns, frames)

    def _take(self, segment: str, turns: Turns, frames: Sequence[Frame]) -> None:
        offsets = np.fromiter((frame.offset for frame in frames), np.int64, len(frames))
        first_new = int(np.searchsorted(offsets, self._stored.get(segment, 0)))
        if first_new == len(offsets):
            return
        turns = turns.since(first_new)
        key = (segment, *turns.form)
        waiting = self._turns.setdefault(key, [])
        waiting.append((turns, offsets[first_new:]))
        self._n_held += turns.n_rows
        if self._held_since_s is None:
            self._held_since_s = self._clock.monotonic_s()
        if sum(each.n_rows for each, _ in waiting) >= _MANY_ROWS:
            self._make_table(key)

    def _make_table(self, key: _Key) -> None:
        parts, offsets = zip(*self._turns.pop(key), strict=True)
        turns = Turns.together(parts)
        table = table_of(turns, key[0], np.concatenate(offsets))
        contract = turns.stream.contract.rpartition(":")[2][:8]
        arrived = turns.arrived_us
        first, last = int(arrived.min()) // _US_PER_DAY, int(arrived.max()) // _US_PER_DAY
        for day in range(first, last + 1):
            if first == last:
                part = table
            else:
                low, high = (pl.lit(bound * _US_PER_DAY).cast(TIME) for bound in (day, day + 1))
                part = table.filter((pl.col("arrived_at") >= low) & (pl.col("arrived_at") < high))
            if part.height:
                self._tables.setdefault((turns.stream.service, day, contract), TableStack()).push(part)

    def advance(self, positions: Mapping[str, int]) -> None:
        """Note up to where whole segments have been taken, and write if enough is waiting.

        Raises:
            RecordsUnavailable: It cannot be written; the rows that waited are read again.
        """
        self._reached.update(positions)
        waited = self._held_since_s is not None and (
            self._clock.monotonic_s() - self._held_since_s >= self._max_age_s
        )
        if self._n_held >= self._max_rows or waited:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one part for each service, day and contract.

        Raises:
            RecordsUnavailable: It cannot be written; the rows that waited are read again.
        """
        if not self._n_held and all(self._stored.get(s) == p for s, p in self._reached.items()):
            return
        with self._translated():
            for key in list(self._turns):
                self._make_table(key)
            number = self._next_number()
            parts = []
            for service, day, contract in sorted(self._tables):
                on = datetime.fromtimestamp(day * 86_400, UTC).date()
                table = self._tables[service, day, contract].whole()
                if not table["arrived_at"].is_sorted():
                    table = table.sort("arrived_at", maintain_order=True)
                parts.append(self._write(Part(number, service, on, contract, table.height, 0), table))
                number += 1
            with self._transaction() as index:
                index.executemany(
                    "INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(*row_of(part), DRAFT) for part in parts],
                )
                if self._copies:
                    index.executemany("INSERT INTO outbox VALUES (?)", [(part.number,) for part in parts])
                index.executemany("INSERT OR REPLACE INTO reached VALUES (?, ?)", self._reached.items())
                _set_next(index, number)
            self._stored.update(self._reached)
            self.forget()
            for part in parts:
                self._show(part)
            for part in parts:
                self._compact(part)

    def _next_number(self) -> int:
        row = self._index.execute("SELECT number FROM next").fetchone()
        return int(row[0]) if row else 1

    def _write(self, part: Part, table: pl.DataFrame | pl.LazyFrame) -> Part:
        draft = _draft_of(part.path(self.folder))
        draft.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(table, pl.LazyFrame):
            table.sink_parquet(draft, compression_level=_LEVEL)
        else:
            table.write_parquet(draft, compression_level=_LEVEL)
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return msgspec.structs.replace(part, size_bytes=draft.stat().st_size)

    def _show(self, part: Part) -> None:
        path = part.path(self.folder)
        draft = _draft_of(path)
        if draft.exists():
            draft.replace(path)
        self._index.execute("UPDATE part SET state = ? WHERE number = ?", (WHOLE, part.number))

    def _compact(self, like: Part) -> None:
        """Put the parts of a day together once there are many."""
        parts = [
            part
            for part in self.parts(like.service, since=like.day, until=like.day)
            if part.contract == like.contract
        ]
        waiting = {number for (number,) in self._index.execute("SELECT number FROM outbox")}
        small = [
            part
            for part in parts
            if part.rows < self._max_rows * self._n_compacted // 2 and part.number not in waiting
        ]
        if len(small) < self._n_compacted:
            return
        number = self._next_number()
        paths = [part.path(self.folder) for part in small]
        whole = Part(number, like.service, like.day, like.contract, sum(part.rows for part in small), 0)
        whole = self._write(whole, pl.scan_parquet(paths, glob=False))
        with self._transaction() as index:
            index.execute("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?)", (*row_of(whole), DRAFT))
            index.executemany(
                "UPDATE part SET state = ? WHERE number = ?", [(REPLACED, part.number) for part in small]
            )
            _set_next(index, number + 1)
        # first the old ones go: a reader without the index may miss rows for a moment, never see them twice
        self._drop(small)
        self._show(whole)

    def _drop(self, parts: Iterable[Part]) -> None:
        for part in parts:
            part.path(self.folder).unlink(missing_ok=True)
            self._index.execute("DELETE FROM part WHERE number = ?", (part.number,))

    def parts(
        self, service: str | None = None, *, since: date | None = None, until: date | None = None
    ) -> list[Part]:
        """Return the files that hold records, by service, day and number."""
        return read_parts(self._index, service, since=since, until=until)

    def retain(self, keep_days: int, *, today: date) -> int:
        """Delete the files of days that are over for longer than `keep_days`; returns how many records.

        Raises:
            InvalidSetting: `keep_days` is negative: even what comes today would be old.
        """
        if keep_days < 0:
            raise InvalidSetting(
                f"Records cannot be kept for {keep_days} days.", hint="Give 0 or more days.", days=keep_days
            )
        until = today - timedelta(days=keep_days + 1)
        old = self.parts(until=until)
        with self._translated(), self._transaction() as index:
            index.executemany(
                "UPDATE part SET state = ? WHERE number = ?", [(REPLACED, part.number) for part in old]
            )
        self._drop(old)
        for part in old:
            folder = part.path(self.folder).parent
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return sum(part.rows for part in old)

    def catch_up(self, journal: Path, counted: Mapping[str, int]) -> int:
        """Take what was counted before but is in no file: after a crash, or on a journal that is older.

        Args:
            journal: Folder of the segments.
            counted: Segment -> bytes that the tailer will not hand over again.

        Returns:
            How many rows it took.

        Raises:
            RecordsUnavailable: It cannot be written.
        """
        n_rows = 0
        for entry in list_segments(journal):
            until = counted.get(entry.name, 0)
            if self.position(entry.name) >= until:
                continue
            with SegmentReader(entry.path) as reader:
                n_rows += self._read(entry.name, reader, until)
            self.advance({entry.name: until})
        return n_rows

    def _read(self, segment: str, reader: SegmentReader, until: int) -> int:
        streams: dict[int, StreamCodec] = {}
        known, n_before, n_rows = self.position(segment), self._n_held, 0
        while frames := reader.read():
            groups: dict[bytes, list[Frame]] = {}
            for frame in frames:
                body = frame.body
                if body[1] != FORMAT or frame.offset >= until:
                    continue
                if body[0] == STREAM:
                    streams[int.from_bytes(body[2:4], "little")] = StreamCodec(decode_stream(body))
                elif body[0] == TURN and frame.offset >= known:
                    groups.setdefault(bytes(body[:8]), []).append(frame)
            for group in groups.values():
                codec = streams.get(int.from_bytes(group[0].body[2:4], "little"))
                if codec is not None:
                    bodies = [frame.body for frame in group]
                    self.take(segment, Turns(codec, mask_of(group[0].body), bodies), group)
            reached = min(frames[-1].end, until)
            n_rows += self._n_held - n_before
            self.advance({segment: reached})
            n_before = self._n_held
            if reached == until:
                break
        return n_rows


def _set_next(index: sqlite3.Connection, number: int) -> None:
    index.execute("DELETE FROM next")
    index.execute("INSERT INTO next VALUES (?)", (number,))


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.draft")


__all__ = ["Part", "RecordStore", "RecordsUnavailable", "read_parts"]
