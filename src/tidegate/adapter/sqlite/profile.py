"""Profiles by hour in one SQLite file: kilobytes each, counted once from a day's rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import msgspec

from tidegate.core.error import TidegateError
from tidegate.monitoring.period import Anchor, PeriodProfile
from tidegate.monitoring.profile import Profile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS profiled (
    service TEXT NOT NULL, anchor TEXT NOT NULL, day TEXT NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (service, anchor, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profile (
    service TEXT NOT NULL, anchor TEXT NOT NULL, day TEXT NOT NULL, minute INTEGER NOT NULL,
    field TEXT NOT NULL, value TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (service, anchor, day, minute, field, value)
) WITHOUT ROWID
"""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Profile).decode


class ProfilesUnavailable(TidegateError):
    """Profiles cannot be kept. They are counted again from the records."""

    code = "profiles_unavailable"


class SqliteProfileStore:
    """Implements `ProfileStore` in a file that may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        """Open the file; make it if it is not there.

        Raises:
            ProfilesUnavailable: It cannot be opened.
        """
        self._path = path
        with self._told():
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ProfilesUnavailable(
                f"Profiles cannot be kept in {self._path}: {error}.",
                hint="Check free space and permissions; the file can be deleted, it is made again.",
                path=str(self._path),
            ) from error

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def kept(self, service: str, anchor: Anchor, day: date) -> tuple[int, list[PeriodProfile]] | None:
        place = (service, anchor.digest, day.isoformat())
        with self._told():
            row = self._connection.execute(
                "SELECT rows FROM profiled WHERE service = ? AND anchor = ? AND day = ?", place
            ).fetchone()
            if row is None:
                return None
            found = self._connection.execute(
                "SELECT minute, field, value, body FROM profile WHERE service = ? AND anchor = ? AND day = ?",
                place,
            ).fetchall()
        return row[0], [
            PeriodProfile(minute, (field, value), _decode(body)) for minute, field, value, body in found
        ]

    def keep(
        self, service: str, anchor: Anchor, day: date, n_rows: int, profiles: Sequence[PeriodProfile]
    ) -> None:
        place = (service, anchor.digest, day.isoformat())
        with self._told(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for table in ("profile", "profiled"):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE service = ? AND anchor = ? AND day = ?",  # noqa: S608  # two names
                    place,
                )
            self._connection.executemany(
                "INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*place, each.minute, *each.part, _encode(each.profile)) for each in profiles],
            )
            self._connection.execute("INSERT INTO profiled VALUES (?, ?, ?, ?)", (*place, n_rows))
