"""Where versions and decisions are kept: ports that the metadata database implements."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tidegate.core.decision import Decision
from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.core.error import TidegateError
from tidegate.core.principal import Principal
from tidegate.registry.version import Version, VersionDraft

PAGE = 1000
"""Most rows that one listing returns unless more are asked for."""


class StoreUnavailable(TidegateError):
    """The metadata database cannot be reached or is held by another; nothing was changed."""

    code = "store_unavailable"


class CommitUnknown(TidegateError):
    """The connection failed while a change was being committed: it is in force, or it never was."""

    code = "commit_unknown"


class NotStorable(TidegateError):
    """The metadata database has no room for a value, today or ever: a number that no column holds."""

    code = "not_storable"


class StoredDecision(msgspec.Struct, frozen=True):
    """A decision and the number it is kept under.

    Attributes:
        id: Grows with time; not without gaps.
        decision: As it was appended.
    """

    id: int
    decision: Decision

    @property
    def digest(self) -> Digest:
        """Digest of the decision; the audit log keeps it."""
        return digest_bytes(canonical_json(self.decision))


class VersionStore(Protocol):
    """Versions, never changed and never removed."""

    def add(self, draft: VersionDraft, *, principal: Principal, at_us: int) -> Version:
        """Store `draft` under its service's next number.

        Two transactions that add at once get two numbers; one that fails leaves no gap.

        Raises:
            InvalidSetting: The draft holds what cannot be stored.
        """
        ...

    def get(self, service: str, number: int) -> Version:
        """Return one version.

        Raises:
            NotFound: There is none of that number.
        """
        ...

    def latest(self, service: str) -> Version | None:
        """Return the service's highest version, or None if it has none."""
        ...

    def page(
        self, service: str | None = None, *, after: tuple[str, int] = ("", 0), limit: int = PAGE
    ) -> list[Version]:
        """Return versions by service and number, starting behind `after` (a service and a number)."""
        ...

    def services(self) -> list[str]:
        """Return the names of all services, sorted by their bytes."""
        ...


class DecisionStore(Protocol):
    """Decisions of every stage; the store does not understand them."""

    def append(self, decision: Decision) -> StoredDecision:
        """Store `decision` for good.

        Raises:
            InvalidSetting: Its evidence holds what JSON cannot keep.
        """
        ...

    def get(self, id: int) -> StoredDecision:
        """Return one decision.

        Raises:
            NotFound: There is none under that number.
        """
        ...

    def page(
        self,
        service: str | None = None,
        *,
        kind: str | None = None,
        version: int | None = None,
        after: int = 0,
        limit: int = PAGE,
    ) -> list[StoredDecision]:
        """Return decisions in the order they were appended, those numbered above `after`."""
        ...

    def latest(
        self, service: str, *, kind: str | None = None, version: int | None = None
    ) -> StoredDecision | None:
        """Return the last decision about a service (of a kind, about a version), or None."""
        ...
