"""The embedded online store: one SQLite file, several processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tidegate.feature.online import Event, Kept, Moments, OnlineStoreUnavailable, each

_BUSY_S = 10.0

# The key's columns are the row: one search in one tree finds an event, and no second index is kept.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS feature_event (
    view TEXT NOT NULL, key BLOB NOT NULL, event_us INTEGER NOT NULL, created_us INTEGER NOT NULL,
    event_id BLOB NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (view, key, event_us, created_us, event_id, payload)
) WITHOUT ROWID
"""
_PUT = "INSERT OR IGNORE INTO feature_event VALUES (?, ?, ?, ?, ?, ?)"
_LATEST = """
SELECT event_us, created_us, event_id, payload FROM feature_event
WHERE view = ? AND key = ? AND event_us < ? AND created_us < ?
ORDER BY event_us DESC, created_us DESC, event_id DESC, payload DESC LIMIT 1
"""
_WITHIN = """
SELECT event_us, created_us, event_id, payload FROM feature_event
WHERE view = ? AND key = ? AND event_us >= ? AND event_us < ? AND created_us < ?
ORDER BY event_us, created_us, event_id, payload
"""
_FORGET = """
DELETE FROM feature_event AS old WHERE view = ? AND event_us < ? AND EXISTS (
    SELECT 1 FROM feature_event AS newer WHERE newer.view = old.view AND newer.key = old.key
    AND (newer.event_us, newer.created_us, newer.event_id, newer.payload)
      > (old.event_us, old.created_us, old.event_id, old.payload)
)
"""


class SqliteOnlineStore:
    """An `OnlineStore` in a file. One object belongs to one thread; open as many as there are.

    Args:
        path: The file; created if absent.
        busy_s: How long a call waits for another process that writes, seconds. Readers do not wait
            for writers, except for one that makes or recovers the file.

    Raises:
        OnlineStoreUnavailable: It cannot be opened.
    """

    def __init__(self, path: Path, *, busy_s: float = _BUSY_S) -> None:
        self._path = path
        with self._reported():
            self._connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
            # Readers go on while one writes. What a power cut takes is in the source, and put again.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(_SCHEMA)

    def put(self, view: str, events: Sequence[tuple[bytes, Event]]) -> int:
        rows = [(view, key, *event) for key, event in events]
        with self._reported():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                n_new = self._connection.executemany(_PUT, rows).rowcount
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return max(n_new, 0)

    def latest(self, view: str, keys: Sequence[bytes], *, at_us: Moments) -> list[Event | None]:
        execute = self._connection.execute
        asked = zip(keys, each(at_us, len(keys)), strict=True)
        with self._reported():
            found = [execute(_LATEST, (view, key, at, at)).fetchone() for key, at in asked]
        return [None if row is None else Event(*row) for row in found]

    def within(
        self, view: str, keys: Sequence[bytes], *, since_us: Moments, at_us: Moments
    ) -> list[list[Kept]]:
        execute, count = self._connection.execute, len(keys)
        asked = zip(keys, each(since_us, count), each(at_us, count), strict=True)
        with self._reported():
            return [execute(_WITHIN, (view, key, since, at, at)).fetchall() for key, since, at in asked]

    def version(self) -> tuple[int, int]:
        """Return something that is another after anybody has put or removed an event."""
        with self._reported():
            (by_others,) = self._connection.execute("PRAGMA data_version").fetchone()
        return by_others, self._connection.total_changes

    def forget(self, view: str, *, before_us: int) -> int:
        with self._reported():
            return self._connection.execute(_FORGET, (view, before_us)).rowcount

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OnlineStoreUnavailable(
                f"The online store {self._path} cannot be used: {error}.", path=str(self._path)
            ) from error
