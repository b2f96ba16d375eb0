"""What a controller needs of the world: where releases are kept, and where their evidence comes from."""

from __future__ import annotations

import sqlite3
from typing import Protocol

import msgspec

from tidegate.core.decision import Decision
from tidegate.journal.ledger import Ledger, LedgerUnavailable
from tidegate.journal.pair import PairTally
from tidegate.journal.watch import ReleaseTallies, Watch
from tidegate.journal.watched import tallies, unwatch, watch, watches
from tidegate.release.lease import Leadership
from tidegate.release.machine import State


class StoredRelease(msgspec.Struct, frozen=True):
    """A release as a database keeps it, without understanding it.

    Attributes:
        id: Its name.
        service: Name of the service.
        is_open: Whether it goes on; a service has one such release at most.
        revision: Grows with each change.
        body: The state, JSON.
    """

    id: str
    service: str
    is_open: bool
    revision: int
    body: bytes


class ReleaseStore(Protocol):
    """Where releases are kept."""

    def add(self, release: StoredRelease) -> None:
        """Keep a new release.

        Raises:
            Conflict: The service has an open one.
        """
        ...

    def save(self, release: StoredRelease, *, revision: int) -> None:
        """Replace a release.

        Args:
            release: The new one.
            revision: Of the one that it replaces.

        Raises:
            Conflict: It has another revision by now, or is not there.
        """
        ...

    def get(self, id: str) -> StoredRelease:
        """Return one release.

        Raises:
            NotFound: There is none of that name.
        """
        ...

    def find_open(self, service: str) -> StoredRelease | None:
        """Return the service's open release, or None."""
        ...

    def page(
        self, service: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> list[StoredRelease]:
        """Return releases, the latest first."""
        ...


class Book(Protocol):
    """Where a controller keeps releases, and the lease that lets it."""

    def lead(self, leadership: Leadership) -> int | None:
        """Beat or take the lease; None while another one leads.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        ...

    def resign(self, leadership: Leadership) -> None:
        """Give the lease back.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        ...

    def open(self) -> list[State]:
        """Return the releases that go on.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        ...

    def save(self, state: State, decision: Decision | None, *, revision: int, token: int) -> None:
        """Keep a state that follows from the one of `revision`, with its decision and audit entry, once.

        Raises:
            Conflict: Someone else has changed the release since.
            LeaseLost: The token is not the lease's any more.
            StoreUnavailable: The database cannot be reached; nothing was kept.
            CommitUnknown: It was lost during the commit; look again.
        """
        ...

    def note(self, decision: Decision, *, key: str) -> None:
        """Keep a decision by itself, once.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        ...

    def touch(self, state: State, *, token: int) -> None:
        """Keep how long a release has been watched; loses nothing but time where it fails.

        Raises:
            Conflict: As `save`.
            StoreUnavailable: As `save`.
        """
        ...


class Source(Protocol):
    """Where the evidence comes from."""

    def watch(self, wanted: Watch) -> None:
        """Have the tailer count; nothing where it does."""
        ...

    def unwatch(self, release: str) -> None:
        """Have the tailer stop; nothing where it does not count."""
        ...

    def watched(self) -> frozenset[str]:
        """Return the names of what the tailer counts."""
        ...

    def tallies(self, release: str) -> ReleaseTallies:
        """Return what was counted."""
        ...

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        """Return the sum of all pairs of two versions."""
        ...


class LedgerSource:
    """Implements `Source` over the ledger, in the process that writes it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watched = {each.release for each in watches(ledger)}

    def watch(self, wanted: Watch) -> None:
        if wanted.release not in self._watched:
            watch(self._ledger, wanted)
            self._watched.add(wanted.release)

    def unwatch(self, release: str) -> None:
        if release in self._watched:
            unwatch(self._ledger, release)
            self._watched.discard(release)

    def watched(self) -> frozenset[str]:
        return frozenset(self._watched)

    def tallies(self, release: str) -> ReleaseTallies:
        try:
            return tallies(self._ledger, release)
        except sqlite3.Error as error:
            raise _unreadable(self._ledger, error) from error

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        total = PairTally()
        try:
            for _, tally in self._ledger.pairs(service, version=answered, shadow=shadow):
                total.add(tally)
        except sqlite3.Error as error:
            raise _unreadable(self._ledger, error) from error
        return total


def _unreadable(ledger: Ledger, error: sqlite3.Error) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger {ledger.path} cannot be read: {error}.",
        hint="What it does not show is undecided; nothing is promoted meanwhile.",
        path=str(ledger.path),
    )
