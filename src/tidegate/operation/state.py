"""Where the versions of a service stand, from every decision about it."""

from __future__ import annotations

import msgspec

from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions, list_versions
from tidegate.registry.state import State, lifecycle
from tidegate.registry.store import PAGE, StoredDecision
from tidegate.registry.version import Version


class ListedVersion(Version, frozen=True, kw_only=True, omit_defaults=True):
    """A version as it was registered, and where it stands.

    Attributes:
        state: As later decisions have it.
    """

    state: State


def version_states(unit: UnitOfWork, service: str) -> dict[int, State]:
    """Return the state of each version of a service that anything was decided about."""
    decisions: list[StoredDecision] = []
    while True:
        page = list_decisions(unit, service, after=decisions[-1].id if decisions else 0)
        decisions += page
        if len(page) < PAGE:
            return lifecycle(decisions)


def list_states(unit: UnitOfWork, service: str | None = None) -> list[ListedVersion]:
    """Return versions with their states, by service and number.

    Raises:
        NotFound: `service` is named and has no version at all.
    """
    versions = list_versions(unit, service)
    states = {name: version_states(unit, name) for name in dict.fromkeys(each.service for each in versions)}
    return [
        ListedVersion(**msgspec.structs.asdict(each), state=states[each.service].get(each.number, State()))
        for each in versions
    ]
