"""The controller of releases: looks, decides by the state machine, keeps the decision, moves traffic.

What is kept comes first and the route follows it, except where something regressed: then the route
goes back before anybody is asked. Either way a controller may die between any two instructions, and the
next look, by whomever, compares what is with what shall be and goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import Conflict, NotFound, TidegateError
from tidegate.core.principal import Principal
from tidegate.journal.matured import OutcomeEvent, OutcomeTallies, OutcomeWatch
from tidegate.journal.watch import ReleaseTallies, Watch
from tidegate.release.book import Book
from tidegate.release.carry import Compared, carry_out, compare, give_back
from tidegate.release.evidence import judge_canary, judge_outcomes, judge_shadow, share_between, worst
from tidegate.release.lease import Leadership, LeaseLost
from tidegate.release.machine import (
    KIND,
    Advance,
    Ending,
    Route,
    Seen,
    Stage,
    State,
    Traffic,
    advance,
    wanted,
)
from tidegate.release.move import deployed
from tidegate.release.readiness import Cell, look_prepared, look_ready
from tidegate.release.source import Source
from tidegate.release.step import ROLLBACK, route_changed
from tidegate.route.route import Route as RouteFile
from tidegate.route.route import ServiceRoute
from tidegate.route.store import Change, Fenced

_log = logging.getLogger("tidegate.release")

CONTROLLER = Principal("tidegate", "system")
LEASE = "releases"
MOVED = "moved"
"""Outcome of a decision that says how the route was changed."""

_LONGEST_S = 10.0
"""Most time that one look may say has passed: a machine that slept has watched nothing."""
_TOUCH_S = 10.0
_LATE = 2.0
"""Least durations after which a smaller step than the planned one is looked for."""
_ATTEMPTS = 100
_URGENCY = (Route.LATCHED, Route.OVERTAKEN, Route.BEHIND, Route.AS_WANTED)


class ReleaseController:
    """Leads the releases of some cells; call `tick` as often as evidence may change.

    Args:
        book: Where releases are kept.
        source: Where their evidence comes from.
        cells: The cells, by name.
        clock: Only its monotonic side decides anything.
        holder: Who this is, another one after each start of the process.
        limit_s: How long a leader may be silent, seconds.
        is_dead: Tells of a holder of the lease whether it is known to live no more.
    """

    def __init__(
        self,
        *,
        book: Book,
        source: Source,
        cells: Mapping[str, Cell],
        clock: Clock,
        holder: str,
        limit_s: float = 10.0,
        is_dead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._book = book
        self._source = source
        self._cells = dict(cells)
        self._clock = clock
        self._leadership = Leadership(LEASE, holder=holder, clock=clock, limit_s=limit_s, is_dead=is_dead)
        self._token: int | None = None
        self._live: dict[str, State] = {}
        self._looked_s: dict[str, float] = {}
        self._touched_s: dict[str, float] = {}

    @property
    def leadership(self) -> Leadership:
        """The lease as this controller sees it."""
        return self._leadership

    def follow(self, cells: Mapping[str, Cell]) -> None:
        """Take in cells that are new, or gone."""
        if cells.keys() != self._cells.keys():
            self._cells = dict(cells)
            self._token = None  # new routes must refuse whoever led before, too

    def tick(self) -> list[State]:
        """Look at every open release once, and do what follows.

        Without the database nothing moves forward, but what was being watched still is: a candidate
        that regresses is rolled back.

        Returns:
            The releases that were looked at, as they stand afterwards; empty while another controller leads.
        """
        token, states = self._open()
        if states is None:
            return []
        found = []
        for state in states:
            try:
                found.append(self._tend(self._resumed(state), token))
            except (Fenced, LeaseLost):
                self._leadership.forget()
                self._live.clear()
                return []
            except TidegateError as error:
                _log.warning("release.delayed service=%s: %s", state.service, error)
        if token is not None:
            self._tidy(states)
        return found

    def _open(self) -> tuple[int | None, list[State] | None]:
        """Return the lease's token and the open releases; without the database, None and those known."""
        try:
            states = self._book.open()
            if not states:  # nothing to lead: whoever starts the next one finds the lease free
                self._book.resign(self._leadership)
                self._token = None
                self._tidy([])
                return None, None
            token = self._book.lead(self._leadership)
            if token is None:
                self._token = None
                self._live.clear()
                return None, None
            if token != self._token:
                self._begin(token)
            return token, states
        except (Fenced, LeaseLost):
            self._leadership.forget()
            self._token = None
            return None, None
        except TidegateError as error:
            _log.warning("release.database_unavailable: %s", error)
            if self._token is None:
                return None, None
            return None, [state for state in self._live.values() if state.is_open]

    def _begin(self, token: int) -> None:
        """Have every route refuse whoever led before."""
        for cell in self._cells.values():
            cell.routes.fence(token)
        self._token = token
        self._live.clear()
        self._looked_s.clear()

    def _resumed(self, state: State) -> State:
        """Return the state with the times of the last look, which are not kept at every look."""
        live = self._live.get(state.id)
        return live if live is not None and live.revision == state.revision else state

    def _tend(self, state: State, token: int | None) -> State:
        looked = self._look(state)
        failed = ""
        if looked.route is Route.BEHIND and token is not None:
            failed = self._apply(state, token)
            looked = self._look(state)
        seen = self._see(state, looked, failed)
        following = advance(state, seen, n_waves=len(self._waves(state)))
        moved: list[Evidence] = []
        if following.retreat or following.state.ending in (Ending.ROLLED_BACK, Ending.OVERTAKEN):
            moved = self._retreat(state, following.state, everywhere=following.retreat)
        following = replace(following, evidence=(*following.evidence, *moved))
        by_us = following.retreat or looked.by == CONTROLLER.name
        kept = self._keep(state, following, token, kind=ROLLBACK if by_us else KIND)
        if kept.revision != state.revision and token is not None:
            self._apply(kept, token)
        return kept

    # -- looking

    def _waves(self, state: State) -> list[list[str]]:
        if not state.plan.waves:
            return [list(self._cells)]
        missing = [name for wave in state.plan.waves for name in wave if name not in self._cells]
        if missing:
            raise NotFound(
                f"The release of service {state.service!r} concerns cell {missing[0]!r}, which has no route.",
                hint="Bring its folder back, or call the release off: tidegate release abort",
                service=state.service,
            )
        return [list(wave) for wave in state.plan.waves]

    def _targets(self, state: State) -> list[tuple[Cell, int, Traffic]]:
        """Return the cells that a release wants something of: cell, wave, what."""
        return [
            (self._cells[name], number, traffic)
            for number, names in enumerate(self._waves(state))
            if (traffic := wanted(state, wave=number)) is not None
            for name in names
        ]

    def _look(self, state: State) -> Compared:
        found = [
            compare(self._route(cell, state), state, traffic) for cell, _, traffic in self._targets(state)
        ]
        return min(found, key=lambda each: _URGENCY.index(each.route), default=Compared(Route.AS_WANTED))

    def _route(self, cell: Cell, state: State) -> ServiceRoute:
        return deployed(cell.routes.read().services.get(state.service), state.service)

    def _see(self, state: State, looked: Compared, failed: str) -> Seen:
        now_s = self._clock.monotonic_s()
        elapsed_s = min(_LONGEST_S, max(0.0, now_s - self._looked_s.get(state.id, now_s)))
        self._looked_s[state.id] = now_s
        seen = Seen(elapsed_s, looked.route, looked.reason, looked.by, failed=failed)
        if state.stage is Stage.PREPARING:
            return self._see_ready(state, seen)
        count, evidence, between = self._judge(state)
        evidence = [*evidence, *self._judge_outcomes(state)]
        return replace(seen, count=count, evidence=tuple(evidence), between=between)

    def _see_ready(self, state: State, seen: Seen) -> Seen:
        """Look whether workers have the candidate; have the tailer count before there is anything."""
        self._source.watch(self._watch(state))
        names = self._waves(state)[state.wave]
        prepared = look_prepared(
            {name: self._cells[name] for name in names},
            state.service,
            version=state.candidate,
            named=len(self._cells) > 1,
        )
        return replace(
            seen,
            ready=prepared.is_good,
            failed=prepared.failed or seen.failed,
            evidence=(prepared.evidence,),
        )

    def _watch(self, state: State) -> Watch:
        return Watch(state.watch_id, state.service, state.stable, state.candidate, state.latency_us)

    def _judge(self, state: State) -> tuple[int, Sequence[Evidence], float]:
        """Return how much of the candidate was seen, what its rules say, and of which nearer share."""
        shadow = state.plan.shadow
        try:
            if state.stage is Stage.SHADOW or (state.stage is Stage.APPROVAL and state.step < 0 and shadow):
                assert shadow is not None
                pairs = self._source.pairs(state.service, answered=state.stable, shadow=state.candidate)
                return pairs.pairs, judge_shadow(state.plan, shadow, pairs, rules=state.rules), 0.0
            if state.stage in (Stage.CANARY, Stage.APPROVAL) and state.step >= 0:
                self._source.watch(self._watch(state))
                tallies = self._source.tallies(state.watch_id)
                return tallies.candidate, *_judge_canary(state, tallies)
        except TidegateError as error:
            _log.warning("release.evidence_unavailable service=%s: %s", state.service, error)
        return state.seen, (), 0.0

    def _judge_outcomes(self, state: State) -> list[Evidence]:
        """Return what outcomes say that had the time to come."""
        wanted = outcome_watch(state)
        if wanted is None or state.forced:
            return []
        tallies: dict[str, OutcomeTallies] = {}
        try:
            tallies = self._source.outcomes(wanted)
        except TidegateError as error:
            _log.warning("release.outcomes_unavailable service=%s: %s", state.service, error)
        share = 1.0 if state.stage is Stage.MATURING else state.next_share
        return judge_outcomes(state.plan, tallies, share=share, rules=state.rules, horizon_s=wanted.horizon_s)

    # -- doing

    def _apply(self, state: State, token: int) -> str:
        """Bring routes to what is wanted, as far as workers are ready; return why one never will be."""
        for cell, _, traffic in self._targets(state):
            route = cell.routes.read()
            present = deployed(route.services.get(state.service), state.service)
            if compare(present, state, traffic).route is not Route.BEHIND:
                continue
            target = traffic
            if traffic.share > 0 and state.candidate not in present.versions:
                target = Traffic()  # promoted where nobody has loaded it yet: that first
            elif traffic.share > 0:
                wait = look_ready(cell, state.service, version=state.candidate, sequence=0)
                if wait.failed:
                    return wait.why
                if not wait.is_good:
                    continue
            self._change(cell, state, target, expected_generation=present.generation, token=token)
        return ""

    def _change(
        self, cell: Cell, state: State, traffic: Traffic, *, expected_generation: int, token: int
    ) -> None:
        now_us = self._clock.wall_us()

        def change(old: ServiceRoute | None) -> ServiceRoute:
            route = deployed(old, state.service)
            return carry_out(route, state, traffic, by=CONTROLLER, now_us=now_us)

        before = self._route(cell, state)
        after = cell.routes.change(
            state.service, change, expected_generation=expected_generation, token=token
        )
        evidence = [route_changed(before, after, state.service)]
        key = f"{state.id}-{cell.routes.cell}-{after.services[state.service].generation}"
        with suppress(TidegateError):  # the change is in force, and the next one will be kept
            self._book.note(self._decision(state, MOVED, evidence), key=key)
        _log.info(
            "route.changed service=%s version=%d share=%.4f", state.service, state.candidate, traffic.share
        )

    def _decision(
        self, state: State, outcome: str, evidence: Sequence[Evidence], *, kind: str = KIND
    ) -> Decision:
        return Decision(
            kind=kind,
            service=state.service,
            version=state.candidate,
            outcome=outcome,
            principal=CONTROLLER,
            at_us=self._clock.wall_us(),
            reason=state.reason,
            evidence=list(evidence),
        )

    def _retreat(self, state: State, ended: State, *, everywhere: bool) -> list[Evidence]:
        """Give the candidate's traffic back, without lease or database, before any other change.

        Args:
            state: What was wanted until then.
            ended: How the release ended.
            everywhere: False leaves cells alone in which someone else has done it, or something else.

        Returns:
            What was changed.
        """
        found = []
        latch = ended.ending is Ending.ROLLED_BACK
        now_us = self._clock.wall_us()

        def change(old: ServiceRoute | None) -> ServiceRoute:
            route = deployed(old, ended.service)
            return give_back(route, ended, latch=latch, by=CONTROLLER, reason=ended.reason, now_us=now_us)

        for number, names in enumerate(self._waves(ended)[: ended.wave + 1]):
            for name in names:
                cell = self._cells[name]
                if not everywhere and (len(self._cells) == 1 or self._is_taken(cell, state, ended, number)):
                    continue
                before = self._route(cell, ended)
                after = _change_surely(cell, ended.service, change)
                found.append(route_changed(before, after, ended.service))
        return found

    def _is_taken(self, cell: Cell, state: State, ended: State, wave: int) -> bool:
        """Tell whether someone else has moved the traffic of a cell."""
        route = self._route(cell, ended)
        if ended.ending is Ending.OVERTAKEN:
            if route.latch_of(ended.stable):
                return True  # who took the version before away has chosen; to give back to it is no choice
            traffic = wanted(state, wave=wave)
            if traffic is not None and compare(route, state, traffic).route is Route.OVERTAKEN:
                return True  # also where the choice was the candidate: it was a person's, no longer ours
        return route.latch_of(ended.candidate) is not None or route.stable not in (
            ended.stable,
            ended.candidate,
        )

    def _keep(self, state: State, following: Advance, token: int | None, *, kind: str) -> State:
        after = following.state
        if token is None:
            # nothing can be kept, so nothing moves on; what was taken back is found by its latch
            if following.retreat:
                self._live.pop(state.id, None)
            return after if following.retreat else state
        if after.revision != state.revision:
            decision = (
                self._decision(after, following.outcome, following.evidence, kind=kind)
                if following.outcome
                else None
            )
            self._book.save(after, decision, revision=state.revision, token=token)
            _log.info(
                "release.%s service=%s version=%d: %s",
                following.outcome or after.stage.value,
                after.service,
                after.candidate,
                after.reason,
            )
        elif after.is_open:
            self._touch(after, token)
        self._live[after.id] = after
        return after

    def _touch(self, state: State, token: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._touched_s.setdefault(state.id, now_s) >= _TOUCH_S:
            self._touched_s[state.id] = now_s
            self._book.touch(state, token=token)

    def _tidy(self, states: Sequence[State]) -> None:
        """Stop counting for what has ended."""
        going_on = {state.id for state in states}
        for name in self._source.watched():
            if name.rpartition(".")[0] not in going_on:
                self._source.unwatch(name)
        for known in self._live.keys() - going_on:
            for kept in (self._live, self._looked_s, self._touched_s):
                kept.pop(known, None)

    def resign(self) -> None:
        """Give the lease back at an orderly end, so that the next controller need not wait."""
        try:
            self._book.resign(self._leadership)
        except TidegateError as error:
            _log.warning("release.lease_not_given_back: %s", error)


def outcome_watch(state: State) -> OutcomeWatch | None:
    """Return what a release counts of outcomes; None where it has no guardrail of them."""
    events = tuple(
        OutcomeEvent(each.name, each.outcome, each.against, each.beyond, unnamed=each.outcome == state.target)
        for each in state.rules
        if each.outcome
    )
    if not events:
        return None
    return OutcomeWatch(
        state.id,
        state.service,
        state.stable,
        state.candidate,
        since_us=state.started_us,
        horizon_s=state.mature_s,
        events=events,
    )


def _judge_canary(state: State, tallies: ReleaseTallies) -> tuple[Sequence[Evidence], float]:
    """Return what the rules say of the next share; or, where that takes long, of one before it."""
    plan, step, rules = state.plan, state.step, state.rules
    found = judge_canary(plan, tallies, step=step, rules=rules)
    is_late = state.stage is Stage.CANARY and state.stage_s >= _LATE * plan.steps[step].least_s
    if worst(found) is not Verdict.UNDECIDED or not is_late:
        return found, 0.0
    share = share_between(plan, tallies, step=step, share=state.share, rules=rules)
    if share is None:
        return found, 0.0
    nearer = judge_canary(plan, tallies, step=step, rules=rules, following=share)
    return (nearer, share) if worst(nearer) is Verdict.SAFE else (found, 0.0)


def _change_surely(cell: Cell, service: str, change: Change) -> RouteFile:
    for _ in range(_ATTEMPTS):
        try:
            return cell.routes.change(service, change)
        except Fenced:
            raise
        except Conflict:
            continue
    raise Conflict(
        f"The route of service {service!r} changed {_ATTEMPTS} times during one rollback.",
        hint="Find out which writer changes it without end.",
        service=service,
    )
