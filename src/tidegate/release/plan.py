"""The plan of a release: which steps, what each must prove, and how long that takes.

A step's exit proves only what the next step risks: next share x worst excess still possible <= the
allowance. So a healthy service leaves small shares quickly, and only the last step needs the full margin.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec
import numpy as np

from tidegate.core.declared import Declared, check_types
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.statistics.allowance import BETS, growth
from tidegate.statistics.eprocess import drift, safety_test

DAY_S = 86_400.0


class TooSlow(TidegateError):
    """At the present traffic the release would take longer than its plan allows."""

    code = "release_too_slow"


KINDS = ("errors", "contract", "fallback", "latency")
"""What may happen to any request."""


class Guardrail(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kind of event of which the candidate must not have more than stable has.

    Attributes:
        name: `errors`, `contract`, `fallback` or `latency`; with an outcome, a name of one's own.
        allowance: Excess of the candidate's rate that does no harm, absolute, in (0, 1): once all
            traffic is the candidate's, at most so much of it is worse off.
        ratio: Ratio of the rates that does no harm, above `tolerated`; either proof is enough.
        tolerated: Ratio above which the candidate counts as regressed.
        outcome: Name of an outcome that says, later, whether it happened.
        against: Output that foretells the outcome: the event is that both differ. Without one the
            outcome itself is the event: a value that is true or above 0. Where none came it did not happen.
        beyond: Difference above which two numbers differ; half, so that a probability is on the wrong side.
        every_step: Whether each step waits for outcomes too, not only the end of the release.
    """

    name: str
    allowance: float = 0.005
    ratio: float = 1.25
    tolerated: float = 1.0
    outcome: str = ""
    against: str = ""
    beyond: float = 0.5
    every_step: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if bool(self.outcome) == (self.name in KINDS) or "/" in self.name:
            raise InvalidSetting(
                f"A guardrail is named {', '.join(KINDS)}, or has an outcome and a name of its own without a "
                f"slash. Got {self.name!r}{f' with outcome {self.outcome!r}' if self.outcome else ''}.",
                hint='For example tg.Guardrail("refunds", outcome="refunded", allowance=0.01).',
            )
        if not 0 < self.allowance < 1 or not 0 < self.tolerated < self.ratio:
            raise InvalidSetting(
                f"Guardrail {self.name!r} needs an allowance in (0, 1) and 0 < tolerated < ratio. "
                f"Got {self.allowance}, {self.tolerated} and {self.ratio}."
            )


class PlanStep(Declared, frozen=True):
    """A stretch of constant share.

    Attributes:
        share: The candidate's share of the keys, in (0, 1).
        least_s: How long it lasts at least, seconds: what breaks only after a while shall show.
    """

    share: float
    least_s: float = 60.0


class ShadowStep(Declared, frozen=True):
    """The stretch before any user is answered by the candidate.

    Attributes:
        share: Share of the keys whose requests are copied, in (0, 1].
        least_s: How long it lasts at least, seconds.
        least_pairs: Keys with a pair before it may end.
        max_disagreement: Rate of answers that differ beyond their tolerance above which the candidate
            is another service, not a better version; None looks at none.
        max_slice_disagreement: The same within the rows of one category.
        slow_us: Service times below it are no regression, however they compare, microseconds.
    """

    share: float = 1.0
    least_s: float = 60.0
    least_pairs: int = 200
    max_disagreement: float | None = 0.5
    max_slice_disagreement: float | None = 0.8
    slow_us: float = 1000.0


