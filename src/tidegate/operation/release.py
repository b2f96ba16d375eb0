"""Move traffic between versions, and keep the decision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.digest import Digest
from tidegate.core.principal import Principal
from tidegate.operation.decide import ACTION, record_decision
from tidegate.operation.mutation import UnitOfWork, new_key
from tidegate.operation.version import show_version
from tidegate.registry.store import StoredDecision, StoreUnavailable
from tidegate.release.readiness import DEFAULT_PATIENCE, Cell, Patience
from tidegate.release.rollback import switch_back
from tidegate.release.switch import clear_latch, first_deployment, switch

FallbackOf = Callable[[Digest], tuple[str, ...]]
"""Maps the digest of a manifest to the names of its fallback chain."""


class Moved(msgspec.Struct, frozen=True):
    """What a change of traffic came to.

    Attributes:
        decision: What was decided.
        number: Under which it is kept; None if the database could not be reached, which never
            stops a rollback.
    """

    decision: Decision
    number: int | None


def deploy_first(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    fallback_of: FallbackOf,
    principal: Principal,
    clock: Clock,
    version: int | None = None,
    key: str | None = None,
) -> Moved:
    """Give all traffic to the first version of a service that has no route.

    Args:
        unit: The metadata database.
        cell: Where.
        service: Name of the service.
        fallback_of: Reads fallback chains.
        principal: Who deploys.
        clock: Says when.
        version: Number of the version; the latest if None.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        NotFound: There is no such version.
        Conflict: The service serves a version already.
        TidegateError: The route cannot be written.
    """
    done = _done_before(unit, key)
    if done is not None:
        return done
    found = show_version(unit, service, number=version)
    decision = first_deployment(
        cell,
        service,
        version=found.number,
        manifest=found.manifest,
        principal=principal,
        fallback=fallback_of(found.manifest),
    )
    return _kept(unit, decision, key=key, clock=clock)


def switch_to(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    version: int,
    fallback_of: FallbackOf,
    principal: Principal,
    clock: Clock,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
    key: str | None = None,
) -> Moved:
    """Move all traffic to `version`, once every worker has it ready.

    Args:
        unit: The metadata database.
        cell: Where.
        service: Name of the service.
        version: Number of the version.
        fallback_of: Reads fallback chains.
        principal: Who switches.
        clock: Says when.
        patience: How long to wait for workers.
        reason: In the principal's words.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        NotFound: There is no such version, or the service serves none yet.
        Latched: The version was rolled back.
        Conflict: Another change came first or is under way.
        NoWorkers: No worker runs.
        TidegateError: The route cannot be written.
    """
    done = _done_before(unit, key)
    if done is not None:
        return done
    found = show_version(unit, service, number=version)
    decision = switch(
        cell,
        service,
        version=version,
        manifest=found.manifest,
        principal=principal,
        fallback=fallback_of(found.manifest),
        patience=patience,
        reason=reason,
    )
    return _kept(unit, decision, key=key, clock=clock)


def roll_back(
    open_unit: Callable[[], UnitOfWork],
    cell: Cell,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    to: int | None = None,
    latch: bool = True,
    reason: str = "",
    key: str | None = None,
) -> Moved:
    """Undo what moved last. Works with the database down; then the decision is not kept there.

    Args:
        open_unit: Opens the metadata database, once traffic has moved.
        cell: Where.
        service: Name of the service.
        principal: Who rolls back.
        clock: Says when.
        to: Version to go back to; the best one known if None.
        latch: Keep what is taken away from coming back by itself.
        reason: In the principal's words.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        TidegateError: As `release.rollback.switch_back`.
    """
    with suppress(StoreUnavailable):
        done = _done_before(open_unit(), key) if key else None
        if done is not None:
            return done
    decision = switch_back(cell, service, principal=principal, to=to, latch=latch, reason=reason)
    with suppress(StoreUnavailable):
        return _kept(open_unit(), decision, key=key, clock=clock)
    return Moved(decision, None)


def unlatch(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    version: int,
    principal: Principal,
    clock: Clock,
    reason: str = "",
) -> Moved:
    """Let a rolled-back version be switched to again; only a person may.

    Raises:
        TidegateError: As `release.switch.clear_latch`.
    """
    decision = clear_latch(cell, service, version=version, principal=principal, reason=reason)
    return _kept(unit, decision, key=None, clock=clock)


def _done_before(unit: UnitOfWork, key: str | None) -> Moved | None:
    """Return what an earlier call under `key` came to; the route is not moved a second time."""
    if key is None:
        return None
    with unit.read() as transaction:
        mutation = transaction.mutations.find(key)
    if mutation is None or mutation.action != ACTION:
        return None  # another action's key: keeping the decision will be refused
    stored = msgspec.json.decode(mutation.result, type=StoredDecision)
    return Moved(stored.decision, stored.id)


def _kept(unit: UnitOfWork, decision: Decision, *, key: str | None, clock: Clock) -> Moved:
    stored = record_decision(unit, decision, key=key or new_key(), clock=clock)
    return Moved(decision, stored.result.id)
