"""Move traffic between versions, and keep the decision.

A forward move needs the database: without it nobody knows whether the move was made before, and it is
refused while traffic stays as it is. A rollback needs local files only, looks at no database before
traffic has moved, and its decision waits in a file where there is none (`operation.pending`). So what
speaks to the database is imported where it is used: under overload a process starts slowly enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, TidegateError
from tidegate.core.principal import Principal
from tidegate.operation.key import check_key, new_key
from tidegate.operation.pending import Move, PendingMoves, keep, reconcile
from tidegate.release.readiness import DEFAULT_PATIENCE, Cell, Patience
from tidegate.release.rollback import switch_back
from tidegate.release.safe_mode import set_safe_mode
from tidegate.release.step import (
    CLEAR_LATCH,
    FIRST_DEPLOYMENT,
    ROLLBACK,
    SAFE_MODE_OFF,
    SAFE_MODE_ON,
    SWITCH,
    SWITCH_BACK,
)
from tidegate.release.switch import clear_latch, first_deployment, switch
from tidegate.route.status import process_start
from tidegate.route.store import RouteStorageError

if TYPE_CHECKING:
    from tidegate.operation.mutation import UnitOfWork

FallbackOf = Callable[[Digest], tuple[str, ...]]
"""Maps the digest of a manifest to the names of its fallback chain."""


class Moved(msgspec.Struct, frozen=True):
    """What a change of traffic came to.

    Attributes:
        decision: What was decided.
        number: Under which it is kept; None while the database cannot be reached. The decision then
            waits in a local file, and goes there with the next operation that can.
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
    placement_of: Callable[[Digest], str] = lambda manifest: "",
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
        placement_of: Reads when workers are to load a version.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        NotFound: There is no such version.
        Conflict: The service serves a version already.
        TidegateError: The route cannot be written.
    """
    from tidegate.operation.version import show_version

    making = Making(
        cell=cell,
        service=service,
        kind=FIRST_DEPLOYMENT,
        principal=principal,
        key=_usable(key),
        clock=clock,
        version=version,
    )
    done = making.look_up(unit)
    if done is not None:
        return done
    found = show_version(unit, service, number=version)

    def act() -> Decision:
        return first_deployment(
            cell,
            service,
            version=found.number,
            manifest=found.manifest,
            principal=principal,
            fallback=fallback_of(found.manifest),
            placement=placement_of(found.manifest),
        )

    return making.make(lambda: unit, act)


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
        StoreUnavailable: The database cannot be reached; nothing was moved.
        TidegateError: The route cannot be written.
    """
    from tidegate.operation.version import show_version

    making = Making(
        cell=cell,
        service=service,
        kind=SWITCH,
        principal=principal,
        key=_usable(key),
        clock=clock,
        version=version,
    )
    done = making.look_up(unit)
    if done is not None:
        return done
    found = show_version(unit, service, number=version)
    fallback = fallback_of(found.manifest)

    def act() -> Decision:
        return switch(
            cell,
            service,
            version=version,
            manifest=found.manifest,
            principal=principal,
            fallback=fallback,
            patience=patience,
            reason=reason,
        )

    return making.make(lambda: unit, act)


def roll_back(
    open_unit: Callable[[], UnitOfWork],
    cell: Cell,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    to: int | None = None,
    latch: bool = True,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
    key: str | None = None,
) -> Moved:
    """Undo what moved last. Works with the database down; then the decision waits in a local file.

    Args:
        open_unit: Opens the metadata database, once traffic has moved.
        cell: Where.
        service: Name of the service.
        principal: Who rolls back.
        clock: Says when.
        to: Version to go back to; the best one known if None.
        latch: Keep what is taken away from coming back by itself.
        patience: How long to wait for a version that is not ready.
        reason: In the principal's words.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        TidegateError: As `release.rollback.switch_back`.
    """
    kind = ROLLBACK if latch else SWITCH_BACK
    making = Making(cell=cell, service=service, kind=kind, principal=principal, key=_usable(key), clock=clock)
    done = making.remembered()
    if done is not None:
        return done

    def act() -> Decision:
        return switch_back(
            cell, service, principal=principal, to=to, latch=latch, patience=patience, reason=reason
        )

    return making.make(open_unit, act)


