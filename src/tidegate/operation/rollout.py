"""Releases by evidence: start one, look at it, and what a person may say meanwhile.

Every word of a person changes the release's state in one transaction with its audit entry; the
controller follows within a moment. Only calling a release off moves traffic from here, so that it works
without a controller and without the database.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from tidegate.core.clock import Clock
from tidegate.core.decision import Evidence, Verdict
from tidegate.core.error import Conflict, InvalidSetting, NotFound, TidegateError
from tidegate.core.principal import Principal
from tidegate.operation.book import release_decision, release_state, save_release, stored_release
from tidegate.operation.key import new_key
from tidegate.operation.mutation import Effect, Intent, Transaction, UnitOfWork, run
from tidegate.operation.release import FallbackOf
from tidegate.operation.version import show_version
from tidegate.registry.store import CommitUnknown, StoreUnavailable
from tidegate.registry.version import version_label
from tidegate.release import machine, move
from tidegate.release.carry import carry_out, give_back
from tidegate.release.machine import State
from tidegate.release.plan import Forecast, Plan, check_time, forecast
from tidegate.release.readiness import Cell
from tidegate.release.step import route_changed
from tidegate.route.route import STABLE, ServiceRoute

STARTED = "started"
LATENCY = "latency"


class NotGated(TidegateError):
    """The version has not passed its gates."""

    code = "not_gated"


class Gated(Protocol):
    """Where a version stands with its gates."""

    @property
    def passed(self) -> bool: ...

    @property
    def words(self) -> str: ...


GateOf = Callable[[str, int], Gated]


class Traffic(msgspec.Struct, frozen=True):
    """What a service has to decide by today.

    Attributes:
        keys_per_s: New keys a second, or requests where keys do not repeat.
        rates: Guardrail -> part of the requests that have such an event.
        latency_p99_us: 99th percentile of service times, microseconds; None if unknown.
    """

    keys_per_s: float
    rates: dict[str, float] = {}
    latency_p99_us: float | None = None


class Begun(msgspec.Struct, frozen=True):
    """A release that was started.

    Attributes:
        state: The release.
        expected: How long it takes if the candidate is as good as stable; None if traffic is unknown.
        decision: Number of the decision.
    """

    state: State
    expected: Forecast | None
    decision: int


def start_release(
    unit: UnitOfWork,
    cells: Mapping[str, Cell],
    service: str,
    *,
    version: int,
    plan: Plan,
    fallback_of: FallbackOf,
    principal: Principal,
    clock: Clock,
    gate_of: GateOf | None = None,
    override: str = "",
    traffic: Traffic | None = None,
    allow_slow: bool = False,
    latency_us: float | None = None,
    mature_s: float | None = None,
    outputs: Collection[str] | None = None,
    target: str = "",
    reason: str = "",
    key: str | None = None,
) -> Begun:
    """Start the release of a version; the controller carries it out.

    Args:
        unit: The metadata database.
        cells: Every cell of the service, by name.
        service: Name of the service.
        version: Number of the candidate.
        plan: What it goes through.
        fallback_of: Reads fallback chains.
        principal: Who starts it.
        clock: Says when.
        gate_of: Says where the version stands with its gates; None asks nobody.
        override: Why it goes without having passed them, in the principal's words.
        traffic: Today's, by which the time it takes is foretold; None foretells nothing.
        allow_slow: Start even if it takes longer than the plan allows.
        latency_us: Objective of the service time; None: stable's 99th percentile of today.
        mature_s: How long outcomes take; the plan's own figure counts first.
        outputs: Names of the candidate's outputs; None does not look at what guardrails compare.
        target: Name of the outcome that the service is judged by.
        reason: In the principal's words.
        key: Idempotency key; a fresh one if None.

    Raises:
        NotFound: There is no such version, or the service serves none yet.
        InvalidSetting: The plan contradicts itself, or names cells or outputs that do not exist.
        NotGated: The version did not pass its gates, and nobody overrides them.
        TooSlow: At the present traffic it takes longer than the plan allows.
        Latched: The version was rolled back.
        Conflict: Another release or switch of the service is under way, or the version serves already.
        StoreUnavailable: The database cannot be reached; nothing was started.
    """
    plan = _fitting(plan.checked(), cells)
    if outputs is not None:
        plan.check_outputs(outputs)
    with unit.read() as transaction:
        found = transaction.versions.get(service, version)
    routes = {name: _startable(cell, service, version, clock) for name, cell in cells.items()}
    stable = _one_stable(service, routes)
    gates = _check_gates(gate_of, service, version, override)
    if latency_us is None and traffic is not None:
        latency_us = traffic.latency_p99_us
    rules = tuple(each for each in plan.guardrails if each.name != LATENCY or latency_us is not None)
    if mature_s is None or plan.mature_s is not None:
        mature_s = plan.mature_s or 0.0
    late = [each.name for each in rules if each.outcome]
    if late and mature_s <= 0:
        raise InvalidSetting(
            f"The guardrail {late[0]!r} waits for outcomes, and nothing says how long they take.",
            hint='Declare it: tg.Objectives(outcome_within="1d"), or tg.Plan(mature="1d").',
            service=service,
        )
    expected = None
    if traffic is not None:
        expected = forecast(
            replace(plan, guardrails=rules or plan.guardrails),
            keys_per_s=traffic.keys_per_s,
            rates=traffic.rates,
        )
        if not allow_slow:
            check_time(plan, expected, service=service)
    state = State(
        id=f"{service}-{version}-{secrets.token_hex(4)}",
        service=service,
        stable=stable,
        candidate=version,
        manifest=found.manifest,
        plan=plan,
        by=principal,
        started_us=clock.wall_us(),
        fallback=fallback_of(found.manifest),
        rules=rules,
        reason=reason or f"started by {principal.name}",
        latency_us=latency_us,
        mature_s=mature_s,
        target=target,
    )
    evidence = [gates, _expectation(plan, expected)]

    def perform(transaction: Transaction) -> Effect[_Kept]:
        transaction.releases.add(stored_release(state))
        decision = release_decision(state, STARTED, principal, clock, evidence=evidence, reason=reason)
        stored = transaction.decisions.append(decision)
        return Effect(_Kept(state, stored.id), version_label(service, version), {"release": state.id})

    request = [service, version, plan, override, allow_slow]
    word = _Word(principal, clock, reason, key)
    kept = _run(unit, "release.start", service, word, request=request, perform=perform)
    if kept.state.id == state.id:  # else it is what an earlier call under the key came to
        _announce(state, cells, routes, principal, clock)
    return Begun(kept.state, expected, kept.decision)


class _Kept(msgspec.Struct, frozen=True):
    state: State
    decision: int


def _fitting(plan: Plan, cells: Mapping[str, Cell]) -> Plan:
    named = [name for wave in plan.waves for name in wave]
    if plan.waves and sorted(named) != sorted(cells):
        raise InvalidSetting(
            f"The plan's waves name the cells {', '.join(named)}; there are {', '.join(sorted(cells))}.",
            hint="Name each cell in one wave, or none at all.",
        )
    # which they are is settled here: one that is new later has its first version from the others
    return plan if plan.waves else replace(plan, waves=(tuple(sorted(cells)),))


def _startable(cell: Cell, service: str, version: int, clock: Clock) -> ServiceRoute:
    """Return a cell's route if a release of `version` may begin there."""
    route = move.deployed(cell.routes.read().services.get(service), service)
    move.check_unlatched(route, version)
    if route.stable == version:
        raise Conflict(
            f"Version {version} of service {service!r} has all the traffic already.",
            hint="Release another version.",
            service=service,
            version=version,
        )
    others = [arm.name for arm in route.arms if arm.name != STABLE and arm.parts]
    if others:
        raise Conflict(
            f"Service {service!r} has an arm {others[0]!r} with traffic of its own.",
            hint="End that experiment or release first.",
            service=service,
        )
    if move.is_preparing(route, now_us=clock.wall_us()):
        raise Conflict(f"A switch of service {service!r} is under way.", hint="Let it end.", service=service)
    return route


