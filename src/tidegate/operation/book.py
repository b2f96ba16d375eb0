"""Releases in the metadata database: each change once, with its decision and audit entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence
from tidegate.core.principal import SYSTEM, Principal
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import Effect, Intent, Transaction, UnitOfWork, run
from tidegate.registry.version import version_label
from tidegate.release.book import StoredRelease
from tidegate.release.controller import LEASE
from tidegate.release.lease import Leadership, LeaseLost
from tidegate.release.machine import KIND, State


class DatabaseBook:
    """Implements the controller's `Book` over the metadata database."""

    def __init__(self, unit: UnitOfWork, *, clock: Clock) -> None:
        self._unit = unit
        self._clock = clock

    def lead(self, leadership: Leadership) -> int | None:
        with self._unit.write() as transaction:
            leases = transaction.leases
            return leadership.renew(leases.find(leadership.name), leases.replace)

    def resign(self, leadership: Leadership) -> None:
        if leadership.token is None:
            return
        with self._unit.write() as transaction:
            leadership.resign(transaction.leases.replace)

    def open(self) -> list[State]:
        with self._unit.read() as transaction:
            return [
                release_state(each)
                for each in reversed(transaction.releases.page(open_only=True, limit=1000))
            ]

    def save(self, state: State, decision: Decision | None, *, revision: int, token: int) -> None:
        save_release(
            self._unit,
            state,
            revision=revision,
            principal=SYSTEM,
            clock=self._clock,
            decision=decision,
            check=lambda transaction: _check_lease(transaction, token),
        )

    def note(self, decision: Decision, *, key: str) -> None:
        record_decision(self._unit, decision, key=key, clock=self._clock)

    def touch(self, state: State, *, token: int) -> None:
        with self._unit.write() as transaction:
            _check_lease(transaction, token)
            transaction.releases.save(stored_release(state), revision=state.revision)


def save_release(
    unit: UnitOfWork,
    state: State,
    *,
    revision: int,
    principal: Principal,
    clock: Clock,
    evidence: Iterable[Evidence] = (),
    decision: Decision | None = None,
    check: Callable[[Transaction], None] = lambda _: None,
) -> None:
    """Keep a state that follows from one revision, once, with its decision if it has one."""

    def perform(transaction: Transaction) -> Effect[int]:
        check(transaction)
        transaction.releases.save(stored_release(state), revision=revision)
        listed = list(evidence)
        kept = decision
        if kept is None and listed:
            kept = release_decision(state, "moved", principal, clock, evidence=listed)
        stored = transaction.decisions.append(kept) if kept is not None else None
        label = version_label(state.service, state.candidate)
        detail = {"release": state.id, "stage": state.stage.value, "revision": state.revision}
        return Effect(0 if stored is None else stored.id, label, detail)

    intent = Intent(
        action="release.advance",
        principal=principal,
        key=f"{state.id}-{state.revision}-{principal.name}"[:200],
        request=[state.id, state.revision, state.stage.value, state.ending],
        service=state.service,
    )
    run(unit, intent, perform=perform, result=int, clock=clock)


def release_decision(
    state: State,
    outcome: str,
    principal: Principal,
    clock: Clock,
    *,
    evidence: Iterable[Evidence] = (),
    reason: str = "",
) -> Decision:
    """Return a decision about a release: its state says about what, and why unless said otherwise."""
    return Decision(
        kind=KIND,
        service=state.service,
        version=state.candidate,
        outcome=outcome,
        principal=principal,
        at_us=clock.wall_us(),
        reason=reason or state.reason,
        evidence=list(evidence),
    )


def stored_release(state: State) -> StoredRelease:
    """Return a release as a database keeps it."""
    return StoredRelease(state.id, state.service, state.is_open, state.revision, msgspec.json.encode(state))


def release_state(stored: StoredRelease) -> State:
    """Return a release as it was kept."""
    return msgspec.json.decode(stored.body, type=State)


def _check_lease(transaction: Transaction, token: int) -> None:
    lease = transaction.leases.find(LEASE)
    if lease is None or lease.token != token:
        raise LeaseLost(
            "Another controller leads the releases.",
            hint="This one slept or was cut off; it changes nothing until it leads again.",
            token=token,
        )
