"""The state machine of a release: pure functions from a state and what is seen to the next state.

It holds no clock, no file and no connection, so that a simulation can walk it through any history. What
traffic shall be is a function of the state alone (`wanted`): whoever carries it out may die at any
instruction, and whoever comes next compares what is with what shall be, and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from tidegate.core.decision import Evidence, Verdict
from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.core.principal import Principal
from tidegate.release.evidence import OUTCOME, holding, worst
from tidegate.release.plan import Guardrail, Plan

KIND = "release"
"""Kind of every decision about a release."""


class Stage(StrEnum):
    """Where a release stands."""

    PREPARING = "preparing"  # workers load the candidate
    SHADOW = "shadow"  # copies go to it, it answers nobody
    CANARY = "canary"  # it answers the share of its step
    APPROVAL = "approval"  # the step has proven itself, a person must agree to the next
    MATURING = "maturing"  # it answers everything, the old version shadows it
    RETURNING = "returning"  # it is over, and traffic goes back to stable
    ENDED = "ended"


class Ending(StrEnum):
    """How a release ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"  # something regressed, or a person took it back: latched
    ABORTED = "aborted"  # a person called it off, or workers could not load it
    TIMED_OUT = "timed-out"  # nothing was proven in time: back to stable, not latched
    OVERTAKEN = "overtaken"  # someone else moved the service's traffic


class Route(StrEnum):
    """How the route in force compares with what the state wants."""

    AS_WANTED = "as-wanted"
    BEHIND = "behind"  # the last change was not made yet, or unmade by none
    LATCHED = "latched"  # the candidate was rolled back
    OVERTAKEN = "overtaken"  # neither: someone else has moved it


class Traffic(msgspec.Struct, frozen=True):
    """What a release wants of the route of a cell.

    Attributes:
        share: The candidate's share; 1 makes it the stable version.
        shadow: Share of the keys whose requests are copied to the other version, 0 for none.
        standby: Whether workers keep the candidate ready at all.
    """

    share: float = 0.0
    shadow: float = 0.0
    standby: bool = True


NOTHING = Traffic(standby=False)
"""What was before a release, and is after one that did not succeed."""


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything a release is, between two looks at it.

    Attributes:
        id: Its name.
        service: Name of the service.
        stable: Version that answered before.
        candidate: Version that shall take over.
        manifest: Digest of the candidate's manifest.
        fallback: The candidate's fallback chain.
        plan: What it goes through.
        rules: The plan's guardrails that apply to this service.
        by: Who started it.
        reason: Why it stands where it stands, in words.
        started_us: When it was started, microseconds UTC: for people, never for waiting.
        latency_us: Service time above which a request counts as slow, microseconds; None: none does.
        mature_s: How long the reverse shadow lasts, seconds.
        target: Name of the outcome that the service is judged by: outcomes without a name are this one.
        stage: Where it stands.
        step: Number of the plan's step, -1 before the first.
        between: A share between this step's and the next one's that was safe to go to; 0 for none.
        wave: Number of the wave of cells that moves now.
        stage_s: How long it has stood there, seconds of watching.
        total_s: How long it has been watched in all, seconds.
        idle_s: For how long nothing new came of the candidate, seconds.
        seen: Rows or pairs of the candidate at the last look.
        paused: A person stopped it where it is; only a regression still ends it.
        invalid: Why its evidence cannot be used, in words; empty if it can.
        approved: The largest share that a person agreed to.
        ending: How it ended; None while it has not.
        revision: Grows with each change that is kept.
        forced: Name of who promoted it regardless of evidence; empty if none did.
        before: What it wanted of the moving cells' routes since they last were as wanted: a route that
            still is so was not changed yet, one that is neither so nor as wanted was changed by someone else.
    """

    id: str
    service: str
    stable: int
    candidate: int
    manifest: Digest
    plan: Plan
    by: Principal
    started_us: int
    fallback: tuple[str, ...] = ()
    rules: tuple[Guardrail, ...] = ()
    reason: str = ""
    latency_us: float | None = None
    mature_s: float = 0.0
    target: str = ""
    stage: Stage = Stage.PREPARING
    step: int = -1
    between: float = 0.0
    wave: int = 0
    stage_s: float = 0.0
    total_s: float = 0.0
    idle_s: float = 0.0
    seen: int = 0
    paused: bool = False
    invalid: str = ""
    approved: float = 0.0
    ending: Ending | None = None
    revision: int = 0
    forced: str = ""
    before: tuple[Traffic, ...] = (NOTHING,)

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.stage is not Stage.ENDED

    @property
    def share(self) -> float:
        """The candidate's share in the cells that move now."""
        if self.stage is Stage.MATURING or self.ending is Ending.PROMOTED:
            return 1.0
        return (
            self.plan.steps[self.step].share
            if 0 <= self.step < len(self.plan.steps) and self.is_open
            else 0.0
        )

    @property
    def next_share(self) -> float:
        """The share that it asks for next."""
        return self.plan.next_share(self.step)

    @property
    def watch_id(self) -> str:
        """Name under which the tailer counts for the present wave."""
        return f"{self.id}.{self.wave}"


