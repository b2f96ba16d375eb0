"""Where the counts of running releases are kept: in the ledger, in the transaction that moves positions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from tidegate.journal.decode import Turns
from tidegate.journal.firsts import ENTRY, KeySet
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import End
from tidegate.journal.watch import (
    COUNTS,
    EVENTS,
    Column,
    Counted,
    Counter,
    EventTally,
    KeyTally,
    ReleaseTallies,
    Watch,
    rows_of,
)

_ADD_TALLY = """
INSERT INTO watch_tally VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    fresh_candidate = fresh_candidate + excluded.fresh_candidate,
    fresh_stable = fresh_stable + excluded.fresh_stable,
    back_candidate = back_candidate + excluded.back_candidate,
    back_stable = back_stable + excluded.back_stable,
    back_trials = back_trials + excluded.back_trials
"""
_ADD_COUNT = (
    "INSERT INTO watch_count VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
)
_MAX_PIECES = 64
"""Pieces of a key set before they are put together; fewer where they are large beside the whole."""


def watch(ledger: Ledger, wanted: Watch) -> None:
    """Have the tailer count for a release from its next look on; nothing where it does already.

    For the one process that writes the ledger.
    """
    with ledger.transaction():
        ledger.connection.execute(
            "INSERT OR IGNORE INTO watch VALUES (?, ?, '[]')", (wanted.release, msgspec.json.encode(wanted))
        )


def unwatch(ledger: Ledger, release: str) -> None:
    """Stop counting for a release, and drop its keys; its tallies stay."""
    with ledger.transaction():
        ledger.connection.execute("DELETE FROM watch WHERE release = ?", (release,))
        ledger.connection.execute("DELETE FROM watch_key WHERE release = ?", (release,))


def watches(ledger: Ledger) -> list[Watch]:
    """Return what is counted, by release."""
    rows = ledger.connection.execute("SELECT body FROM watch ORDER BY release")
    return [msgspec.json.decode(body, type=Watch) for (body,) in rows]


def tallies(ledger: Ledger, release: str) -> ReleaseTallies:
    """Return what was counted for a release, with the cut of the journal that it stands for."""
    return counted(ledger, release)[0]


def counted(
    ledger: Ledger, release: str, *, names: Sequence[str] = EVENTS
) -> tuple[ReleaseTallies, dict[str, int]]:
    """Return what was counted under a name, and every count by its own name."""
    connection = ledger.connection
    connection.execute("BEGIN")  # one state of the ledger for the counts and for the cut
    try:
        rows = connection.execute(
            "SELECT event, share, low, high, expose, fresh_candidate, fresh_stable,"
            " back_candidate, back_stable, back_trials FROM watch_tally WHERE release = ?"
            " ORDER BY event, share, low, high, expose",
            (release,),
        ).fetchall()
        counts = dict(
            connection.execute("SELECT name, count FROM watch_count WHERE release = ?", (release,)).fetchall()
        )
        cut = dict(
            connection.execute(
                "SELECT name, position FROM segment WHERE end = ?", (End.GROWING.value,)
            ).fetchall()
        )
    finally:
        connection.execute("ROLLBACK")
    events: dict[str, list[EventTally]] = {name: [] for name in names}
    keys = []
    for name, *values in rows:
        if name:
            events[name].append(EventTally(*values))
        else:
            keys.append(KeyTally(values[0], values[4], values[5]))
    found = ReleaseTallies(events, keys, **{name: counts.get(name, 0) for name in COUNTS}, cut=cut)
    return found, counts


def pieces_of(connection: sqlite3.Connection, release: str) -> list[Column]:
    """Return the changes of keys that are kept under a name."""
    rows = connection.execute("SELECT body FROM watch_key WHERE release = ? ORDER BY id", (release,))
    return [np.frombuffer(body, ENTRY) for (body,) in rows]


def shares_of(connection: sqlite3.Connection, release: str) -> list[float]:
    """Return the phases that `add_counted` has kept under a name."""
    found = connection.execute("SELECT shares FROM matured_phase WHERE release = ?", (release,)).fetchone()
    return [] if found is None else msgspec.json.decode(found[0], type=list[float])


def add_counted(
    connection: sqlite3.Connection, release: str, counter: Counter, counts: Mapping[str, int]
) -> None:
    """Write what a counter has counted, and further counts, under a name; within a transaction."""
    found = counter.drain()
    _add(connection, release, found, counts)
    connection.execute(
        "INSERT OR REPLACE INTO matured_phase VALUES (?, ?)",
        (release, msgspec.json.encode(found.shares).decode()),
    )
    keep_keys(connection, release, counter.keys, found.changes)


def add_counts(connection: sqlite3.Connection, release: str, counts: Mapping[str, float]) -> None:
    """Add counts to those under a name; within a transaction."""
    connection.executemany(_ADD_COUNT, [(release, *count) for count in counts.items() if count[1]])


def _add(connection: sqlite3.Connection, release: str, found: Counted, counts: Mapping[str, int]) -> None:
    rows = [(release, *key, *row) for key, row in found.tallies.items()]
    connection.executemany(_ADD_TALLY, rows)
    add_counts(connection, release, {**found.counts, **counts})


def keys_of(connection: sqlite3.Connection, release: str, max_keys: int) -> KeySet:
    """Return the keys that are kept under a name."""
    keys = KeySet(max_keys)
    for piece in pieces_of(connection, release):
        keys.update(piece)
    return keys


def keep_keys(connection: sqlite3.Connection, release: str, keys: KeySet, changes: Iterable[Column]) -> None:
    """Write changes that a set of keys has taken in, under a name; within a transaction."""
    pieces = [change.tobytes() for change in changes if len(change)]
    if not pieces:
        return
    (n_kept,) = connection.execute("SELECT count(*) FROM watch_key WHERE release = ?", (release,)).fetchone()
    if n_kept + len(pieces) > _MAX_PIECES + len(keys) // 1000:
        connection.execute("DELETE FROM watch_key WHERE release = ?", (release,))
        pieces = [keys.entries.tobytes()]
    connection.executemany(
        "INSERT INTO watch_key (release, body) VALUES (?, ?)", [(release, piece) for piece in pieces]
    )


class Counters:
    """The counters of everything that is watched; what they hold follows the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        """Take up what the ledger has."""
        self._ledger = ledger
        self._counters: dict[str, tuple[Watch, Counter]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look which releases are watched now."""
        wanted = {each.release: each for each in watches(self._ledger)}
        for release in self._counters.keys() - wanted.keys():
            del self._counters[release]
        for release, each in wanted.items():
            if release not in self._counters:
                self._counters[release] = (each, self._load(each))

    def _load(self, wanted: Watch) -> Counter:
        connection = self._ledger.connection
        (shares,) = connection.execute(
            "SELECT shares FROM watch WHERE release = ?", (wanted.release,)
        ).fetchone()
        kept = msgspec.json.decode(shares, type=list[float])
        return Counter(wanted.max_keys, changes=pieces_of(connection, wanted.release), shares=kept)

    def take(self, turns: Sequence[Turns]) -> None:
        """Count the turns of one batch of the journal."""
        for wanted, counter in self._counters.values():
            found = [rows for each in turns if (rows := rows_of(each, wanted)) is not None]
            if found:
                counter.take(found)

    def keep(self) -> None:
        """Write what was counted; within the transaction that moves the positions."""
        connection = self._ledger.connection
        for release, (_, counter) in self._counters.items():
            found = counter.drain()
            if not found.counts:
                continue
            _add(connection, release, found, {})
            connection.execute(
                "UPDATE watch SET shares = ? WHERE release = ?",
                (msgspec.json.encode(found.shares).decode(), release),
            )
            keep_keys(connection, release, counter.keys, found.changes)
