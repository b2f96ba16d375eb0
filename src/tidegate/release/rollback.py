"""Rollback: the way back, which wins over everything else."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.core.principal import Principal
from tidegate.release import move
from tidegate.release.readiness import (
    DEFAULT_PATIENCE,
    Cell,
    Patience,
    wait_following,
    wait_ready,
)
from tidegate.release.step import ROLLBACK, SWITCH_BACK, Outcome, Step, route_changed
from tidegate.route.route import RolledBack, Route, ServiceRoute

NOTHING_MOVED = "nothing-moved"
"""Rule of the evidence of why a rollback changed nothing."""

_ATTEMPTS = 100


def switch_back(
    cell: Cell,
    service: str,
    *,
    principal: Principal,
    to: int | None = None,
    latch: bool = True,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
) -> Decision:
    """Undo what moved last.

    Takes away a release in progress, else a switch in progress, else the stable version, and gives
    all traffic to the version before. If that stands by, as the one before always does, nobody is
    waited for; if a worker cannot load it, the next one before it is tried, and at last the
    fallback chain. It needs only the route's folder, no lease, and wins over every other
    change: where one comes in between, it looks again and goes on, but takes away only what it saw
    at first. Without `to`, nothing is taken away within 10 s of another rollback, by whomever, if
    nothing has changed since: so two people who roll back at once go back once.

    Args:
        cell: What to work on.
        service: Name of the service.
        principal: Who rolls back.
        to: Version to go back to; the best one known if None.
        latch: Whether what is taken away is latched. False merely switches back.
        patience: How long to wait for a version that is not ready.
        reason: In the principal's words.

    Returns:
        What was decided: committed; fallback, if no version could take over; or unchanged, if there
        was nothing left to take away: the evidence `nothing-moved` says why.

    Raises:
        NotFound: The service has no version.
        Latched: `to` was rolled back itself.
        InvalidSetting: `to` has not served before.
        NothingToRollBack: There is neither an earlier version nor a fallback.
        TidegateError: As `RouteStore.change`.
    """
    step = Step(
        cell=cell,
        service=service,
        kind=ROLLBACK if latch else SWITCH_BACK,
        principal=principal,
        reason=reason,
    )
    before, now_us = step.present(), cell.clock.wall_us()
    last = move.rolled_back_just_now(before, now_us=now_us) if to is None else None
    if last is not None:
        why = _nothing_moved(_repeats(before, last, now_us))
        return step.decide(Outcome.UNCHANGED, version=before.stable, evidence=[why])
    back = _Back(step, away=_aim(before, to, now_us), to=to, latch=latch, patience=patience)
    for _ in range(_ATTEMPTS):
        with suppress(Conflict):
            decision = back.attempt()
            if decision is not None:
                return decision
    raise Conflict(
        f"The route of service {service!r} changed {_ATTEMPTS} times during one rollback.",
        hint="Find out which writer changes it without end.",
        service=service,
    )


def _nothing_moved(why: str) -> Evidence:
    return Evidence(rule=NOTHING_MOVED, verdict=Verdict.UNDECIDED, reason=why)


def _repeats(route: ServiceRoute, last: RolledBack, now_us: int) -> str:
    """Return why there is no second rollback so soon, and how to have one, in words."""
    further = None if route.stable is None else move.way_back(route, away={route.stable})
    then = "ask again in some seconds" if further is None else f"say so with --to {further}"
    gone = f"{name_versions(last.versions)} taken away by {last.by}"
    ago_s = max(0, now_us - last.at_us) / 1e6
    return f"{gone} {ago_s:.0f} s ago, and {_answers(route)}. To go further back, {then}."


def _nothing_left(route: ServiceRoute) -> str:
    """Return why nothing is left to take away, and how to get out where no version answers, in words."""
    if not route.safe_mode:
        return f"nothing was left to take away, and {_answers(route)}."
    name, stable = route.service, route.stable
    way_out = f"tidegate latch clear {name} {stable}, then tidegate switch {name} {stable}"
    return f"no version has traffic: {_answers(route)}. To get out: {way_out}, or switch to another version."


def _answers(route: ServiceRoute) -> str:
    return "the fallback answers every request" if route.safe_mode else f"version {route.stable} answers"


def name_versions(versions: Collection[int]) -> str:
    """Return `version 3 was`, or `versions 3 and 4 were`."""
    named = " and ".join(map(str, sorted(versions)))
    return f"version {named} was" if len(versions) == 1 else f"versions {named} were"


def _aim(before: ServiceRoute, to: int | None, now_us: int) -> frozenset[int]:
    """Return the versions to take away."""
    if to is None:
        return move.newest(before, now_us=now_us)
    move.check_unlatched(before, to)
    if to != before.stable and to not in before.history:
        raise InvalidSetting(
            f"Version {to} of service {before.service!r} has not served before.",
            hint=f"Versions to go back to: {', '.join(map(str, before.history)) or 'none'}.",
            service=before.service,
            version=to,
        )
    moving = {before.preparing.version} if before.preparing else set()
    if before.releasing is not None:
        moving.add(before.releasing)
    return frozenset({arm.version for arm in before.arms if arm.parts} | moving) - {to}


@dataclass
class _Back:
    """One rollback while it runs.

    Attributes:
        away: Versions to take away, fixed at the first look.
        tried: Versions that could not be made ready, and why.
    """

    step: Step
    away: frozenset[int]
    to: int | None
    latch: bool
    patience: Patience
    tried: dict[int, str] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def attempt(self) -> Decision | None:
        """Go to the end, or past one version that cannot be made ready (None).

        Raises:
            Conflict: Someone else changed the route in between.
        """
        before = self.step.present()
        if not move.still_there(before, self.away):
            why = _nothing_moved(_nothing_left(before))
            return self.step.decide(Outcome.UNCHANGED, version=before.stable, evidence=[*self.evidence, why])
        target = self._target(before)
        if target is None:
            return self._fall_back(before)
        generation = before.generation
        if not self._may_commit(before, target):
            waited = self._make_ready(target, generation)
            if waited is None:
                return None
            generation = waited.services[self.step.service].generation
        now_us = self.step.cell.clock.wall_us()

        def retreat(old: ServiceRoute | None) -> ServiceRoute:
            route = move.deployed(old, self.step.service)
            by = self.step.principal
            back = move.retreat(
                route,
                to=target,
                away=self.away,
                latch=self.latch,
                by=by,
                reason=self.step.reason,
                now_us=now_us,
            )
            return move.note_rollback(route, back, away=self.away, by=by, now_us=now_us)

        after = self.step.cell.routes.change(self.step.service, retreat, expected_generation=generation)
        return self._end(Outcome.COMMITTED, before, after, target)

    def _target(self, before: ServiceRoute) -> int | None:
        if self.to is None:
            return move.way_back(before, away=self.away | self.tried.keys())
        return None if self.to in self.tried else self.to

    def _may_commit(self, before: ServiceRoute, target: int) -> bool:
        """Tell whether nobody has to be waited for.

        A version on standby is ready in every worker but those that have just started. Waiting for
        them might never end where the version to take away kills its workers, and each keeps to its
        old generation until it has the new one ready.
        """
        if before.stable == target:
            return True
        said = [status.of(self.step.service) for status in self.step.cell.workers.live()]
        if any(target in status.failed for status in said):
            return False
        return target in before.standby or all(target in status.ready for status in said)

    def _make_ready(self, target: int, generation: int) -> Route | None:
        """Have the workers load `target`, as far as patience goes; None if one of them cannot."""

        def stand_by(old: ServiceRoute | None) -> ServiceRoute:
            return move.stand_by(move.deployed(old, self.step.service), target)

        cell, service = self.step.cell, self.step.service
        route = cell.routes.change(service, stand_by, expected_generation=generation)
        wait, evidence = wait_ready(cell, service, version=target, route=route, patience=self.patience)
        self.evidence.append(evidence)
        if wait.failed:
            self.tried[target] = wait.why
            return None
        return route  # a worker that is stuck does not keep the others on the bad version

    def _fall_back(self, before: ServiceRoute) -> Decision:
        now_us = self.step.cell.clock.wall_us()

        def fall_back(old: ServiceRoute | None) -> ServiceRoute:
            return move.fall_back(
                move.deployed(old, self.step.service),
                away=self.away,
                tried=self.tried,
                by=self.step.principal,
                reason=self.step.reason,
                now_us=now_us,
            )

        after = self.step.cell.routes.change(
            self.step.service, fall_back, expected_generation=before.generation
        )
        return self._end(Outcome.FALLBACK, before, after, before.stable)

    def _end(self, outcome: Outcome, before: ServiceRoute, after: Route, version: int | None) -> Decision:
        follow = wait_following(self.step.cell, after, self.step.service, self.patience)
        changed = route_changed(before, after, self.step.service)
        taken = {"taken_away": sorted(self.away), "latched": self.latch or outcome is Outcome.FALLBACK}
        self.evidence += [replace(changed, observed=changed.observed | taken), follow]
        return self.step.decide(outcome, version=version, evidence=self.evidence)
