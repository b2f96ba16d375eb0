"""Where a version stands: read off the decisions about its service, never stored and never set by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from tidegate.core.decision import Decision
from tidegate.registry.store import StoredDecision

GATE = "gate"
"""Kind of the decision that a version passed its gates, or did not."""

GATE_OVERRIDE = "gate-override"
"""Kind of the decision that one gate's verdict does not count; its outcome is the gate's name."""

REJECTION = "rejection"
"""Kind of a person's decision that a version is not to be had."""

PASSED = "passed"
STOPPED = "stopped"

_ROUTE_CHANGED = "route-changed"
_STABLE = "stable"
_CLEARS = "clear-latch"
_TAKES_AWAY = "rollback"


class Stage(StrEnum):
    """Where a version stands."""

    CANDIDATE = "candidate"  # registered, and nothing was decided about it
    GATED = "gated"  # it passed its gates
    REJECTED = "rejected"  # a gate stopped it, or a person
    SHADOW = "shadow"  # it gets copies of requests
    CANARY = "canary"  # it answers a part of the keys
    CHAMPION = "champion"
    RETIRED = "retired"  # it was champion, and another took over
    ROLLED_BACK = "rolled back"  # it was taken away, and latched


class State(msgspec.Struct, frozen=True):
    """Where a version stands, and what put it there.

    Attributes:
        stage: Where.
        since_us: When that was decided, microseconds UTC; 0 where nothing was.
        decision: Number of the decision; None where nothing was decided.
        overridden: Gates whose verdict a person overrode, ever.
        gates: Outcome of its last gates: `passed`, `stopped`, or "" where it has not met them.
    """

    stage: Stage = Stage.CANDIDATE
    since_us: int = 0
    decision: int | None = None
    overridden: tuple[str, ...] = ()
    gates: str = ""


def lifecycle(decisions: Iterable[StoredDecision]) -> dict[int, State]:
    """Return the state of each version that any decision is about.

    What moves traffic says so itself, in evidence of the rule `route-changed`: who had which share
    before and after. Nothing else is believed about traffic.

    Args:
        decisions: About one service, in the order they were taken.
    """
    states: dict[int, State] = {}
    for stored in decisions:
        for number, changed in _changes(stored.decision, states).items():
            before = states.get(number, State())
            if changed.get("stage", before.stage) is not before.stage:
                changed |= {"since_us": stored.decision.at_us, "decision": stored.id}
            states[number] = msgspec.structs.replace(before, **changed)
    return states


def _changes(decision: Decision, states: Mapping[int, State]) -> dict[int, dict[str, Any]]:
    """Return what one decision changes, by version."""
    number = decision.version
    if decision.kind == GATE and number is not None:
        passed = decision.outcome == PASSED
        change: dict[str, Any] = {"gates": decision.outcome}
        if states.get(number, State()).stage in (Stage.CANDIDATE, Stage.GATED, Stage.REJECTED):
            change["stage"] = Stage.GATED if passed else _stopped(decision)
        return {number: change}
    if decision.kind == GATE_OVERRIDE and number is not None:
        return {number: _overridden(decision, states.get(number, State()))}
    if decision.kind == REJECTION and number is not None:
        return {number: {"stage": Stage.REJECTED}}
    if decision.kind == _CLEARS and number is not None:
        return {number: {"stage": _before_traffic(states.get(number, State()))}}
    for evidence in decision.evidence:
        if evidence.rule == _ROUTE_CHANGED:
            return _traffic(decision, evidence.observed, states)
    return {}


def _overridden(decision: Decision, before: State) -> dict[str, Any]:
    change: dict[str, Any] = {"overridden": tuple(dict.fromkeys((*before.overridden, decision.outcome)))}
    if any(evidence.observed.get(PASSED) for evidence in decision.evidence):
        change["gates"] = PASSED
        if before.stage in (Stage.CANDIDATE, Stage.REJECTED):
            change["stage"] = Stage.GATED
    return change


def _stopped(decision: Decision) -> Stage:
    """A version that no gate found worse is still a candidate: more evidence may decide."""
    worse = any(evidence.verdict in ("regressed", "invalid") for evidence in decision.evidence)
    return Stage.REJECTED if worse else Stage.CANDIDATE


def _before_traffic(state: State) -> Stage:
    return Stage.GATED if state.gates == PASSED else Stage.CANDIDATE


def _traffic(
    decision: Decision, observed: Mapping[str, Any], states: Mapping[int, State]
) -> dict[int, dict[str, Any]]:
    """Return what a change of the route changes."""
    now = _placed(observed.get("to", {}))
    before = _placed(observed.get("from", {}))
    changes: dict[int, dict[str, Any]] = {
        number: {"stage": stage} for number, stage in now.items() if before.get(number) is not stage
    }
    for number in before.keys() - now.keys():
        if decision.kind == _TAKES_AWAY:
            changes[number] = {"stage": Stage.ROLLED_BACK}
        elif before[number] is Stage.CHAMPION:
            changes[number] = {"stage": Stage.RETIRED}
        elif (
            states.get(number, State()).stage is not Stage.RETIRED
        ):  # one that shadowed its successor stays so
            changes[number] = {"stage": _before_traffic(states.get(number, State()))}
    for number, stage in now.items():
        # a champion that shadows its successor is retired all the same
        if stage is Stage.SHADOW and before.get(number) is Stage.CHAMPION:
            changes[number] = {"stage": Stage.RETIRED}
    return changes


def _placed(route: Mapping[str, Any]) -> dict[int, Stage]:
    """Return where the versions of a described route stand."""
    placed = {_number(each): Stage.SHADOW for each in route.get("shadows", ())}
    arms = route.get("arms", {})
    for name, arm in arms.items():
        if name != _STABLE and arm.get("share", 0) > 0:
            placed[arm["version"]] = Stage.CANARY
    if _STABLE in arms:
        placed[arms[_STABLE]["version"]] = Stage.CHAMPION
    return placed


def _number(shadow: Any) -> int:
    return int(shadow["version"] if isinstance(shadow, Mapping) else shadow)