def _one_stable(service: str, routes: Mapping[str, ServiceRoute]) -> int:
    versions = {route.stable for route in routes.values()}
    if len(versions) != 1 or None in versions:
        listed = ", ".join(f"{name}: {route.stable}" for name, route in sorted(routes.items()))
        raise Conflict(
            f"The cells of service {service!r} serve different versions ({listed}), so that there is nothing "
            "to compare with.",
            hint="Bring them to one version first.",
            service=service,
        )
    found = versions.pop()
    assert found is not None
    return found


def _announce(
    state: State,
    cells: Mapping[str, Cell],
    routes: Mapping[str, ServiceRoute],
    principal: Principal,
    clock: Clock,
) -> None:
    """Have the routes name the candidate: a rollback knows of a release by the route alone.

    Where that cannot be done, the controller does the same when it looks at the release.
    """
    now_us = clock.wall_us()

    def change(old: ServiceRoute | None) -> ServiceRoute:
        route = move.deployed(old, state.service)
        return carry_out(route, state, machine.Traffic(), by=principal, now_us=now_us)

    for name in state.plan.waves[0]:
        with suppress(TidegateError):  # it is started; and whoever changed the route meanwhile comes first
            cells[name].routes.change(state.service, change, expected_generation=routes[name].generation)


def _check_gates(gate_of: GateOf | None, service: str, version: int, override: str) -> Evidence:
    if gate_of is None:
        return Evidence(rule="gates", verdict=Verdict.UNDECIDED, reason="gates were not asked for")
    gates = gate_of(service, version)
    if not gates.passed and not override.strip():
        raise NotGated(
            gates.words,
            hint="Put it through `tidegate gate`, or say with --override why it goes all the same.",
            service=service,
            version=version,
        )
    return Evidence(
        rule="gates",
        verdict=Verdict.SAFE if gates.passed else Verdict.UNDECIDED,
        reason=gates.words if gates.passed else f"{gates.words} Overridden: {override}",
        parameters={} if gates.passed else {"override": override},
    )


