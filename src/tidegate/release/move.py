"""The moves a release makes, each a pure function from a service's route to its next one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, InvalidSetting, NotFound, TidegateError
from tidegate.core.principal import Principal
from tidegate.route.route import PARTS, STABLE, Arm, Latch, Preparation, RolledBack, ServiceRoute

_HISTORY = 16
"""Earlier versions remembered: as far back as anyone walks in an emergency."""

_AT_ONCE_US = 10_000_000
"""Within this time of a rollback another one was meant for the same thing: nobody has seen more yet."""


class Latched(TidegateError):
    """The version was rolled back; only a person may send it traffic again."""

    code = "latched"


class NothingToRollBack(TidegateError):
    """No earlier version and no fallback can take over."""

    code = "nothing_to_roll_back"


def deployed(route: ServiceRoute | None, service: str) -> ServiceRoute:
    """Return the route of a service that has a stable version.

    Raises:
        NotFound: It has none.
    """
    if route is None or not route.arms:
        raise NotFound(
            f"Service {service!r} has no version that serves.",
            hint="Its first version is deployed by `tidegate up`.",
            service=service,
        )
    return route


def _everything(version: int) -> tuple[Arm, ...]:
    return (Arm(STABLE, version, ((0, PARTS),)),)


def _trim(route: ServiceRoute) -> ServiceRoute:
    """Drop the manifests of versions that the route no longer names."""
    named = {*route.versions, *route.history}
    kept = {version: digest for version, digest in route.manifests.items() if version in named}
    return replace(route, manifests=kept)


def _with_manifest(route: ServiceRoute, version: int, manifest: Digest) -> dict[int, Digest]:
    known = route.manifests.get(version, manifest)
    if known != manifest:
        raise InvalidSetting(
            f"Version {version} of service {route.service!r} has manifest {known}; {manifest} came.",
            hint="A version never changes: register a new one.",
            service=route.service,
            version=version,
        )
    return {**route.manifests, version: manifest}


def check_unlatched(route: ServiceRoute, version: int) -> None:
    """Pass if nothing holds `version` back.

    Raises:
        Latched: It was rolled back.
    """
    latch = route.latch_of(version)
    if latch is not None:
        raise Latched(
            f"Version {version} of service {route.service!r} was rolled back by {latch.by}: "
            f"{latch.reason or 'no reason given'}.",
            hint="If you know better, clear its latch first.",
            service=route.service,
            version=version,
        )


def deploy_first(
    route: ServiceRoute | None,
    service: str,
    *,
    version: int,
    manifest: Digest,
    salt: str,
    fallback: tuple[str, ...],
    placement: str = "",
) -> ServiceRoute:
    """Give all traffic to the first version.

    Raises:
        Conflict: The service has a version already.
    """
    if route is not None and route.arms:
        raise Conflict(
            f"Service {service!r} serves version {route.stable} already.",
            hint="Later versions move by a switch or a release.",
            service=service,
        )
    before = route or ServiceRoute(service, salt=salt)
    return replace(
        before,
        arms=_everything(version),
        fallback=fallback,
        manifests=_with_manifest(before, version, manifest),
        placement=placement,
    )


def prepare(
    route: ServiceRoute, *, version: int, manifest: Digest, by: Principal, now_us: int, until_us: int
) -> ServiceRoute:
    """Have the workers load `version`, without traffic.

    Raises:
        Latched: The version was rolled back.
        Conflict: Another switch or a release is under way.
        InvalidSetting: The version is known by another manifest.
    """
    check_unlatched(route, version)
    others = [arm for arm in route.arms if arm.name != STABLE and arm.parts]
    if others:
        raise Conflict(
            f"A release of service {route.service!r} is under way: version {others[0].version} has "
            f"{others[0].share:.4%} of the keys.",
            hint="Let it end, or roll it back.",
            service=route.service,
        )
    if is_preparing(route, now_us=now_us) and route.preparing:
        raise Conflict(
            f"A switch of service {route.service!r} to version {route.preparing.version} by "
            f"{route.preparing.by} is under way.",
            hint="Let it end, or roll it back.",
            service=route.service,
        )
    route = cancel(route)
    added = version not in route.versions
    return replace(
        route,
        standby=(*route.standby, version) if added else route.standby,
        manifests=_with_manifest(route, version, manifest),
        preparing=Preparation(version, by.name, until_us, added, now_us),
    )


def is_preparing(route: ServiceRoute, *, now_us: int) -> bool:
    """Tell whether someone is in the first phase of a switch and has not run out of time."""
    return route.preparing is not None and now_us < route.preparing.until_us


def cancel(route: ServiceRoute) -> ServiceRoute:
    """Give up a preparation; nothing where there is none."""
    preparation = route.preparing
    if preparation is None:
        return route
    standby = route.standby
    if preparation.added:
        standby = tuple(version for version in standby if version != preparation.version)
    return _trim(replace(route, standby=standby, preparing=None))


def commit(route: ServiceRoute, *, version: int, fallback: tuple[str, ...] | None = None) -> ServiceRoute:
    """Give all traffic to a prepared version; the one before stays on standby for the way back.

    Args:
        route: The route in which `version` was prepared.
        version: Number of the version.
        fallback: The version's fallback chain; None keeps the present one.
    """
    before, latched = route.stable, [latch.version for latch in route.latched]
    history = tuple(each for each in (*route.history, before) if each is not None and each != version)
    return _trim(
        replace(
            route,
            arms=_everything(version),
            shadows=tuple(shadow for shadow in route.shadows if shadow.version != version),
            standby=(before,) if before not in (None, version, *latched) else (),
            history=tuple(dict.fromkeys(reversed(history)))[:_HISTORY][::-1],
            fallback=route.fallback if fallback is None else fallback,
            safe_mode=False,
            preparing=None,
            releasing=None,
        )
    )


def newest(route: ServiceRoute, *, now_us: int) -> frozenset[int]:
    """Return the versions that a rollback takes away: what moved last.

    A release with traffic, else a switch in progress, else a release without traffic, else versions that are
    only tried as shadows, else the stable version. A shadow that has served before and is not being released
    is the way back, watching.
    """
    candidates = {arm.version for arm in route.arms if arm.name != STABLE and arm.parts}
    if candidates:
        return frozenset(candidates)
    if route.preparing is not None and is_preparing(route, now_us=now_us):
        return frozenset({route.preparing.version})
    if route.releasing is not None and not route.latch_of(route.releasing):
        return frozenset({route.releasing})
    tried = _tried(route)
    if tried:
        return frozenset(tried)
    return frozenset({route.stable} if route.stable is not None else ())


def _tried(route: ServiceRoute) -> set[int]:
    """Return the shadows that have never served."""
    return {shadow.version for shadow in route.shadows} - {*route.history, route.stable}


def still_there(route: ServiceRoute, away: Collection[int]) -> bool:
    """Tell whether one of those versions has traffic, gets copies, or is being prepared or released."""
    if route.preparing is not None and route.preparing.version in away:
        return True
    if route.releasing in away or any(version in away for version in _tried(route)):
        return True
    # in safe mode a version has no traffic, but it would have as soon as that ends, unless it is latched
    return any(
        arm.parts and arm.version in away and not (route.safe_mode and route.latch_of(arm.version))
        for arm in route.arms
    )


def way_back(route: ServiceRoute, *, away: Collection[int]) -> int | None:
    """Return the version to go back to: stable if that may stay, else the latest good one before it."""
    latched = {latch.version for latch in route.latched}
    known = (*route.history, route.stable)
    barred = {*away, *latched, route.releasing}  # a version on trial is not what a service is saved by
    return next((each for each in reversed(known) if each not in barred), None)


def _latch(
    route: ServiceRoute, away: Collection[int], *, by: Principal, reason: str, now_us: int
) -> ServiceRoute:
    fresh = [
        Latch(version, reason, by.name, now_us) for version in sorted(away) if not route.latch_of(version)
    ]
    return replace(route, latched=(*route.latched, *fresh))


def stand_by(route: ServiceRoute, version: int) -> ServiceRoute:
    """Have the workers load an earlier version; gives up a switch that is under way."""
    route = cancel(route)
    return route if version in route.versions else replace(route, standby=(*route.standby, version))


def retreat(
    route: ServiceRoute,
    *,
    to: int,
    away: Collection[int],
    latch: bool,
    by: Principal,
    reason: str,
    now_us: int,
) -> ServiceRoute:
    """Give all traffic to an earlier version, whatever else is under way.

    The next one to go back to takes the place on standby.
    """
    history = [version for version in route.history if version != to]
    if latch:
        route = _latch(route, away, by=by, reason=reason, now_us=now_us)
    elif route.stable not in (None, to):
        history.append(route.stable)
    route = replace(
        route,
        arms=_everything(to),
        shadows=tuple(shadow for shadow in route.shadows if shadow.version not in {*away, to}),
        standby=(),
        history=tuple(history[-_HISTORY:]),
        safe_mode=route.safe_mode and to == route.stable,  # whoever switched it on for stable still wants it
        preparing=None,
        releasing=None,
    )
    following = way_back(route, away={to})
    return _trim(replace(route, standby=() if following is None else (following,)))


def note_rollback(
    before: ServiceRoute, after: ServiceRoute, *, away: Collection[int], by: Principal, now_us: int
) -> ServiceRoute:
    """Return the route after a rollback, with a note of it."""
    noted = RolledBack(tuple(sorted(away)), by.name, now_us, before.generation + 1)
    return replace(after, rolled_back=noted)


def rolled_back_just_now(route: ServiceRoute, *, now_us: int) -> RolledBack | None:
    """Return the rollback that a second one would repeat: nothing came after it, and it is seconds old."""
    last = route.rolled_back
    if last is None or last.generation != route.generation or abs(now_us - last.at_us) >= _AT_ONCE_US:
        return None
    return last


def fall_back(
    route: ServiceRoute,
    *,
    away: Collection[int],
    tried: Mapping[int, str],
    by: Principal,
    reason: str,
    now_us: int,
) -> ServiceRoute:
    """Send every request to the fallback chain: the last resort of a rollback.

    Args:
        route: The route before.
        away: Versions to latch.
        tried: Earlier versions that could not be made ready, and why.
        by: Who rolls back.
        reason: In words.
        now_us: The time, microseconds UTC.

    Raises:
        NothingToRollBack: The service has no fallback.
    """
    if not route.fallback:
        failed = "".join(f" Version {version}: {why}." for version, why in tried.items())
        raise NothingToRollBack(
            f"No earlier version of service {route.service!r} can take over, and it has no fallback.{failed}",
            hint="Register a good version and switch to it.",
            service=route.service,
        )
    route = _latch(cancel(route), away, by=by, reason=reason, now_us=now_us)
    releasing = None if route.releasing in away else route.releasing
    return replace(route, safe_mode=True, releasing=releasing)


def enter_safe_mode(route: ServiceRoute) -> ServiceRoute:
    """Send every request to the fallback chain; gives up a switch that is under way.

    Raises:
        InvalidSetting: The service has no fallback.
    """
    if not route.fallback:
        raise InvalidSetting(
            f"Service {route.service!r} has no fallback, so there is nobody who could answer in safe mode.",
            hint="Declare one with tg.Service(fallback=...) and deploy that version.",
            service=route.service,
        )
    return replace(cancel(route), safe_mode=True)


def leave_safe_mode(route: ServiceRoute) -> ServiceRoute:
    """Let the route's versions answer again; nothing where they do.

    Raises:
        Latched: One of them was rolled back.
    """
    if not route.safe_mode:
        return route
    for arm in route.arms:
        if arm.parts:
            check_unlatched(route, arm.version)
    return replace(route, safe_mode=False)


def clear_latch(route: ServiceRoute, *, version: int) -> ServiceRoute:
    """Let a rolled-back version be switched to again; nothing where it is not latched."""
    return replace(route, latched=tuple(latch for latch in route.latched if latch.version != version))
