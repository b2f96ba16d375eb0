"""The ledger: what the tailer has counted and joined so far, in one SQLite file.

Positions in the segments, tallies and outcomes change in one transaction, so that a record is
counted once whatever dies when. One process writes; any number read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tidegate.core.error import Conflict, NotFound, TidegateError
from tidegate.core.identifier import format_prediction_id
from tidegate.journal.pair import SCHEMA as PAIR_SCHEMA
from tidegate.journal.pair import PairKey, PairTally, read_pairs
from tidegate.journal.reader import Damage, End
from tidegate.journal.record import UNNAMED, RecordKind
from tidegate.journal.slice import SCHEMA as SLICE_SCHEMA
from tidegate.journal.tally import Tally, TallyKey
from tidegate.journal.watch import SCHEMA as WATCH_SCHEMA

_SCHEMA_VERSION = 2
_BUSY_S = 30.0
_CLEARED = """
CREATE TABLE IF NOT EXISTS cleared (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL, last_us INTEGER NOT NULL, cleared_us INTEGER NOT NULL,
    done INTEGER NOT NULL
) WITHOUT ROWID
"""
_END_OF_TIME = 2**63 - 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('commits', 0);
CREATE TABLE segment (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, position INTEGER NOT NULL, end TEXT NOT NULL,
    seen_us INTEGER NOT NULL
);
CREATE TABLE stream (
    segment INTEGER NOT NULL, number INTEGER NOT NULL, declaration BLOB NOT NULL,
    PRIMARY KEY (segment, number)
) WITHOUT ROWID;
CREATE TABLE damage (
    segment TEXT NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL, found_us INTEGER NOT NULL,
    PRIMARY KEY (segment, at)
) WITHOUT ROWID;
CREATE TABLE tally (
    service TEXT NOT NULL, minute INTEGER NOT NULL, version INTEGER NOT NULL, arm TEXT NOT NULL,
    kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (service, minute, version, arm, kind)
) WITHOUT ROWID;
CREATE TABLE refusal (
    service TEXT NOT NULL, minute INTEGER NOT NULL, code TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (service, minute, code)
) WITHOUT ROWID;
CREATE TABLE block (
    segment INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, min_ms INTEGER NOT NULL,
    max_ms INTEGER NOT NULL, span INTEGER NOT NULL, PRIMARY KEY (segment, start)
) WITHOUT ROWID;
CREATE INDEX block_time ON block (span, max_ms);
CREATE TABLE key_block (
    id INTEGER PRIMARY KEY, service TEXT NOT NULL, min_us INTEGER NOT NULL, max_us INTEGER NOT NULL,
    rows BLOB NOT NULL
);
CREATE INDEX key_block_time ON key_block (service, max_us);
CREATE TABLE outcome (
    id INTEGER PRIMARY KEY, identity BLOB NOT NULL, content BLOB NOT NULL, service TEXT NOT NULL,
    request BLOB NOT NULL, row INTEGER NOT NULL, key_hash BLOB NOT NULL, event_us INTEGER NOT NULL,
    name TEXT NOT NULL, value TEXT NOT NULL, outcome_id TEXT NOT NULL, principal TEXT NOT NULL,
    received_us INTEGER NOT NULL, state TEXT NOT NULL, next_try_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX outcome_identity ON outcome (identity) WHERE state != 'conflicting';
CREATE INDEX outcome_waiting ON outcome (next_try_us) WHERE state = 'pending';
CREATE INDEX outcome_target ON outcome (service, request, row, name);
CREATE TABLE truth (
    service TEXT NOT NULL, request BLOB NOT NULL, row INTEGER NOT NULL, name TEXT NOT NULL,
    value TEXT NOT NULL, revision INTEGER NOT NULL, outcome INTEGER NOT NULL,
    received_us INTEGER NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY (service, request, row, name)
) WITHOUT ROWID;
CREATE INDEX truth_changed ON truth (service, changed);
CREATE TABLE joined (
    service TEXT NOT NULL, request BLOB NOT NULL, row INTEGER NOT NULL, version INTEGER NOT NULL,
    arm TEXT NOT NULL, kind TEXT NOT NULL, minute INTEGER NOT NULL, outputs TEXT NOT NULL,
    instead INTEGER NOT NULL,
    PRIMARY KEY (service, request, row, version, arm, kind)
) WITHOUT ROWID;
CREATE TABLE outcome_count (
    service TEXT NOT NULL, minute INTEGER NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (service, minute, what)
) WITHOUT ROWID;
"""