def _expectation(plan: Plan, expected: Forecast | None) -> Evidence:
    if expected is None:
        return Evidence(rule="expected-time", verdict=Verdict.UNDECIDED, reason="traffic is not known")
    finite = expected.total_s <= plan.limit_s
    return Evidence(
        rule="expected-time",
        verdict=Verdict.SAFE if finite else Verdict.UNDECIDED,
        reason=f"about {expected.total_s:.0f} s at the present traffic; the guardrail "
        f"{expected.slowest!r} takes longest",
        parameters={"limit_s": plan.limit_s},
        observed={
            "steps": [
                {"share": step.share, "keys": min(step.keys, 1e18), "seconds": min(step.seconds, 1e18)}
                for step in expected.steps
            ]
        },
        statistic=min(expected.total_s, 1e18),
    )


def pause_release(
    unit: UnitOfWork,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    reason: str = "",
    key: str | None = None,
) -> State:
    """Hold a release where it is; a regression still rolls it back.

    Raises:
        NotFound: No release of the service is under way.
        Conflict: It is paused already.
    """
    word = _Word(principal, clock, reason, key)
    return _say(unit, service, "paused", lambda state: machine.pause(state, reason=reason), word)


def resume_release(
    unit: UnitOfWork,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    reason: str = "",
    key: str | None = None,
) -> State:
    """Let a paused release go on.

    Raises:
        NotFound: No release of the service is under way.
        Conflict: It is not paused.
    """
    word = _Word(principal, clock, reason, key)
    return _say(unit, service, "resumed", lambda state: machine.resume(state, reason=reason), word)


def approve_release(
    unit: UnitOfWork,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    reason: str = "",
    key: str | None = None,
) -> State:
    """Agree to the share that a release waits for.

    Raises:
        NotFound: No release of the service is under way.
        Conflict: It waits for nobody.
    """
    return _say(unit, service, "approved", machine.approve, _Word(principal, clock, reason, key))


def promote_now(
    unit: UnitOfWork, service: str, *, principal: Principal, clock: Clock, reason: str, key: str | None = None
) -> State:
    """Give the candidate everything, whatever the evidence says.

    Raises:
        NotFound: No release of the service is under way.
        InvalidSetting: No reason is given.
        Conflict: No worker has it ready yet, or it has all traffic already.
    """

    def change(state: State) -> State:
        return machine.promote_now(state, principal=principal, reason=reason)

    return _say(unit, service, "promoted-now", change, _Word(principal, clock, reason, key))