class Plan(msgspec.Struct, frozen=True):
    """What a release of a service goes through.

    Attributes:
        shadow: Before the first step; None goes without.
        steps: Ascending shares; everything comes after the last.
        guardrails: What must not get worse.
        alpha: Probability that a healthy candidate is ever rolled back, and of each proof of safety
            that it is wrong.
        limit_s: How long a release may take in all, seconds. A week: by then the candidate is old.
        idle_s: How long it holds without traffic of the candidate before all goes back to stable, seconds.
        ready_s: How long workers may take to load the candidate, seconds.
        approve: Shares that a person must agree to before; 1.0 is the promotion.
        waves: Cells that go first, then those after; empty: all cells at once.
        mature_s: How long the old version shadows the new one after promotion, seconds; None: as long as
            outcomes take.
        max_dropped: Part of the records that may be lost before nothing is held to be proven.
    """

    shadow: ShadowStep | None = ShadowStep()
    steps: tuple[PlanStep, ...] = (PlanStep(0.01), PlanStep(0.05), PlanStep(0.25), PlanStep(0.5))
    guardrails: tuple[Guardrail, ...] = (
        Guardrail("errors"),
        Guardrail("contract"),
        Guardrail("fallback"),
        Guardrail("latency"),
    )
    alpha: float = 0.01
    limit_s: float = 7 * DAY_S
    idle_s: float = 3600.0
    ready_s: float = 120.0
    approve: tuple[float, ...] = ()
    waves: tuple[tuple[str, ...], ...] = ()
    mature_s: float | None = None
    max_dropped: float = 0.001

    def checked(self) -> Plan:
        """Return the plan if a release can follow it.

        Raises:
            InvalidSetting: It contradicts itself; the message says where.
        """
        shares = [step.share for step in self.steps]
        if not shares or shares != sorted(set(shares)) or not (shares[0] > 0 and shares[-1] < 1):
            raise InvalidSetting(
                f"The steps of a plan have ascending shares between 0% and 100%. Got {percents(shares)}.",
                hint="For example --steps 1,5,25,50, in a plan 0.01, 0.05, 0.25, 0.5; all traffic comes "
                "after the last one.",
            )
        names = [guardrail.name for guardrail in self.guardrails]
        if len(set(names)) != len(names) or not names:
            raise InvalidSetting(f"A plan names each guardrail once, and at least one. Got {names}.")
        unknown = [share for share in self.approve if share not in (*shares, 1.0)]
        if unknown:
            raise InvalidSetting(
                f"The plan waits for approval before a share of {percents(unknown[:1])}, which it has not.",
                hint=f"It has {percents((*shares, 1.0))}.",
            )
        if not 0 < self.alpha < 1:
            raise InvalidSetting(f"alpha lies between 0 and 1. Got {self.alpha}.")
        times = (self.limit_s, self.idle_s, self.ready_s)
        if not all(math.isfinite(time) and time > 0 for time in times):
            raise InvalidSetting("The times of a plan are above 0 seconds.")
        stretches = [step.least_s for step in self.steps]
        stretches.append(0.0 if self.mature_s is None else self.mature_s)
        stretches.append(0.0 if self.shadow is None else self.shadow.least_s)
        for time in stretches:
            if not (math.isfinite(time) and time >= 0):
                raise InvalidSetting(f"A stretch of a plan lasts 0 seconds or more. Got {time}.")
        if not self.max_dropped >= 0:
            raise InvalidSetting(f"max_dropped is a part of the records, 0 or more. Got {self.max_dropped}.")
        if self.shadow is not None:
            _check_shadow(self.shadow)
        return self

    def check_outputs(self, outputs: Collection[str]) -> None:
        """Pass if every output that is compared with an outcome is one of `outputs`.

        Raises:
            InvalidSetting: One is not.
        """
        for guardrail in self.guardrails:
            if guardrail.against and guardrail.against not in outputs:
                raise InvalidSetting(
                    f"Guardrail {guardrail.name!r} compares outcomes with {guardrail.against!r}, which is no "
                    "output.",
                    hint=f"Outputs: {', '.join(outputs)}.",
                    field=guardrail.against,
                )

    def next_share(self, step: int) -> float:
        """Return the share after step number `step`; -1 stands for what comes before the first."""
        return self.steps[step + 1].share if step + 1 < len(self.steps) else 1.0

    def allowed(self, guardrail: Guardrail, step: int) -> float:
        """Return the excess that may still be possible when `step` ends, in (0, 1]."""
        return min(1.0, guardrail.allowance / self.next_share(step))