class Seen(msgspec.Struct, frozen=True):
    """What a look at a release found.

    Attributes:
        elapsed_s: Time since the last look, seconds of a clock that only grows.
        route: How the routes of its cells compare with what it wants, worst first.
        reason: Why the candidate was taken away, where it was.
        by: Who did, where someone did.
        ready: Whether workers have the candidate ready; None where not asked for.
        failed: Why a worker cannot load it, in words.
        count: Rows of the candidate, or pairs, so far.
        evidence: What its rules say.
        between: A share before the next step's at which they are all safe; 0 for none.
    """

    elapsed_s: float = 0.0
    route: Route = Route.AS_WANTED
    reason: str = ""
    by: str = ""
    ready: bool | None = None
    failed: str = ""
    count: int = 0
    evidence: tuple[Evidence, ...] = ()
    between: float = 0.0


class Advance(msgspec.Struct, frozen=True):
    """What a look leads to.

    Attributes:
        state: The state after it.
        outcome: What was decided, for the decision; empty where nothing was.
        retreat: The candidate's traffic goes back to stable, and it is latched, before anything else.
        evidence: What the decision rests on.
    """

    state: State
    outcome: str = ""
    retreat: bool = False
    evidence: tuple[Evidence, ...] = ()


def wanted(state: State, *, wave: int) -> Traffic | None:
    """Return what a release wants of the route in a cell of that wave; None: leave it as it is."""
    if not state.is_open:
        return None
    if state.stage is Stage.RETURNING:
        return NOTHING if wave <= state.wave else None
    if wave < state.wave or state.stage is Stage.MATURING:
        return Traffic(share=1.0, shadow=1.0 if state.mature_s > 0 else 0.0)
    if wave > state.wave:
        return None
    if state.stage is Stage.SHADOW or (state.stage is Stage.APPROVAL and state.step < 0):
        return Traffic(shadow=state.plan.shadow.share if state.plan.shadow is not None else 0.0)
    return Traffic(share=state.share)


def advance(state: State, seen: Seen, *, n_waves: int = 1) -> Advance:
    """Return what follows from a look at a release.

    A rollback by anyone, and a regression, come before everything else. Then: what is undecided
    holds, what is invalid or paused stays where it is, and a step is left when all its rules are safe.
    """
    if not state.is_open:
        return Advance(state)
    taken = _taken_away(state, seen)
    if taken is not None:
        return taken
    if state.paused or seen.route is Route.BEHIND:
        return Advance(state)
    state = _pass_time(state, seen)
    if state.stage is Stage.PREPARING:
        return _prepare(state, seen)
    if state.stage is Stage.MATURING:
        return _mature(state, seen)
    if state.stage is Stage.APPROVAL:
        return _approve(state, seen, n_waves=n_waves)
    return _observe(state, seen, n_waves=n_waves)


def _taken_away(state: State, seen: Seen) -> Advance | None:
    """Return the end of a release whose candidate may have no traffic any more; None where it may."""
    if seen.route is Route.LATCHED:
        reason = f"rolled back by {seen.by or 'someone'}: {seen.reason or 'no reason given'}"
        return _end(state, Ending.ROLLED_BACK, reason, seen.evidence)
    if state.stage is Stage.RETURNING:
        if seen.route is Route.BEHIND:
            return Advance(state)
        # why was kept when it began to return
        return replace(_end(state, state.ending or Ending.ABORTED, state.reason, ()), outcome="")
    if seen.route is Route.OVERTAKEN:
        return _end(state, Ending.OVERTAKEN, seen.reason or "someone else moved the traffic", seen.evidence)
    regressed = [each for each in seen.evidence if each.verdict is Verdict.REGRESSED]
    if regressed:
        reason = "; ".join(f"{each.rule}: {each.reason}" for each in regressed)
        ended = _end(state, Ending.ROLLED_BACK, reason, seen.evidence)
        return replace(ended, retreat=True)
    if seen.failed:
        return _give_back(state, Ending.ABORTED, seen.failed, seen.evidence)
    return None


def _pass_time(state: State, seen: Seen) -> State:
    is_new = seen.count > state.seen
    return replace(
        state,
        stage_s=state.stage_s + seen.elapsed_s,
        total_s=state.total_s + seen.elapsed_s,
        idle_s=0.0 if is_new else state.idle_s + seen.elapsed_s,
        seen=max(seen.count, state.seen),
    )