_SELECT_TALLIES = """
SELECT service, version, arm, kind, minute, body FROM tally
WHERE service = :service AND minute >= :since AND minute < :until
  AND (:version IS NULL OR version = :version)
  AND (:arm IS NULL OR arm = :arm) AND (:kind IS NULL OR kind = :kind)
ORDER BY service, minute, version, arm, kind
"""
_SELECT_TALLIED_SERVICES = "SELECT DISTINCT service FROM tally ORDER BY service"
_SELECT_REFUSALS = """
SELECT service, minute, code, count FROM refusal
WHERE (:service IS NULL OR service = :service) AND minute >= :since
"""
_ADD_REFUSALS = """
INSERT INTO refusal VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count
"""
_ADD_OUTCOME_COUNTS = """
INSERT INTO outcome_count VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count
"""
_SELECT_OUTCOME_COUNTS = """
SELECT what, sum(count) FROM outcome_count
WHERE (:service IS NULL OR service = :service) AND minute >= :since GROUP BY what
"""
_COUNT_PENDING = """
SELECT count(*) FROM outcome
WHERE state = 'pending' AND (:service IS NULL OR service = :service) AND received_us >= :since * 60000000
"""
LATEST = """
(truth.name = :name OR truth.name = :other) AND NOT EXISTS (
  SELECT 1 FROM truth AS rival
  WHERE rival.service = truth.service AND rival.request = truth.request AND rival.row = truth.row
    AND (rival.name = :name OR rival.name = :other) AND rival.name != truth.name
    AND (rival.received_us > truth.received_us
      OR (rival.received_us = truth.received_us AND rival.name = :name))
)
"""
"""Condition in SQL on `truth`: an outcome is of either name, and the latest of both of its prediction; where
both came at once it is the one called `:name`."""

_SELECT_JOINED = f"""
SELECT version, arm, kind, minute, request, row, name, value, revision, outputs, instead, received_us,
  changed
FROM truth JOIN joined USING (service, request, row)
WHERE truth.service = :service AND truth.changed > :after
  AND (:version IS NULL OR joined.version = :version) AND (:name IS NULL OR {LATEST})
  AND (:fallbacks OR NOT joined.instead)
ORDER BY changed
"""  # noqa: S608  # a constant

_tally_decoder = msgspec.msgpack.Decoder(Tally)
_tally_encoder = msgspec.msgpack.Encoder()


class LedgerUnavailable(TidegateError):
    """The ledger cannot be read or written. What it would have counted is still in the journal."""

    code = "ledger_unavailable"


class SegmentProgress(msgspec.Struct, frozen=True):
    """How far one segment has been counted.

    Attributes:
        name: The segment's name.
        position: Bytes from its start that are counted.
        end: How it ended; `growing` while more is expected.
    """

    name: str
    position: int
    end: End


class OutcomeCounts(msgspec.Struct):
    """What became of the outcomes that were delivered.

    Attributes:
        delivered: All of them, repetitions too.
        joined: Joined to a prediction that had none of that name.
        corrected: Gave a prediction another value than before.
        repeated: Said again what was known, and were ignored.
        conflicting: Used an idempotency key again for something else, and were ignored.
        unknown: Named a prediction that was not found within the time allowed.
        unreadable: Held a value or a time that cannot be or cannot be counted, and were ignored.
        pending: Not joined yet.
    """

    delivered: int = 0
    joined: int = 0
    corrected: int = 0
    repeated: int = 0
    conflicting: int = 0
    unknown: int = 0
    unreadable: int = 0
    pending: int = 0


class JoinedOutcome(msgspec.Struct, frozen=True):
    """A prediction and what became of it, as known now.

    Attributes:
        service, version, arm, kind, minute: As in the prediction's tally.
        prediction_id: The prediction's public id.
        name: What was observed.
        value: Its latest value, any JSON value.
        revision: 1 for the first value, one more for each correction.
        outputs: The predicted outputs.
        instead: Whether somebody else than the version answered: a stand-in, a table, a constant.
        received_us: When the value was accepted, microseconds UTC.
        changed: Number of the ledger's commit that last changed it; ask for those after it.
    """

    service: str
    version: int
    arm: str
    kind: RecordKind
    minute: int
    prediction_id: str
    name: str
    value: Any
    revision: int
    outputs: dict[str, Any]
    received_us: int
    changed: int
    instead: bool = False