def abort_release(
    open_unit: Callable[[], UnitOfWork],
    cells: Mapping[str, Cell],
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    reason: str = "",
    key: str | None = None,
) -> State | None:
    """Call a release off: traffic goes back to stable, nothing is latched.

    Works without a controller. With the database down traffic goes back all the same, and the
    controller ends the release when the database is there again.

    Returns:
        The release; None where none is under way.

    Raises:
        NotFound: There is no such service.
        StoreUnavailable: The database cannot be reached, so that nobody knows whether a release goes on.
            What the route shows of one was given back.
    """
    routed = any(service in cell.routes.read().services for cell in cells.values())
    try:
        unit = open_unit()
        state = find_release(unit, service)
        if state is None and not routed:
            show_version(unit, service)  # a slip of the hand is not the same as nothing to call off
        if state is None or not state.is_open:
            return None
        word = _Word(principal, clock, reason, key)
        state = _say(unit, service, "aborted", lambda old: machine.abort(old, reason=reason), word)
    except (StoreUnavailable, CommitUnknown) as error:
        if not routed:
            raise NotFound(
                f"Service {service!r} has no route, so that no release of it goes on.",
                hint="The metadata database could not be reached.",
                service=service,
            ) from error
        taken = [_give_back_unknown(cell, service, principal, clock, reason) for cell in cells.values()]
        raise StoreUnavailable(
            f"The metadata database could not be reached: a release of service {service!r} may go on. "
            + ("What its candidate had was given back." if any(taken) else "No candidate of it has traffic."),
            hint="Call it off again once the database is there; `tidegate rollback` latches the candidate.",
            service=service,
        ) from error
    moved = [_give_back(cell, state, principal, clock) for cell in cells.values()]
    ended = machine.end_return(state)
    with suppress(Conflict):  # the controller was quicker
        save_release(unit, ended, revision=state.revision, principal=principal, clock=clock, evidence=moved)
    return ended


def _give_back(cell: Cell, state: State, principal: Principal, clock: Clock) -> Evidence:
    now_us = clock.wall_us()

    def change(old: ServiceRoute | None) -> ServiceRoute:
        route = move.deployed(old, state.service)
        if state.candidate not in route.versions:
            return route
        return give_back(route, state, latch=False, by=principal, reason=state.reason, now_us=now_us)

    before = cell.routes.read().services.get(state.service)
    return route_changed(before, cell.routes.change(state.service, change), state.service)


def _give_back_unknown(cell: Cell, service: str, principal: Principal, clock: Clock, reason: str) -> bool:
    """Take a canary's traffic away where nothing but the route says that there is one.

    Returns:
        Whether there was one.
    """
    route = cell.routes.read().services.get(service)
    if route is None or route.stable is None:
        return False
    tried = {arm.version for arm in route.arms if arm.name != STABLE}
    tried |= {each.version for each in route.shadows if each.version not in route.history}
    if not tried:
        return False
    stable, now_us = route.stable, clock.wall_us()

    def change(old: ServiceRoute | None) -> ServiceRoute:
        return move.retreat(
            move.deployed(old, service),
            to=stable,
            away=tried,
            latch=False,
            by=principal,
            reason=reason,
            now_us=now_us,
        )

    cell.routes.change(service, change)
    return True


def find_release(unit: UnitOfWork, service: str) -> State | None:
    """Return the service's latest release, under way or not; None if it never had one."""
    with unit.read() as transaction:
        found = transaction.releases.page(service, limit=1)
    return release_state(found[0]) if found else None


def list_releases(unit: UnitOfWork, service: str | None = None, *, limit: int = 100) -> list[State]:
    """Return releases, the latest first."""
    with unit.read() as transaction:
        return [release_state(each) for each in transaction.releases.page(service, limit=limit)]


@dataclass(frozen=True)
class _Word:
    """Who says something, when, why, and under which idempotency key."""

    principal: Principal
    clock: Clock
    reason: str = ""
    key: str | None = None


def _say(
    unit: UnitOfWork, service: str, outcome: str, change: Callable[[State], State], word: _Word
) -> State:
    def perform(transaction: Transaction) -> Effect[_Kept]:
        found = transaction.releases.find_open(service)
        if found is None:
            raise NotFound(
                f"No release of service {service!r} is under way.",
                hint="`tidegate release start` starts one.",
                service=service,
            )
        before = release_state(found)
        after = change(before)
        transaction.releases.save(stored_release(after), revision=before.revision)
        # the state's own reason may be an earlier word of somebody else
        reason = word.reason or f"{outcome} by {word.principal.name}"
        stored = transaction.decisions.append(
            release_decision(after, outcome, word.principal, word.clock, reason=reason)
        )
        return Effect(_Kept(after, stored.id), version_label(service, after.candidate), {"release": after.id})

    return _run(
        unit, f"release.{outcome}", service, word, request=[outcome, word.reason], perform=perform
    ).state


def _run(
    unit: UnitOfWork,
    action: str,
    service: str,
    word: _Word,
    *,
    request: Any,
    perform: Callable[[Transaction], Effect[_Kept]],
) -> _Kept:
    intent = Intent(
        action=action, principal=word.principal, key=word.key or new_key(), request=request, service=service
    )
    return run(unit, intent, perform=perform, result=_Kept, clock=word.clock).result