def _prepare(state: State, seen: Seen) -> Advance:
    if seen.ready:
        stage = Stage.SHADOW if state.plan.shadow is not None else Stage.CANARY
        reason = "every worker has the candidate ready"
        if stage is Stage.CANARY and _waits(state):
            return _enter(state, Stage.APPROVAL, state.step, reason, seen)
        return _enter(state, stage, -1 if stage is Stage.SHADOW else 0, reason, seen)
    if state.stage_s >= state.plan.ready_s:
        missing = "; ".join(each.reason for each in seen.evidence)
        reason = f"after {state.stage_s:.0f} s workers did not have the candidate ready: {missing}"
        return _give_back(state, Ending.TIMED_OUT, reason, seen.evidence)
    return Advance(state)


def _observe(state: State, seen: Seen, *, n_waves: int) -> Advance:
    invalid = [each.reason for each in seen.evidence if each.verdict is Verdict.INVALID]
    if invalid:
        return _freeze(state, "; ".join(invalid), seen.evidence)
    verdict = worst(holding(seen.evidence))
    if verdict is Verdict.SAFE and state.stage_s >= _least_s(state):
        if seen.between > state.share:
            reason = f"safe to go to {seen.between:.2%}, not yet to {state.next_share:.2%}"
            return _enter(replace(state, between=seen.between), Stage.CANARY, state.step, reason, seen)
        return _move_on(replace(state, between=0.0), seen, n_waves=n_waves)
    if state.idle_s >= state.plan.idle_s:
        reason = f"no traffic of the candidate for {state.idle_s:.0f} s"
        return _give_back(state, Ending.TIMED_OUT, reason, seen.evidence)
    if state.total_s >= state.plan.limit_s:
        reason = f"not proven within the plan's {state.plan.limit_s:.0f} s"
        return _give_back(state, Ending.TIMED_OUT, reason, seen.evidence)
    return Advance(state)


def _least_s(state: State) -> float:
    if state.stage is Stage.SHADOW:
        return state.plan.shadow.least_s if state.plan.shadow is not None else 0.0
    return state.plan.steps[state.step].least_s


def _waits(state: State) -> bool:
    """Tell whether a person must agree to the next share."""
    return state.next_share in state.plan.approve and state.approved < state.next_share


def _move_on(state: State, seen: Seen, *, n_waves: int) -> Advance:
    reason = f"safe to go to {state.next_share:.2%}"
    if _waits(state):
        return _enter(state, Stage.APPROVAL, state.step, f"{reason}; a person must agree", seen)
    if state.step + 1 < len(state.plan.steps):
        return _enter(state, Stage.CANARY, state.step + 1, reason, seen)
    if state.wave + 1 < n_waves:
        following = replace(state, wave=state.wave + 1, approved=0.0)
        reason = f"wave {state.wave + 1} of {n_waves} is safe; the next one begins"
        entered = _enter(following, Stage.PREPARING, -1, reason, seen)
        # the cells of this wave go from the last step to everything, those of the next one begin
        before = (NOTHING, wanted(state, wave=state.wave) or NOTHING)
        return replace(entered, state=replace(entered.state, before=before))
    return _enter(state, Stage.MATURING, state.step, "every guardrail is safe", seen)


def _approve(state: State, seen: Seen, *, n_waves: int) -> Advance:
    if state.approved >= state.next_share:
        return _move_on(state, seen, n_waves=n_waves)
    return Advance(state)


def _mature(state: State, seen: Seen) -> Advance:
    if state.stage_s < state.mature_s:
        return Advance(state)
    if state.forced or not any(rule.outcome for rule in state.rules):
        return _end(state, Ending.PROMOTED, state.reason, seen.evidence)
    if worst(seen.evidence) is Verdict.SAFE:
        return _end(state, Ending.PROMOTED, "every guardrail is safe, outcomes too", seen.evidence)
    if state.total_s >= state.plan.limit_s:
        undecided = [each for each in seen.evidence if each.verdict is not Verdict.SAFE]
        why = "; ".join(f"{each.rule}: {each.reason}" for each in undecided) or f"no {OUTCOME} was counted"
        return _give_back(state, Ending.TIMED_OUT, f"outcomes prove nothing in time: {why}", seen.evidence)
    return Advance(state)


def _freeze(state: State, reason: str, evidence: Sequence[Evidence]) -> Advance:
    if state.invalid:
        return Advance(state)
    frozen = replace(state, invalid=reason, reason=f"frozen: {reason}", revision=state.revision + 1)
    return Advance(frozen, outcome="frozen", evidence=tuple(evidence))