def change_safe_mode(
    open_unit: Callable[[], UnitOfWork],
    cell: Cell,
    service: str,
    *,
    on: bool,
    principal: Principal,
    clock: Clock,
    reason: str = "",
    key: str | None = None,
) -> Moved:
    """Send every request to the fallback chain, or let the versions answer again.

    Works with the database down, as a rollback does.

    Args:
        open_unit: Opens the metadata database, once traffic has moved.
        cell: Where.
        service: Name of the service.
        on: Whether the fallback chain is to answer.
        principal: Who wants it.
        clock: Says when.
        reason: In the principal's words.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        TidegateError: As `release.safe_mode.set_safe_mode`.
    """
    making = Making(
        cell=cell,
        service=service,
        kind=SAFE_MODE_ON if on else SAFE_MODE_OFF,
        principal=principal,
        key=_usable(key),
        clock=clock,
    )
    done = making.remembered()
    if done is not None:
        return done

    def act() -> Decision:
        return set_safe_mode(cell, service, on=on, principal=principal, reason=reason)

    return making.make(open_unit, act)


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
        NotFound: There is no such version.
        TidegateError: As `release.switch.clear_latch`.
    """
    from tidegate.operation.version import show_version

    making = Making(
        cell=cell,
        service=service,
        kind=CLEAR_LATCH,
        principal=principal,
        key=new_key(),
        clock=clock,
        version=version,
    )
    making.look_up(unit)
    route = cell.routes.read().services.get(service)
    if route is not None and route.latch_of(version) is None:
        show_version(unit, service, number=version)  # a slip of the hand is no decision to keep

    def act() -> Decision:
        return clear_latch(cell, service, version=version, principal=principal, reason=reason)

    return making.make(lambda: unit, act)


@dataclass(frozen=True, kw_only=True)
class Making:
    """One move of traffic while it is made: noted first, then done, then kept."""

    cell: Cell
    service: str
    kind: str
    principal: Principal
    key: str
    clock: Clock
    version: int | None = None

    @property
    def _pending(self) -> PendingMoves | None:
        if self.cell.pending is None:
            return None
        return PendingMoves(self.cell.pending, files=self.cell.files)

    def look_up(self, unit: UnitOfWork) -> Moved | None:
        """Return what an earlier call under the key came to, after bringing the database up to date.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        from tidegate.operation.decide import ACTION
        from tidegate.registry.store import StoredDecision

        self._reconcile(unit)
        with unit.read() as transaction:
            mutation = transaction.mutations.find(self.key)
        if mutation is None:
            return None
        if mutation.action != ACTION:
            raise Conflict(
                f"The idempotency key {self.key!r} was used before, for {mutation.action!r}.",
                hint="Use a new key for a new change.",
                key=self.key,
            )
        stored = msgspec.json.decode(mutation.result, type=StoredDecision)
        return Moved(self._same(stored.decision), stored.id)

    def remembered(self) -> Moved | None:
        """Return what an earlier call under the key came to, as far as this machine knows."""
        found, pending = None, self._pending
        if pending is not None:
            with suppress(OSError):
                found = pending.find(self.key)
        if found is None or found.decision is None:
            return None
        return Moved(self._same(found.decision), found.number)

    def make(self, open_unit: Callable[[], UnitOfWork], act: Callable[[], Decision]) -> Moved:
        """Note the move, make it, and keep its decision; in a file if the database is down.

        Raises:
            Conflict: A living process is making a move under this key, or as `act`.
            TidegateError: As `act`.
        """
        pending = self._pending
        move = self._begin()
        try:
            decision = act()
        except TidegateError as error:
            self._abandon(move, nothing_changed=not isinstance(error, RouteStorageError))
            raise
        except BaseException:
            self._abandon(move, nothing_changed=False)
            raise
        move = msgspec.structs.replace(move, decision=decision)
        if pending is not None:
            with suppress(OSError):  # traffic has moved; a full disk does not unmake that
                pending.replace(move)
        try:
            unit = open_unit()
            number = keep(unit, pending, move, clock=self.clock)
        except TidegateError:
            return Moved(decision, None)
        with suppress(TidegateError):
            self._reconcile(unit)
        return Moved(decision, number)

    def _begin(self) -> Move:
        move = Move(
            key=self.key,
            kind=self.kind,
            service=self.service,
            principal=self.principal,
            at_us=self.clock.wall_us(),
            generation=self._generation(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            version=self.version,
        )
        if self._pending is not None:
            with suppress(OSError):  # a rollback on a full disk is still tried
                self._pending.begin(move)
        return move

    def _generation(self) -> int:
        with suppress(TidegateError):
            route = self.cell.routes.read().services.get(self.service)
            return route.generation if route else 0
        return 0

    def _abandon(self, move: Move, *, nothing_changed: bool) -> None:
        """Drop the note; or, if the change may be in force, leave it to the next operation as nobody's."""
        if self._pending is not None:
            with suppress(OSError):
                if nothing_changed:
                    self._pending.drop(self.key)
                else:
                    self._pending.replace(msgspec.structs.replace(move, pid=0, started=""))

    def _reconcile(self, unit: UnitOfWork) -> None:
        pending = self._pending
        if pending is not None:
            with suppress(OSError):
                reconcile(unit, pending, self.cell.routes, clock=self.clock, except_key=self.key)

    def _same(self, decision: Decision) -> Decision:
        """Return `decision` if it is what is asked for now.

        Raises:
            Conflict: The key was used for something else.
        """
        wanted = (self.kind, self.service, self.principal, self.version or decision.version)
        if (decision.kind, decision.service, decision.principal, decision.version) != wanted:
            raise Conflict(
                f"The idempotency key {self.key!r} was used before, for a {decision.kind} of service "
                f"{decision.service!r} and version {decision.version} by {decision.principal.name}.",
                hint="Use a new key for a new change.",
                key=self.key,
            )
        return decision


def _usable(key: str | None) -> str:
    return new_key() if key is None else check_key(key)
