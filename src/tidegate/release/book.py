"""Where releases are kept.

Every transaction names what is here, that of a rollback too, which has no use for the engines of a
release: they are imported for their types only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from tidegate.core.decision import Decision
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