def _enter(state: State, stage: Stage, step: int, reason: str, seen: Seen) -> Advance:
    after = replace(
        state,
        stage=stage,
        step=step,
        stage_s=0.0,
        idle_s=0.0,
        seen=0,
        invalid="",
        reason=reason,
        # of a wave that begins, nothing was wanted yet
        before=(NOTHING if stage is Stage.PREPARING else wanted(state, wave=state.wave) or NOTHING,),
        revision=state.revision + 1,
    )
    return Advance(after, outcome=_name(after), evidence=seen.evidence)


def _name(state: State) -> str:
    return f"{state.stage.value} {state.share:.2%}" if state.stage is Stage.CANARY else state.stage.value


def _end(state: State, ending: Ending, reason: str, evidence: Sequence[Evidence]) -> Advance:
    ended = replace(state, stage=Stage.ENDED, ending=ending, reason=reason, revision=state.revision + 1)
    return Advance(ended, outcome=ending.value, evidence=tuple(evidence))


def _give_back(state: State, ending: Ending, reason: str, evidence: Sequence[Evidence]) -> Advance:
    """Return to stable without haste: first it is kept why, then traffic goes back."""
    after = replace(
        state,
        stage=Stage.RETURNING,
        ending=ending,
        reason=reason,
        paused=False,
        before=(wanted(state, wave=state.wave) or NOTHING, *state.before),
        revision=state.revision + 1,
    )
    return Advance(after, outcome=ending.value, evidence=tuple(evidence))


# -- what people may say


def _open(state: State, what: str) -> State:
    if not state.is_open or state.stage is Stage.RETURNING:
        raise Conflict(
            f"The release of version {state.candidate} of service {state.service!r} has ended "
            f"({state.ending.value if state.ending else 'ended'}), so that it cannot be {what}.",
            hint="Start another one.",
            service=state.service,
        )
    return state


def pause(state: State, *, reason: str) -> State:
    """Stop where it is; a regression still rolls it back.

    Raises:
        Conflict: It is paused already, or has ended.
    """
    if _open(state, "paused").paused:
        raise Conflict(f"The release of service {state.service!r} is paused already.", service=state.service)
    return replace(state, paused=True, reason=reason or state.reason, revision=state.revision + 1)


def resume(state: State, *, reason: str) -> State:
    """Go on; also takes a release that froze on invalid evidence up again, on the same evidence.

    Raises:
        Conflict: It is not paused, or has ended.
    """
    if not _open(state, "resumed").paused:
        raise Conflict(f"The release of service {state.service!r} is not paused.", service=state.service)
    return replace(
        state,
        paused=False,
        invalid="",
        idle_s=0.0,
        reason=reason,  # why it was held is over with that
        revision=state.revision + 1,
    )


def approve(state: State) -> State:
    """Agree to the share that it waits for.

    Raises:
        Conflict: It waits for nobody, or has ended.
    """
    if _open(state, "approved").stage is not Stage.APPROVAL or state.approved >= state.next_share:
        raise Conflict(
            f"The release of service {state.service!r} waits for no approval; "
            f"its stage is {state.stage.value}.",
            hint="`tidegate release status` shows what it waits for.",
            service=state.service,
        )
    return replace(state, approved=state.next_share, revision=state.revision + 1)


def promote_now(state: State, *, principal: Principal, reason: str) -> State:
    """Give the candidate everything, whatever the evidence says; only with a reason.

    Raises:
        InvalidSetting: No reason is given.
        Conflict: It is not loaded yet, everything is the candidate's already, or it has ended.
    """
    if not reason.strip():
        raise InvalidSetting("Promoting without evidence needs a reason.", hint="Say why, with --reason.")
    if _open(state, "promoted").stage in (Stage.PREPARING, Stage.MATURING):
        what = (
            "is not loaded by every worker yet"
            if state.stage is Stage.PREPARING
            else "has all traffic already"
        )
        raise Conflict(f"The candidate of service {state.service!r} {what}.", service=state.service)
    return replace(
        state,
        stage=Stage.MATURING,
        step=len(state.plan.steps) - 1,
        stage_s=0.0,
        idle_s=0.0,
        seen=0,
        paused=False,
        invalid="",
        forced=principal.name,
        reason=reason,
        before=(wanted(state, wave=state.wave) or NOTHING, *state.before),
        revision=state.revision + 1,
    )


def abort(state: State, *, reason: str) -> State:
    """Call it off: traffic goes back to stable, nothing is latched.

    Raises:
        Conflict: It has ended.
    """
    return _give_back(_open(state, "aborted"), Ending.ABORTED, reason or "called off", ()).state


def end_return(state: State) -> State:
    """Return the state once traffic is back where it was."""
    return _end(state, state.ending or Ending.ABORTED, state.reason, ()).state