class Ledger:
    """Reads the ledger, and for the tailer writes it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the ledger; make it if it may be written.

        Raises:
            NotFound: It is to be read, and is not there.
            LedgerUnavailable: It cannot be opened.
        """
        self.path = path
        if read_only and not path.exists():
            raise _absent(path)
        try:
            self._open(read_only)
        except sqlite3.Error as error:
            raise LedgerUnavailable(
                f"The ledger {path} cannot be opened: {error}.",
                hint="If it is damaged, move it away: it is counted again from the journal.",
                path=str(path),
            ) from error

    def _open(self, read_only: bool) -> None:
        uri = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        self.connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
        if not read_only:
            # a lost last commit is read again from the journal, so it need not wait for the disk
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self._create()
        elif self.connection.execute("PRAGMA user_version").fetchone() == (0,):  # it is just being made
            self.connection.close()
            raise _absent(self.path)
        self._commits = self._read_commits()

    def _create(self) -> None:
        with self._immediate() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise Conflict(
                    f"The ledger {self.path} has format {version}, this program writes {_SCHEMA_VERSION}.",
                    hint="Move it away: it is counted again from the journal.",
                    path=str(self.path),
                )
            for statement in f"{PAIR_SCHEMA};{WATCH_SCHEMA};{SLICE_SCHEMA};{_CLEARED}".split(";"):
                connection.execute(statement)

    def _read_commits(self) -> int:
        (number,) = self.connection.execute("SELECT value FROM meta WHERE name = 'commits'").fetchone()
        return int(number)

    @contextmanager
    def _immediate(self) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[int]:
        """Change the ledger as a whole or not at all; gives the number of the commit.

        Raises:
            Conflict: Another process has written since this one last did.
        """
        number = self._commits + 1
        with self._immediate() as connection:
            if self._read_commits() != self._commits:
                raise Conflict(
                    f"Another process writes the ledger {self.path}.",
                    hint="Only one controller may follow a journal.",
                    path=str(self.path),
                )
            connection.execute("UPDATE meta SET value = ? WHERE name = 'commits'", (number,))
            yield number
        self._commits = number

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()

    def segments(self) -> list[SegmentProgress]:
        """Return how far each segment has been counted, by time of creation."""
        rows = self.connection.execute("SELECT name, position, end FROM segment ORDER BY name")
        return [SegmentProgress(name, position, End(end)) for name, position, end in rows]

    def is_cleared(self, segment: str) -> bool:
        """Whether a segment of this name was deleted, or is about to be."""
        row = self.connection.execute("SELECT 1 FROM cleared WHERE name = ?", (segment,)).fetchone()
        return row is not None

    def damages(self) -> list[Damage]:
        """Return all damage that was met, by segment and place."""
        rows = self.connection.execute("SELECT segment, at, reason FROM damage ORDER BY segment, at")
        return [Damage(*row) for row in rows]

    def tallies(
        self,
        service: str | None = None,
        *,
        version: int | None = None,
        arm: str | None = None,
        kind: RecordKind | None = None,
        since_minute: int | None = None,
        until_minute: int | None = None,
    ) -> list[tuple[TallyKey, Tally]]:
        """Return the tallies of some minutes, in order of service and minute.

        Args:
            service: Only of this service.
            version: Only of this version.
            arm: Only of this part of the route.
            kind: Only predictions, or only shadows.
            since_minute: Minutes since 1970 UTC, from this one on.
            until_minute: Minutes since 1970 UTC, up to but without this one.
        """
        wanted = {
            "version": version,
            "arm": arm,
            "kind": None if kind is None else kind.value,
            "since": 0 if since_minute is None else since_minute,
            "until": _END_OF_TIME if until_minute is None else until_minute,
        }
        # one service at a time, so that its minutes are a range of the table's key
        services = [service] if service is not None else self._tallied_services()
        rows = [
            row
            for name in services
            for row in self.connection.execute(_SELECT_TALLIES, {"service": name, **wanted})
        ]
        return [
            (TallyKey(name, number, part, RecordKind(what), minute), _tally_decoder.decode(body))
            for name, number, part, what, minute, body in rows
        ]

    def asked_since(self, minute: int) -> list[str]:
        """Return the services that have counts of this minute (since 1970 UTC) or later."""
        found = "SELECT 1 FROM tally WHERE service = ? AND minute >= ? LIMIT 1"
        return [
            name
            for name in self._tallied_services()
            if self.connection.execute(found, (name, minute)).fetchone()
        ]

    def _tallied_services(self) -> list[str]:
        return [name for (name,) in self.connection.execute(_SELECT_TALLIED_SERVICES)]

    def add_tallies(self, tallies: Mapping[TallyKey, Tally]) -> None:
        """Add to the tallies there are; within a transaction."""
        execute = self.connection.execute
        for key, tally in tallies.items():
            place = (key.service, key.minute, key.version, key.arm, key.kind)
            row = execute(
                "SELECT body FROM tally WHERE service = ? AND minute = ? AND version = ? AND arm = ?"
                " AND kind = ?",
                place,
            ).fetchone()
            total = _tally_decoder.decode(row[0]) if row else Tally()
            total.add(tally)
            execute(
                "INSERT OR REPLACE INTO tally (service, minute, version, arm, kind, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*place, _tally_encoder.encode(total)),
            )

    def pairs(
        self,
        service: str,
        *,
        version: int | None = None,
        shadow: int | None = None,
        since_minute: int | None = None,
    ) -> list[tuple[PairKey, PairTally]]:
        """Return the tallies of answers and what a shadow would have answered, by minute.

        Args:
            service: Name of the service.
            version: Only where this version answered.
            shadow: Only of this version's copies.
            since_minute: Minutes since 1970 UTC, from this one on.
        """
        return read_pairs(
            self.connection, service, version=version, shadow=shadow, since_minute=since_minute or 0
        )

    def refusals(
        self, service: str | None = None, *, since_minute: int = 0
    ) -> dict[tuple[str, int, str], int]:
        """Return counts of refused requests by service, minute and error code."""
        rows = self.connection.execute(_SELECT_REFUSALS, {"service": service, "since": since_minute})
        return {(name, minute, code): count for name, minute, code, count in rows}

    def add_refusals(self, counts: Mapping[tuple[str, int, str], int]) -> None:
        """Add to the counts of refused requests; within a transaction."""
        self.connection.executemany(_ADD_REFUSALS, [(*key, count) for key, count in counts.items()])

    def add_outcome_counts(self, counts: Mapping[tuple[str, int, str], int]) -> None:
        """Add to the counts of outcomes by service, minute of receipt and fate; within a transaction."""
        self.connection.executemany(_ADD_OUTCOME_COUNTS, [(*key, count) for key, count in counts.items()])

    def outcome_counts(self, service: str | None = None, *, since_minute: int | None = None) -> OutcomeCounts:
        """Return what became of the outcomes of a service, or of all.

        Args:
            service: Only of this service.
            since_minute: Only of outcomes received from this minute on, since 1970 UTC.
        """
        wanted = {"service": service, "since": 0 if since_minute is None else since_minute}
        counts = OutcomeCounts()
        for what, count in self.connection.execute(_SELECT_OUTCOME_COUNTS, wanted):
            setattr(counts, what, count)
        (counts.pending,) = self.connection.execute(_COUNT_PENDING, wanted).fetchone()
        return counts

    def joined(
        self,
        service: str,
        *,
        version: int | None = None,
        name: str | None = None,
        unnamed: bool = False,
        after: int = 0,
        fallbacks: bool = False,
    ) -> Iterator[JoinedOutcome]:
        """Give predictions with their outcomes, in the order in which the outcomes last changed.

        What a fallback answered is left out: it tells nothing of the version that was to answer.

        Args:
            service: Name of the service.
            version: Only predictions of this version.
            name: Only outcomes of this name.
            unnamed: And those without a name; of a prediction that has both, the later one.
            after: Only outcomes that changed after this commit.
            fallbacks: Also what somebody else answered in the version's place.
        """
        wanted = {"service": service, "version": version, "after": after, "fallbacks": fallbacks}
        wanted |= {"name": name, "other": UNNAMED if unnamed else name}
        rows = self.connection.execute(_SELECT_JOINED, wanted)
        for row in rows:
            number, arm, kind, minute, request, position, what, value, revision, outputs, instead, *times = (
                row
            )
            yield JoinedOutcome(
                service=service,
                version=number,
                arm=arm,
                kind=RecordKind(kind),
                minute=minute,
                prediction_id=format_prediction_id(request, position),
                name=what,
                value=msgspec.json.decode(value),
                revision=revision,
                outputs=msgspec.json.decode(outputs),
                received_us=times[0],
                changed=times[1],
                instead=bool(instead),
            )


def _absent(path: Path) -> NotFound:
    return NotFound(
        f"There is no ledger at {path}.",
        hint="The controller makes it; has `tidegate up` run in this home?",
        path=str(path),
    )
