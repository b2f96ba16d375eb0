"""Carrying out what a release wants of a route: pure functions between a service's routes."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from tidegate.core.principal import Principal
from tidegate.release import move
from tidegate.release.machine import NOTHING, Route, Stage, State, Traffic
from tidegate.route.route import CANDIDATE, PARTS, STABLE, Latch, ServiceRoute, Shadow, resize


class Compared(NamedTuple):
    """How a route compares with what a release wants.

    Attributes:
        route: The verdict.
        reason: Why the candidate was taken away, in words.
        by: Who did.
    """

    route: Route
    reason: str = ""
    by: str = ""


def compare(route: ServiceRoute, state: State, traffic: Traffic) -> Compared:
    """Tell whether a route is as wanted, still to be changed, or changed by someone else."""
    latch = route.latch_of(state.candidate)
    if latch is not None:
        return Compared(Route.LATCHED, latch.reason, latch.by)
    if _looks_like(route, state, traffic):
        return Compared(Route.AS_WANTED)
    if state.stage is Stage.PREPARING and _was_switched_back(route, state):
        assert route.rolled_back is not None
        by = route.rolled_back.by
        return Compared(Route.OVERTAKEN, f"{by} has taken version {state.candidate} away", by)
    if any(_looks_like(route, state, each) for each in state.before) or (
        state.stage is Stage.PREPARING and _has_nothing(route, state)
    ):
        return Compared(Route.BEHIND)
    if traffic == NOTHING and route.stable in (state.stable, state.candidate):
        return Compared(Route.BEHIND)
    share = _share(route, state.candidate)
    return Compared(
        Route.OVERTAKEN,
        f"version {route.stable} is stable and version {state.candidate} has {share:.2%} of the keys, "
        f"expected {traffic.share:.2%}: someone else has changed the route",
    )


def _looks_like(route: ServiceRoute, state: State, traffic: Traffic) -> bool:
    shadow = _shadow_of(state, traffic)
    copied = next((each.parts for each in route.shadows if each.version == shadow), 0)
    if copied != round(traffic.shadow * PARTS):
        return False
    if traffic.share >= 1:
        return route.stable == state.candidate and _share(route, state.candidate) == 1.0
    if route.stable != state.stable or _share(route, state.candidate) != round(traffic.share * PARTS) / PARTS:
        return False
    if not traffic.standby and route.releasing == state.candidate:
        return False
    # a candidate that was stable for a while stays a way back for others
    return (state.candidate in route.versions) == traffic.standby or state.candidate in route.history


def _has_nothing(route: ServiceRoute, state: State) -> bool:
    return route.stable == state.stable and _share(route, state.candidate) == 0


def _was_switched_back(route: ServiceRoute, state: State) -> bool:
    """Tell whether the last change took the candidate away, without a latch: nothing else would show it."""
    last = route.rolled_back
    return (
        last is not None
        and last.generation == route.generation
        and state.candidate in last.versions
        and last.at_us >= state.started_us
    )


def _share(route: ServiceRoute, version: int) -> float:
    return sum(arm.parts for arm in route.arms if arm.version == version) / PARTS


def _shadow_of(state: State, traffic: Traffic) -> int:
    return state.stable if traffic.share >= 1 else state.candidate


def carry_out(
    route: ServiceRoute, state: State, traffic: Traffic, *, by: Principal, now_us: int
) -> ServiceRoute:
    """Return the route with what a release wants of it.

    Raises:
        Latched: The candidate was rolled back.
        InvalidSetting: The route cannot have it.
    """
    if traffic == NOTHING:
        return give_back(route, state, latch=False, by=by, reason=state.reason, now_us=now_us)
    move.check_unlatched(route, state.candidate)
    route = replace(route, manifests={**route.manifests, state.candidate: state.manifest})
    if traffic.share >= 1:
        if route.stable != state.candidate or _share(route, state.candidate) != 1.0:
            route = move.commit(route, version=state.candidate, fallback=state.fallback)
    else:
        if state.candidate not in route.standby:
            route = replace(route, standby=(*route.standby, state.candidate))
        if traffic.share > 0 or route.arm(CANDIDATE) is not None:
            route = resize(route, CANDIDATE, share=traffic.share, version=state.candidate)
    shadow = _shadow_of(state, traffic)
    others = tuple(each for each in route.shadows if each.version not in (state.candidate, state.stable))
    if traffic.shadow > 0 and not route.latch_of(shadow):
        others = (*others, Shadow(shadow, round(traffic.shadow * PARTS)))
    return replace(route, shadows=others, releasing=None if traffic.share >= 1 else state.candidate)


def give_back(
    route: ServiceRoute, state: State, *, latch: bool, by: Principal, reason: str, now_us: int
) -> ServiceRoute:
    """Return the route with the candidate's traffic given back; as it is where there is none to give.

    Where the version before cannot take over any more (it was rolled back itself), the next good one
    does, and at last the fallback chain.

    Raises:
        NothingToRollBack: Nobody can take over.
    """
    if latch and route.latch_of(state.candidate):
        return route
    if route.stable not in (state.stable, state.candidate):
        return _without(route, state, latch=latch, by=by, reason=reason, now_us=now_us)
    target: int | None = state.stable
    if route.latch_of(state.stable):
        target = move.way_back(route, away={state.candidate})
    if target is None:
        return move.fall_back(
            route, away={state.candidate} if latch else set(), tried={}, by=by, reason=reason, now_us=now_us
        )
    away = {state.candidate}
    back = move.retreat(route, to=target, away=away, latch=latch, by=by, reason=reason, now_us=now_us)
    if not latch:
        return back
    return move.note_rollback(route, back, away=away, by=by, now_us=now_us)


def _without(
    route: ServiceRoute, state: State, *, latch: bool, by: Principal, reason: str, now_us: int
) -> ServiceRoute:
    """Take away what is left of a candidate where someone else has moved the stable version."""
    arms = {arm.name: arm for arm in route.arms}
    mine = arms.get(CANDIDATE)
    if mine is not None and mine.version == state.candidate:
        stable = arms[STABLE]
        spans = tuple(sorted((*stable.intervals, *mine.intervals)))
        rest = tuple(arm for arm in route.arms if arm.name not in (CANDIDATE, STABLE))
        route = replace(route, arms=(replace(stable, intervals=spans), *rest))
    if latch and not route.latch_of(state.candidate):
        route = replace(route, latched=(*route.latched, Latch(state.candidate, reason, by.name, now_us)))
    return replace(
        route,
        shadows=tuple(each for each in route.shadows if each.version != state.candidate),
        standby=tuple(each for each in route.standby if each != state.candidate),
        releasing=None if route.releasing == state.candidate else route.releasing,
    )