def percents(shares: Iterable[float]) -> str:
    """Return shares as people write them for a command."""
    return ", ".join(f"{100 * share:.6g}%" for share in shares) or "none"


def _check_shadow(shadow: ShadowStep) -> None:
    if not 0 < shadow.share <= 1:
        raise InvalidSetting(
            f"A shadow has a share above 0 and at most 1. Got {shadow.share}.",
            hint="A plan whose shadow is null, or --no-shadow, goes without.",
        )
    if shadow.least_pairs < 0:
        raise InvalidSetting(f"A shadow's least_pairs is 0 or more. Got {shadow.least_pairs}.")


def read_plan(data: bytes) -> Plan:
    """Return the plan that a person wrote down as JSON.

    A field that plans do not have is refused here, and in a stored plan it is not: what a later release
    kept must stay readable, but a slip of the hand would drop an approval without a word.

    Raises:
        InvalidSetting: It is no plan, or has a field that plans do not have.
    """
    try:
        plan = msgspec.json.decode(data, type=Plan)
        written = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        hints = (_fields_of(kind, what) for at, kind, what in _PARTS if f"`$.{at}" in str(error))
        raise InvalidSetting(
            f"This is no plan: {error}.".replace("..", "."), hint=next(hints, _fields_of(Plan, "a plan"))
        ) from error
    _check_fields(written, Plan, "a plan")
    for at, kind, what in _PARTS:
        found = written.get(at) or ()
        for each in (found,) if isinstance(found, dict) else found:
            _check_fields(each, kind, what)
    return plan


_PARTS: tuple[tuple[str, type[msgspec.Struct], str], ...] = (
    ("shadow", ShadowStep, "a plan's shadow"),
    ("steps", PlanStep, "a plan's step"),
    ("guardrails", Guardrail, "a plan's guardrail"),
)


def _fields_of(kind: type[msgspec.Struct], what: str) -> str:
    return f"Fields of {what}: {', '.join(kind.__struct_fields__)}."


def _check_fields(written: Mapping[str, object], kind: type[msgspec.Struct], what: str) -> None:
    for name in written:
        if name not in kind.__struct_fields__:
            raise InvalidSetting(
                f"There is no field {name!r} in {what}.", hint=_fields_of(kind, what), field=name
            )


class StepForecast(msgspec.Struct, frozen=True):
    """What a step is expected to take if the candidate is as good as stable.

    Attributes:
        share: The candidate's share; 0 for the shadow.
        keys: New keys (or requests, where keys do not repeat) that it takes, of both arms.
        seconds: How long that is; infinite without traffic.
    """

    share: float
    keys: float
    seconds: float


class Forecast(msgspec.Struct, frozen=True):
    """What a release is expected to take.

    Attributes:
        steps: One each, the shadow first.
        total_s: All of them together, seconds.
        slowest: Name of the guardrail that takes longest.
    """

    steps: tuple[StepForecast, ...]
    total_s: float
    slowest: str


def at_once(guardrails: Iterable[Guardrail]) -> tuple[Guardrail, ...]:
    """Return those whose events are known with the answer."""
    return tuple(each for each in guardrails if not each.outcome)


