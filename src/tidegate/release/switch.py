"""The plain switch: all traffic at once, in two phases.

First the target stands by until every living worker has it ready; then one change of the route
makes it stable. A rollback that comes in between wins: it changes the route, so that the second
phase finds another generation than it prepared and is refused.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

from tidegate.core.decision import Decision
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.core.principal import Principal
from tidegate.release import move
from tidegate.release.readiness import DEFAULT_PATIENCE, Cell, Patience, wait_following, wait_ready
from tidegate.release.step import CLEAR_LATCH, FIRST_DEPLOYMENT, SWITCH, Outcome, Step, route_changed
from tidegate.route.route import ServiceRoute


class NoWorkers(TidegateError):
    """No worker runs that could show that a version loads."""

    code = "no_workers"


def first_deployment(
    cell: Cell,
    service: str,
    *,
    version: int,
    manifest: Digest,
    principal: Principal,
    fallback: tuple[str, ...] = (),
    placement: str = "",
    salt: str | None = None,
    token: int | None = None,
    reason: str = "",
) -> Decision:
    """Give all traffic to the first version of a service.

    Nobody is waited for: without a route there was nothing to serve, so nothing can get worse.

    Args:
        cell: What to work on.
        service: Name of the service.
        version: Number of the version.
        manifest: Digest of the version's manifest.
        principal: Who deploys.
        fallback: Names of the version's fallback chain.
        placement: When workers load the service's versions; see `ServiceRoute`.
        salt: Of the keys' buckets; drawn at random if None.
        token: Fencing token of the lease, if the caller holds one.
        reason: In the principal's words.

    Raises:
        Conflict: The service has a version already, or someone else deployed one just now.
        TidegateError: As `RouteStore.change`.
    """
    drawn = secrets.token_hex(8) if salt is None else salt

    def deploy(old: ServiceRoute | None) -> ServiceRoute:
        return move.deploy_first(
            old,
            service,
            version=version,
            manifest=manifest,
            salt=drawn,
            fallback=fallback,
            placement=placement,
        )

    after = cell.routes.change(service, deploy, token=token)
    step = Step(cell=cell, service=service, kind=FIRST_DEPLOYMENT, principal=principal, reason=reason)
    return step.decide(Outcome.COMMITTED, version=version, evidence=[route_changed(None, after, service)])


def switch(
    cell: Cell,
    service: str,
    *,
    version: int,
    manifest: Digest,
    principal: Principal,
    expected_generation: int | None = None,
    fallback: tuple[str, ...] | None = None,
    token: int | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    without_workers: bool = False,
    reason: str = "",
) -> Decision:
    """Move all traffic to `version`, once every living worker has it ready.

    Args:
        cell: What to work on.
        service: Name of the service.
        version: Number of the version.
        manifest: Digest of the version's manifest.
        principal: Who switches.
        expected_generation: Generation that the principal saw; the present one if None.
        fallback: Names of the version's fallback chain; the present chain if None.
        token: Fencing token of the lease, if the caller holds one.
        patience: How long to wait.
        without_workers: Switch even if no worker runs that could try the version.
        reason: In the principal's words.

    Returns:
        What was decided: committed; aborted, with the workers' reasons, traffic as before; or
        unchanged, because the version has all the traffic already.

    Raises:
        NotFound: The service has no version yet.
        Latched: The version was rolled back.
        Conflict: Another change came first or is under way. A rollback always comes first.
        NoWorkers: No worker runs.
        TidegateError: As `RouteStore.change`.
    """
    step = Step(cell=cell, service=service, kind=SWITCH, principal=principal, reason=reason)
    before = step.present()
    if expected_generation is None:
        expected_generation = before.generation
    if before.generation == expected_generation and before.stable == version and _is_settled(before):
        return step.decide(Outcome.UNCHANGED, version=version, evidence=[])
    if not without_workers and not cell.workers.live():
        raise NoWorkers(
            f"No worker is running, so nothing shows that version {version} of service {service!r} loads.",
            hint="Start the service with `tidegate up`, then switch.",
            service=service,
            version=version,
        )
    now_us = cell.clock.wall_us()

    def prepare(old: ServiceRoute | None) -> ServiceRoute:
        return move.prepare(
            move.deployed(old, service),
            version=version,
            manifest=manifest,
            by=principal,
            now_us=now_us,
            until_us=now_us + round((patience.ready_s + patience.follow_s) * 1e6),
        )

    def commit(old: ServiceRoute | None) -> ServiceRoute:
        return move.commit(move.deployed(old, service), version=version, fallback=fallback)

    prepared = cell.routes.change(service, prepare, expected_generation=expected_generation, token=token)
    generation = prepared.services[service].generation
    try:
        wait, evidence = wait_ready(cell, service, version=version, route=prepared, patience=patience)
        if not wait.is_good:
            _give_up(cell, service, generation=generation, token=token)
            return step.decide(Outcome.ABORTED, version=version, evidence=[evidence], reason=wait.why)
        after = cell.routes.change(service, commit, expected_generation=generation, token=token)
    except BaseException:
        _give_up(cell, service, generation=generation, token=token)  # also when a person interrupts the wait
        raise
    follow = wait_following(cell, after, service, patience)
    return step.decide(
        Outcome.COMMITTED, version=version, evidence=[evidence, route_changed(before, after, service), follow]
    )


def _is_settled(route: ServiceRoute) -> bool:
    return not route.safe_mode and route.preparing is None and sum(bool(arm.parts) for arm in route.arms) == 1


def _give_up(cell: Cell, service: str, *, generation: int, token: int | None) -> None:
    """Take the target off standby again, unless someone else has changed the route since."""

    def cancel(old: ServiceRoute | None) -> ServiceRoute:
        return move.cancel(move.deployed(old, service))

    with suppress(TidegateError):
        cell.routes.change(service, cancel, expected_generation=generation, token=token)


def clear_latch(
    cell: Cell, service: str, *, version: int, principal: Principal, reason: str = ""
) -> Decision:
    """Let a rolled-back version be switched to again; only a person may.

    Raises:
        InvalidSetting: The principal is no person.
        NotFound: The service has no version.
        TidegateError: As `RouteStore.change`.
    """
    if principal.kind != "person":
        raise InvalidSetting(
            f"Only a person can clear the latch of version {version} of service {service!r}; "
            f"{principal.name!r} is none.",
            hint="Look at why it was rolled back, then clear it yourself.",
            service=service,
            version=version,
        )

    def clear(old: ServiceRoute | None) -> ServiceRoute:
        return move.clear_latch(move.deployed(old, service), version=version)

    step = Step(cell=cell, service=service, kind=CLEAR_LATCH, principal=principal, reason=reason)
    before = step.present()
    after = cell.routes.change(service, clear)
    outcome = Outcome.COMMITTED if before.latch_of(version) else Outcome.UNCHANGED
    return step.decide(outcome, version=version, evidence=[route_changed(before, after, service)])
