"""Which segments may go, and how they do: never before what is in them is kept elsewhere.

A segment goes when all of it is counted, all of it is in files, and outcomes of its predictions have
had their time; and then only where the policy asks for it. It is noted in the ledger first, deleted
second and forgotten third: whatever dies in between, the next round ends it, and a copy that comes
back is not counted again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tidegate.core.clock import Clock
from tidegate.journal.decode import decode_stream
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import End, SegmentEntry, list_segments
from tidegate.journal.segment import OPEN_SUFFIX, SEALED_SUFFIX
from tidegate.journal.watched import watches

_US_PER_S = 1_000_000
_US_PER_MS = 1000
_US_PER_DAY = 86_400 * _US_PER_S
LATE_S = 3600.0
"""How long an outcome waits for its prediction: so much later than its time it may still be joined."""
KEY_WINDOW_S = 7 * 86_400.0
"""How far back a prediction is found by its key."""


class RetentionPolicy(msgspec.Struct, frozen=True):
    """When segments go; without any figure they stay.

    Attributes:
        keep_days: Days after its last record that a segment is kept; 0: no limit.
        max_bytes: Size of all segments above which the oldest go earlier; 0: no limit.
    """

    keep_days: int = 0
    max_bytes: int = 0


class HeldSegment(msgspec.Struct, frozen=True):
    """A segment that is there.

    Attributes:
        name: Its name.
        size_bytes: Its size.
        last_us: When its last prediction arrived, microseconds UTC; when it was begun, if it has none.
        services: Whose records it has.
        reason: Why it must stay, in words; empty: it may go.
    """

    name: str
    size_bytes: int
    last_us: int
    services: tuple[str, ...]
    reason: str = ""


class ClearedSegments(msgspec.Struct, frozen=True):
    """What went.

    Attributes:
        count: Segments.
        size_bytes: Their size.
        last_us: When the newest of their records had arrived; 0 if none went.
    """

    count: int = 0
    size_bytes: int = 0
    last_us: int = 0


class SegmentKeeper:
    """Looks which segments may go, and deletes them. For the one process that writes the ledger."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        *,
        clock: Clock,
        stored: Callable[[str], int],
        mature_s: Callable[[str], float],
    ) -> None:
        """Take a journal.

        Args:
            folder: Where the segments are.
            ledger: What was counted of them.
            clock: Says how old they are.
            stored: Segment -> bytes of it whose records are in files that survive a crash.
            mature_s: Service -> seconds within which an outcome comes, if it does.
        """
        self._folder = folder
        self._ledger = ledger
        self._clock = clock
        self._stored = stored
        self._mature_s = mature_s

    def segments(self) -> list[HeldSegment]:
        """Return what is there, oldest first, and why each must stay."""
        keyed = {name for (name,) in self._execute("SELECT DISTINCT service FROM key_block")}
        waiting = self._execute(
            "SELECT 1 FROM outcome WHERE state = 'pending' AND request = x'' LIMIT 1"
        ).fetchone()
        found = []
        for entry in list_segments(self._folder):
            held = self._held(entry, keyed, has_waiting=waiting is not None)
            if held is not None:
                found.append(held)
        return found

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._ledger.connection.execute(statement, values)

    def _held(self, entry: SegmentEntry, keyed: set[str], *, has_waiting: bool) -> HeldSegment | None:
        try:
            status = entry.path.stat()
        except FileNotFoundError:  # renamed since it was listed; the next round sees it
            return None
        row = self._execute("SELECT id, position, end FROM segment WHERE name = ?", (entry.name,)).fetchone()
        if row is None:
            gone = self._execute("SELECT 1 FROM cleared WHERE name = ?", (entry.name,)).fetchone()
            reason = "a copy of one that went before; it is not read" if gone else "not counted yet"
            return HeldSegment(entry.name, status.st_size, _created_us(entry), (), reason)
        number, position, end = row
        first_ms, last_ms = self._execute(
            "SELECT min(min_ms), max(max_ms) FROM block WHERE segment = ?", (number,)
        ).fetchone()
        last_us = _created_us(entry) if last_ms is None else last_ms * _US_PER_MS
        services = self._services(number)
        reason = self._unread(entry.name, position, End(end))
        if not reason and last_ms is not None:
            reason = self._unripe(services, last_us, keyed, has_waiting=has_waiting)
            reason = reason or self._awaited(first_ms, last_ms)
        return HeldSegment(entry.name, status.st_size, last_us, services, reason)

    def _services(self, number: int) -> tuple[str, ...]:
        rows = self._execute("SELECT declaration FROM stream WHERE segment = ?", (number,))
        return tuple(sorted({decode_stream(memoryview(body)).service for (body,) in rows}))

    def _unread(self, name: str, position: int, end: End) -> str:
        """Say why a segment still has something that is nowhere else; "" if it has not."""
        if end is End.GROWING:
            return "it grows, or is not counted to its end"
        if end is End.DAMAGED:
            return "it is damaged, and perhaps all there is: delete it yourself"
        if self._stored(name) < position:
            return "its records are not in files yet"
        return ""

    def _unripe(self, services: Sequence[str], last_us: int, keyed: set[str], *, has_waiting: bool) -> str:
        """Say which service still has a use for its records."""
        now_us = self._clock.wall_us()
        released = {each.service for each in watches(self._ledger)}
        for service in services:
            if service in released:
                return f"a release of {service} is under way"
            wait_s = self._mature_s(service)
            if service in keyed:
                wait_s = max(wait_s, KEY_WINDOW_S)
            if now_us - last_us < (wait_s + LATE_S) * _US_PER_S:
                return f"outcomes of {service} may still come"
            if service in keyed and has_waiting:
                return f"outcomes by key of {service} wait to be joined"
        return ""

    def _awaited(self, first_ms: int, last_ms: int) -> str:
        low, high = (moment.to_bytes(6, "big") for moment in (first_ms, last_ms + 1))
        row = self._execute(
            "SELECT 1 FROM outcome WHERE state = 'pending' AND request >= ? AND request < ? LIMIT 1",
            (low, high),
        ).fetchone()
        return "" if row is None else "an outcome waits to be joined"

    def clear(self, policy: RetentionPolicy) -> ClearedSegments:
        """Delete the segments that may go and that the policy does not keep, oldest first.

        Raises:
            Conflict: Another process writes the ledger.
            OSError: A file cannot be deleted; what was begun is ended by the next call.
        """
        self._finish()
        if policy.keep_days <= 0 and policy.max_bytes <= 0:
            return ClearedSegments()
        held = self.segments()
        total, now_us = sum(each.size_bytes for each in held), self._clock.wall_us()
        going = []
        for each in sorted(held, key=lambda one: one.last_us):
            is_old = policy.keep_days > 0 and now_us - each.last_us > policy.keep_days * _US_PER_DAY
            is_much = policy.max_bytes > 0 and total > policy.max_bytes
            if not each.reason and (is_old or is_much):
                going.append(each)
                total -= each.size_bytes
        if going:
            self._begin(going)
            self._finish()
        return ClearedSegments(
            len(going),
            sum(each.size_bytes for each in going),
            max((each.last_us for each in going), default=0),
        )

    def _begin(self, going: Sequence[HeldSegment]) -> None:
        now_us = self._clock.wall_us()
        with self._ledger.transaction():
            self._ledger.connection.executemany(
                "INSERT INTO cleared VALUES (?, ?, ?, ?, 0)",
                [(each.name, each.size_bytes, each.last_us, now_us) for each in going],
            )

    def _finish(self) -> None:
        """Delete what is noted, then forget where its records were."""
        begun = [name for (name,) in self._execute("SELECT name FROM cleared WHERE done = 0")]
        if not begun:
            return
        for name in begun:
            for suffix in (SEALED_SUFFIX, OPEN_SUFFIX):
                (self._folder / f"{name}{suffix}").unlink(missing_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)  # else a file may be back after a power loss that its row survives
        finally:
            os.close(descriptor)
        with self._ledger.transaction():
            for name in begun:
                (number,) = self._execute("SELECT id FROM segment WHERE name = ?", (name,)).fetchone()
                for table in ("block", "stream"):
                    self._execute(f"DELETE FROM {table} WHERE segment = ?", (number,))  # noqa: S608  # two names
                self._execute("DELETE FROM segment WHERE id = ?", (number,))
                self._execute("UPDATE cleared SET done = 1 WHERE name = ?", (name,))


def _created_us(entry: SegmentEntry) -> int:
    digits = entry.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def cleared(ledger: Ledger) -> ClearedSegments:
    """Return what went so far, in all."""
    count, size_bytes, last_us = ledger.connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(max(last_us), 0) FROM cleared WHERE done = 1"
    ).fetchone()
    return ClearedSegments(count, size_bytes, last_us)