def forecast(plan: Plan, *, keys_per_s: float, rates: Mapping[str, float] | None = None) -> Forecast:
    """Return how long a release takes if the candidate is exactly as good as stable.

    Args:
        plan: The plan.
        keys_per_s: New keys a second, or requests where keys do not repeat.
        rates: Guardrail -> part of the keys with such an event today; 0 where not said.
    """
    known = rates or {}
    plan = msgspec.structs.replace(plan, guardrails=at_once(plan.guardrails) or plan.guardrails)
    found: list[StepForecast] = []
    if plan.shadow is not None:
        keys = plan.shadow.least_pairs / plan.shadow.share
        found.append(StepForecast(0.0, keys, max(plan.shadow.least_s, _seconds(keys, keys_per_s))))
    slowest, slowest_s = plan.guardrails[0].name, -1.0
    proofs = {
        guardrail.name: _Proof(guardrail, known.get(guardrail.name, 0.0), plan.alpha)
        for guardrail in plan.guardrails
    }
    for number, step in enumerate(plan.steps):
        needed = {
            name: proof.keys_for(plan.allowed(proof.guardrail, number), step.share)
            for name, proof in proofs.items()
        }
        name = max(needed, key=needed.__getitem__)
        seconds = max(step.least_s, _seconds(needed[name], keys_per_s))
        keys = max(needed[name], seconds * keys_per_s)
        for proof in proofs.values():
            proof.spend(keys, step.share)
        found.append(StepForecast(step.share, keys, seconds))
        if seconds > slowest_s:
            slowest, slowest_s = name, seconds
    return Forecast(tuple(found), sum(step.seconds for step in found), slowest)


def in_words(seconds: float) -> str:
    """Return a length of time in the unit that fits it."""
    if math.isinf(seconds):
        return "for ever"
    for size, unit in ((DAY_S, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def check_time(plan: Plan, expected: Forecast, *, service: str) -> None:
    """Pass if the release is expected to end within the plan's limit.

    Raises:
        TooSlow: It is not.
    """
    if expected.total_s > plan.limit_s:
        took = f"{'' if math.isinf(expected.total_s) else 'about '}{in_words(expected.total_s)}"
        raise TooSlow(
            f"At the present traffic of service {service!r} this release would take {took}; its plan allows "
            f"{in_words(plan.limit_s)}. The guardrail {expected.slowest!r} takes longest.",
            hint="Give the first steps a larger share, allow more (`allowance`), or start it all the same "
            "with --allow-slow.",
            service=service,
        )


class _Proof:
    """How much of a guardrail's proof has been earned: trials so far, by share."""

    def __init__(self, guardrail: Guardrail, rate: float, alpha: float) -> None:
        self.guardrail = guardrail
        self._rate = min(max(rate, 0.0), 1.0)
        self._wanted = math.log(2 / alpha)  # the proofs by ratio and by allowance share alpha
        self._spent: list[tuple[float, float]] = []

    def keys_for(self, allowed: float, share: float) -> float:
        """Return how many keys of this share are still missing, by the quicker of both proofs."""
        needed = math.inf
        for fraction, cost in BETS:
            earned = sum(
                keys * growth(fraction, allowance=allowed, rate=self._rate, weight=part)
                for keys, part in self._spent
            )
            gain = growth(fraction, allowance=allowed, rate=self._rate, weight=share)
            needed = min(needed, _missing(self._wanted + cost - earned, gain))
        if self._rate > 0:
            test = safety_test(self.guardrail.ratio)
            earned_each = sum(
                (self._rate * keys * drift(test, weight=part) for keys, part in self._spent),
                start=np.zeros(len(test.grid)),
            )
            wanted = self._wanted + math.log(len(test.grid))
            gains = self._rate * drift(test, weight=share)
            for gain, earned in zip(gains.tolist(), earned_each.tolist(), strict=True):
                needed = min(needed, _missing(wanted - earned, gain))
        return needed

    def spend(self, keys: float, share: float) -> None:
        if math.isfinite(keys):
            self._spent.append((keys, share))


def _missing(evidence: float, gain: float) -> float:
    if evidence <= 0:
        return 0.0
    return evidence / gain if gain > 0 else math.inf


def _seconds(keys: float, keys_per_s: float) -> float:
    if keys <= 0:
        return 0.0
    return keys / keys_per_s if keys_per_s > 0 else math.inf
