"""Experiments: several versions answer fixed shares of the keys, until a person ends it.

They use the arms of the route as a release does, so that keys stick, records name their arm, and a
rollback takes all of them away. Nothing is decided automatically: an experiment measures.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from tidegate.core.decision import Decision
from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal
from tidegate.release import move
from tidegate.release.readiness import DEFAULT_PATIENCE, Cell, Patience, wait_following, wait_ready
from tidegate.release.step import Outcome, Step, route_changed
from tidegate.release.switch import NoWorkers
from tidegate.route.route import CANDIDATE, STABLE, Arm, ServiceRoute, resize

EXPERIMENT = "experiment"
EXPERIMENT_END = "experiment-end"
_TAKEN = frozenset({STABLE, CANDIDATE, "shadow", "pinned"})


class ExperimentArm(msgspec.Struct, frozen=True):
    """One version of an experiment.

    Attributes:
        name: Of the arm.
        version: Number of the version.
        manifest: Digest of the version's manifest.
        share: Part of the keys, in (0, 1).
    """

    name: str
    version: int
    manifest: Digest
    share: float


def check_arms(arms: Sequence[ExperimentArm]) -> None:
    """Pass if a route can have these arms beside stable.

    Raises:
        InvalidSetting: There are none, two have one name, a name is taken, or the shares leave stable
            nothing to be compared with.
    """
    names = [check_name("arm", arm.name) for arm in arms]
    if not arms or len(set(names)) != len(names) or _TAKEN & set(names):
        raise InvalidSetting(
            f"An experiment has arms of different names, none of {', '.join(sorted(_TAKEN))}. "
            f"Got {', '.join(names) or 'none'}.",
            hint="For example b=3:20 for an arm b in which version 3 answers 20% of the keys.",
        )
    shares = [arm.share for arm in arms]
    if min(shares) <= 0 or sum(shares) >= 1:
        raise InvalidSetting(
            f"The arms of an experiment have shares above 0 and leave some to stable. Got {sum(shares):.4g} "
            "in all.",
            hint="Stable is the arm that the others are compared with.",
        )


def start_experiment(
    cell: Cell,
    service: str,
    *,
    arms: Sequence[ExperimentArm],
    principal: Principal,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
    salt: str | None = None,
) -> Decision:
    """Give each arm its share, once every worker has all of the versions ready.

    Keys are drawn by a new salt, so that those of an earlier experiment or release are not the same ones.

    Args:
        cell: What to work on.
        service: Name of the service.
        arms: The versions beside stable.
        principal: Who starts it.
        patience: How long to wait for workers.
        reason: In the principal's words.
        salt: Of the keys' buckets; drawn at random if None.

    Returns:
        What was decided: committed; or aborted, with the workers' reasons, traffic as before.

    Raises:
        NotFound: The service has no version.
        InvalidSetting: The arms contradict each other.
        Latched: One of the versions was rolled back.
        Conflict: A release, a switch or another experiment is under way, or comes in between.
        NoWorkers: No worker runs that could show that a version loads.
        TidegateError: As `RouteStore.change`.
    """
    check_arms(arms)
    step = Step(cell=cell, service=service, kind=EXPERIMENT, principal=principal, reason=reason)
    before = step.present()
    if not cell.workers.live():
        raise NoWorkers(
            f"No worker is running, so nothing shows that the versions of service {service!r} load.",
            hint="Start the service with `tidegate up`, then the experiment.",
            service=service,
        )
    now_us = cell.clock.wall_us()
    drawn = secrets.token_hex(8) if salt is None else salt

    def stand_by(old: ServiceRoute | None) -> ServiceRoute:
        route = move.deployed(old, service)
        _check_quiet(route, now_us=now_us)
        for arm in arms:
            move.check_unlatched(route, arm.version)
            route = replace(route, manifests={**route.manifests, arm.version: arm.manifest})
            route = move.stand_by(route, arm.version)
        return route

    def begin(old: ServiceRoute | None) -> ServiceRoute:
        route = replace(move.deployed(old, service), salt=drawn)
        for arm in arms:
            route = resize(route, arm.name, share=arm.share, version=arm.version)
        return route

    route = cell.routes.change(service, stand_by, expected_generation=before.generation)
    generation = route.services[service].generation
    evidence = []
    for version in dict.fromkeys(arm.version for arm in arms):
        wait, found = wait_ready(cell, service, version=version, route=route, patience=patience)
        evidence.append(found)
        if not wait.is_good:
            cell.routes.change(service, lambda _: before, expected_generation=generation)
            return step.decide(Outcome.ABORTED, version=None, evidence=evidence, reason=wait.why)
    after = cell.routes.change(service, begin, expected_generation=generation)
    follow = wait_following(cell, after, service, patience)
    evidence += [route_changed(before, after, service), follow]
    return step.decide(Outcome.COMMITTED, version=None, evidence=evidence)


def end_experiment(
    cell: Cell,
    service: str,
    *,
    principal: Principal,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
) -> Decision:
    """Give all keys back to stable; nothing is latched.

    Returns:
        What was decided: committed; or unchanged, where there was no experiment.

    Raises:
        NotFound: The service has no version.
        Conflict: Someone else changed the route in between.
        TidegateError: As `RouteStore.change`.
    """
    step = Step(cell=cell, service=service, kind=EXPERIMENT_END, principal=principal, reason=reason)
    before = step.present()
    arms = experiment_arms(before)
    if not arms:
        return step.decide(Outcome.UNCHANGED, version=before.stable, evidence=[])
    now_us = cell.clock.wall_us()

    def end(old: ServiceRoute | None) -> ServiceRoute:
        route = move.deployed(old, service)
        assert route.stable is not None
        return move.retreat(
            route,
            to=route.stable,
            away={arm.version for arm in arms},
            latch=False,
            by=principal,
            reason=reason,
            now_us=now_us,
        )

    after = cell.routes.change(service, end, expected_generation=before.generation)
    follow = wait_following(cell, after, service, patience)
    return step.decide(
        Outcome.COMMITTED, version=before.stable, evidence=[route_changed(before, after, service), follow]
    )


def experiment_arms(route: ServiceRoute) -> tuple[Arm, ...]:
    """Return the arms of the experiment that goes on; none where there is none."""
    return tuple(arm for arm in route.arms if arm.parts and arm.name not in _TAKEN)


def _check_quiet(route: ServiceRoute, *, now_us: int) -> None:
    others = [arm.name for arm in route.arms if arm.name != STABLE and arm.parts]
    if others or route.safe_mode or move.newest(route, now_us=now_us) != {route.stable}:
        what = (
            f"has arms with traffic of their own ({', '.join(others)})"
            if others
            else "is in safe mode"
            if route.safe_mode
            else "has a release or a switch under way"
        )
        raise Conflict(
            f"Service {route.service!r} {what}.",
            hint="End that first: tidegate experiment stop, tidegate release abort, tidegate safe-mode off.",
            service=route.service,
        )
