"""The written parts of a version's model card: declared with the service, and amended later."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import InvalidSetting
from tidegate.core.principal import Principal
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.card import Card
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest

KIND = "card"


def written_card(unit: UnitOfWork, artifacts: ArtifactStore, version: Version) -> Card:
    """Return the written parts of a version's card, as they stand now.

    Raises:
        NotFound: The version's manifest is gone.
        Corrupt: It is damaged.
    """
    card = Manifest.from_json(artifacts.read_bytes(version.manifest)).card or Card()
    for stored in list_decisions(unit, version.service, kind=KIND, version=version.number):
        for evidence in stored.decision.evidence:
            parts = evidence.observed.items()
            card = card.with_parts((name, str(text)) for name, text in parts)
    return card


def write_card(
    unit: UnitOfWork,
    artifacts: ArtifactStore,
    version: Version,
    parts: Mapping[str, str],
    *,
    principal: Principal,
    key: str,
    clock: Clock,
) -> Card:
    """Write parts of a version's card anew; what stood there before stays among the decisions.

    Raises:
        InvalidSetting: There is no such part, or nothing to write.
        Conflict: The key was used for something else.
    """
    if not parts:
        raise InvalidSetting("No part of the card was given.", hint="Write --set owner='...'.")
    written_card(unit, artifacts, version).with_parts(parts.items())  # refuses parts that do not exist
    decision = Decision(
        kind=KIND,
        service=version.service,
        version=version.number,
        outcome=", ".join(parts),
        principal=principal,
        at_us=clock.wall_us(),
        evidence=[Evidence(rule=KIND, verdict=Verdict.SAFE, observed=dict(parts))],
    )
    record_decision(unit, decision, key=key, clock=clock)
    return written_card(unit, artifacts, version)
