"""The rules of a release: counts in, verdict out; the same function decides now and replays later.

Each rule is a pure function of plain parameters and plain counts, both stored in the evidence. So a
decision can be replayed after retention has deleted every record that was counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tidegate.core.decision import Evidence, Verdict
from tidegate.core.error import InvalidSetting
from tidegate.journal.matured import OutcomeTallies
from tidegate.journal.pair import PairTally
from tidegate.journal.tally import upper_us
from tidegate.journal.watch import EventTally, KeyTally, ReleaseTallies
from tidegate.release.plan import Guardrail, Plan, ShadowStep, at_once
from tidegate.statistics.allowance import TrialCount, log_wealth, worst_excess
from tidegate.statistics.disagreement import largest_disagreement
from tidegate.statistics.eprocess import EventCount, RatioTest, log_mean_exp, regression_test, safety_test
from tidegate.statistics.multiple import bonferroni
from tidegate.statistics.paired import LossTest, log_worse
from tidegate.statistics.srm import ALPHA, KeyCount, log_mismatch

GUARDRAIL = "guardrail"
SAMPLE_RATIO = "sample-ratio"
SHADOW_FAILURES = "shadow-failures"
SHADOW_LATENCY = "shadow-latency"
DISAGREEMENT = "disagreement"
OUTCOME = "outcome"
OUTCOME_RATIO = "outcome-ratio"

_SLOWER = 2.0
_LEAST_SLICE = 30
_WORDS = {
    "errors": "errors",
    "contract": "outputs that break the contract",
    "fallback": "answers by the fallback",
    "latency": "service times above the objective",
}


class Judged(NamedTuple):
    """What a rule says.

    Attributes:
        verdict: The verdict.
        statistic: The figure that was compared with its threshold, in nats where it is an e-value.
        reason: In words.
    """

    verdict: Verdict
    statistic: float | None
    reason: str


def evaluate(rule: str, parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    """Return what a rule says of counts; anything missing or not a number leaves it undecided.

    Args:
        rule: Name of the rule, up to a colon.
        parameters: The rule's settings.
        observed: The counts.

    Raises:
        InvalidSetting: There is no such rule.
    """
    judge = _RULES.get(rule.partition(":")[0])
    if judge is None:
        raise InvalidSetting(f"There is no rule {rule!r}.", hint=f"Rules: {', '.join(_RULES)}.")
    try:
        judged = judge(parameters, observed)
    except (KeyError, TypeError, ValueError, InvalidSetting, msgspec.ValidationError) as error:
        return Judged(Verdict.UNDECIDED, None, f"the counts cannot be used: {error}")
    if judged.statistic is not None and math.isnan(judged.statistic):
        return Judged(Verdict.UNDECIDED, None, "the statistic is not a number")
    return judged


def evidence_of(
    rule: str, parameters: dict[str, Any], observed: dict[str, Any], *, cut: dict[str, int] | None = None
) -> Evidence:
    """Evaluate a rule, and return it with everything that it rests on."""
    judged = evaluate(rule, parameters, observed)
    statistic = judged.statistic
    return Evidence(
        rule=rule,
        verdict=judged.verdict,
        reason=judged.reason,
        parameters=parameters,
        observed=observed,
        cut=cut or {},
        statistic=None if statistic is None else max(-1e9, min(1e9, statistic)),
    )


def replay(evidence: Evidence) -> Judged | None:
    """Evaluate evidence again from what is stored in it; None where its rule is of another stage."""
    if evidence.rule.partition(":")[0] not in _RULES:
        return None
    return evaluate(evidence.rule, evidence.parameters, evidence.observed)


# -- the canary


def events_of(tallies: Sequence[EventTally], *, low: bool) -> list[EventCount]:
    """Return events with the weight at that end of its range at which no false verdict gets likelier."""
    counts: dict[float, list[int]] = {}
    for tally in tallies:
        weight = tally.low if low else tally.high
        for share, candidate, stable in (
            (tally.share, tally.fresh_candidate, tally.fresh_stable),
            (weight, tally.back_candidate, tally.back_stable),
        ):
            if candidate or stable:
                into = counts.setdefault(share, [0, 0])
                into[0] += candidate
                into[1] += stable
    return [EventCount(share, *found) for share, found in sorted(counts.items())]


def trials_of(tallies: Sequence[EventTally], keys: Sequence[KeyTally]) -> list[TrialCount]:
    """Return trials: keys at first sight, and known ones that may meet the candidate for the first time."""
    counts: dict[float, list[int]] = {}

    def add(weight: float, trials: int, candidate: int, stable: int) -> None:
        if trials or candidate or stable:
            into = counts.setdefault(weight, [0, 0, 0])
            for position, count in enumerate((trials, candidate, stable)):
                into[position] += count

    for key in keys:
        add(key.share, key.candidate + key.stable, 0, 0)
    for tally in tallies:
        add(tally.share, 0, tally.fresh_candidate, tally.fresh_stable)
        # the smaller weight: an event of the candidate costs the same bet, one of stable gains less
        weight = min(tally.low, tally.expose) if tally.expose else tally.low
        add(weight, tally.back_trials if tally.expose else 0, tally.back_candidate, tally.back_stable)
    return [TrialCount(weight, *found) for weight, found in sorted(counts.items())]


def _guardrail(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    """Judge one kind of event.

    Either proof of safety is enough, by ratio or by allowance. A candidate that is not safe violates
    both, so that the mean of their e-values is an e-value against it: two chances, one alpha.
    """
    tallies = msgspec.convert(observed["events"], list[EventTally])
    keys = msgspec.convert(observed["keys"], list[KeyTally])
    alpha, allowed = float(parameters["alpha"]), float(parameters["allowed"])
    regressed_at = -math.log(bonferroni(alpha, int(parameters["rules"])))
    safe_at = -math.log(alpha)
    what = _WORDS.get(str(parameters["event"]), str(parameters["event"]))
    seen = _seen(what, tallies, keys)
    log_regressed = _log_e(regression_test(float(parameters["tolerated"])), events_of(tallies, low=False))
    if log_regressed >= regressed_at:
        return Judged(Verdict.REGRESSED, log_regressed, f"more {seen}")
    rows = int(observed["candidate"]) + int(observed["stable"])
    if rows and int(observed["dropped"]) > float(parameters["max_dropped"]) * rows:
        return Judged(
            Verdict.UNDECIDED,
            log_regressed,
            f"the journal lost records around {observed['dropped']} of {rows} rows",
        )
    if not keys:
        return Judged(Verdict.UNDECIDED, log_regressed, "no traffic of both arms yet")
    log_safe = log_mean_exp(
        [
            _log_e(safety_test(float(parameters["ratio"])), events_of(tallies, low=True)),
            log_wealth(trials_of(tallies, keys), allowance=allowed),
        ]
    )
    if log_safe >= safe_at:
        reason = (
            f"proven to exceed stable's by less than {allowed:.3%}, or {parameters['ratio']} times: {seen}"
        )
        return Judged(Verdict.SAFE, log_regressed, reason)
    return Judged(Verdict.UNDECIDED, log_regressed, f"not yet proven to stay within {allowed:.3%}: {seen}")


def _log_e(test: RatioTest, counts: Sequence[EventCount]) -> float:
    return log_mean_exp(test.log_evidence(counts))


def _seen(what: str, tallies: Sequence[EventTally], keys: Sequence[KeyTally]) -> str:
    candidate = sum(tally.fresh_candidate + tally.back_candidate for tally in tallies)
    stable = sum(tally.fresh_stable + tally.back_stable for tally in tallies)
    n_candidate, n_stable = sum(key.candidate for key in keys), sum(key.stable for key in keys)
    return f"{what}: {candidate} of {n_candidate} keys at first sight, stable {stable} of {n_stable}"


def _sample_ratio(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    keys = msgspec.convert(observed["keys"], list[KeyTally])
    log_e = log_mismatch([KeyCount(key.share, key.candidate, key.stable) for key in keys])
    if log_e >= -math.log(float(parameters["alpha"])):
        drawn = ", ".join(
            f"{key.candidate} of {key.candidate + key.stable} at a share of {key.share:.2%}" for key in keys
        )
        return Judged(Verdict.INVALID, log_e, f"the candidate did not get its share of the keys: {drawn}")
    return Judged(Verdict.SAFE, log_e, "keys are drawn as promised")


def judge_canary(
    plan: Plan,
    tallies: ReleaseTallies,
    *,
    step: int,
    rules: Sequence[Guardrail],
    following: float | None = None,
) -> list[Evidence]:
    """Return what the guardrails say while both versions answer.

    Args:
        plan: The plan.
        tallies: What was counted.
        step: Number of the plan's step whose exit is asked for.
        rules: The guardrails that apply.
        following: The share that is asked for; that of the next step if None.
    """
    share = plan.next_share(step) if following is None else following
    n_rules = rule_count(plan, rules)
    rules = at_once(rules)
    keys = [msgspec.structs.astuple(key) for key in tallies.keys]
    rows = {"candidate": tallies.candidate, "stable": tallies.stable, "dropped": tallies.dropped}
    found = [
        evidence_of(
            f"{GUARDRAIL}:{guardrail.name}",
            {
                "event": guardrail.name,
                "alpha": plan.alpha,
                "rules": n_rules,
                "tolerated": guardrail.tolerated,
                "ratio": guardrail.ratio,
                "allowed": min(1.0, guardrail.allowance / share),
                "max_dropped": plan.max_dropped,
            },
            {
                "events": [
                    list(msgspec.structs.astuple(each)) for each in tallies.events.get(guardrail.name, [])
                ],
                "keys": [list(key) for key in keys],
                **rows,
            },
            cut=tallies.cut,
        )
        for guardrail in rules
    ]
    found.append(
        evidence_of(SAMPLE_RATIO, {"alpha": ALPHA}, {"keys": [list(key) for key in keys]}, cut=tallies.cut)
    )
    return found


_LEAST_GROWTH = 1.5


def share_between(
    plan: Plan, tallies: ReleaseTallies, *, step: int, share: float, rules: Sequence[Guardrail]
) -> float | None:
    """Return a share before the next step's that may be risked already; None if none is worth it.

    A service with few users runs out of new ones at a small share, and would never prove what the next
    step asks for. What it has proven allows less, and there it meets more users.

    Args:
        plan: The plan.
        tallies: What was counted.
        step: Number of the present step.
        share: The present share.
        rules: The guardrails that apply.
    """
    risked = min(
        (
            guardrail.allowance / excess_of(plan, tallies, guardrail, halved=True)
            for guardrail in at_once(rules)
        ),
        default=0.0,
    )
    found = math.floor(min(risked, plan.next_share(step)) * 1e4) / 1e4
    return found if _LEAST_GROWTH * share <= found < plan.next_share(step) else None


def excess_of(plan: Plan, tallies: ReleaseTallies, guardrail: Guardrail, *, halved: bool = False) -> float:
    """Return the largest excess of a guardrail's rate that is still possible.

    Args:
        plan: The plan.
        tallies: What was counted.
        guardrail: Which rate.
        halved: At half of alpha, as a guardrail is judged where the proof by ratio has said nothing.
    """
    trials = trials_of(tallies.events.get(guardrail.name, []), tallies.keys)
    return worst_excess(trials, alpha=plan.alpha / 2 if halved else plan.alpha)


# -- the shadow


def _shadow_failures(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    pairs, worse, better = (int(observed[name]) for name in ("pairs", "worse", "better"))
    alpha = float(parameters["alpha"])
    log_e = log_worse(worse, better)
    seen = f"the candidate alone failed for {worse} of {pairs} keys, stable alone for {better}"
    if log_e >= -math.log(bonferroni(alpha, int(parameters["rules"]))):
        return Judged(Verdict.REGRESSED, log_e, f"{seen}{_where(observed, failures=True)}")
    if pairs < int(parameters["least_pairs"]):
        return Judged(Verdict.UNDECIDED, log_e, f"{pairs} of {parameters['least_pairs']} keys seen")
    test = LossTest(min(0.99, float(parameters["allowed"])))
    test.observe_counts(worse=worse, better=better, even=pairs - worse - better)
    if test.log_e >= -math.log(alpha):
        return Judged(Verdict.SAFE, log_e, seen)
    return Judged(Verdict.UNDECIDED, log_e, f"not yet proven: {seen}")


def _shadow_latency(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    slower, faster = int(observed["slower"]), int(observed["faster"])
    log_e = log_worse(slower, faster, test=regression_test(_SLOWER))
    own, other = (_mean_us(observed[name]) for name in ("shadow_times", "answer_times"))
    seen = f"a call takes {own / 1000:.2f} ms, stable's {other / 1000:.2f} ms"
    slow_us = float(parameters["slow_us"])
    if log_e >= -math.log(bonferroni(float(parameters["alpha"]), int(parameters["rules"]))):
        if own >= _SLOWER * other and own >= slow_us:
            return Judged(Verdict.REGRESSED, log_e, f"slower: {seen}")
        # Often slower, but by nothing that anybody waits for: the evidence alone would look like a fault.
        least = (
            f"calls under {slow_us / 1000:g} ms do not"
            if own < slow_us
            else f"under {_SLOWER:g} times does not"
        )
        seen += f"; slower more often, but {least} count"
    if int(observed["timed"]) < int(parameters["least_pairs"]):
        return Judged(Verdict.UNDECIDED, log_e, f"{observed['timed']} calls compared")
    return Judged(Verdict.SAFE, log_e, seen)


def _mean_us(times: Mapping[Any, int]) -> float:
    total = sum(times.values())
    return sum(upper_us(int(step)) * count for step, count in times.items()) / total if total else 0.0


def _disagreement(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    pairs, differ = int(observed["pairs"]), int(observed["disagree"])
    alpha, limit = float(parameters["alpha"]), float(parameters["limit"])
    slices = _slices(observed)
    rules = int(parameters["rules"]) * (1 + len(slices))
    wanted = -math.log(bonferroni(alpha, rules))
    log_e = _log_above(differ, pairs, limit)
    seen = f"the versions disagree for {differ} of {pairs} keys"
    if log_e >= wanted:
        return Judged(Verdict.REGRESSED, log_e, f"{seen}{_where(observed, failures=False)}")
    for name, rows, unlike in slices:
        if _log_above(unlike, rows, float(parameters["slice_limit"])) >= wanted:
            return Judged(
                Verdict.REGRESSED,
                _log_above(unlike, rows, float(parameters["slice_limit"])),
                f"the versions disagree in {unlike} of {rows} rows with {name}; in all {seen}",
            )
    if pairs < int(parameters["least_pairs"]):
        return Judged(Verdict.UNDECIDED, log_e, f"{pairs} of {parameters['least_pairs']} keys compared")
    bound = largest_disagreement(differ, pairs, alpha=alpha)
    seen = f"{seen}: at most {bound:.2%} of decisions change"
    return Judged(Verdict.SAFE if bound <= limit else Verdict.UNDECIDED, log_e, seen)


def _log_above(yes: int, n: int, limit: float) -> float:
    """Return log E against "the rate is at most `limit`"; 0 while no more than that was seen."""
    if not n or yes / n <= limit or limit >= 1:
        return 0.0
    mixture = math.lgamma(0.5 + yes) + math.lgamma(0.5 + n - yes) - math.lgamma(1 + n) - math.log(math.pi)
    return mixture - yes * math.log(limit) - (n - yes) * math.log1p(-limit)


def _slices(observed: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    return [
        (f"{field} = {value}", int(counts[0]), int(counts[1]))
        for field, values in sorted(observed.get("by_field", {}).items())
        for value, counts in sorted(values.items())
        if int(counts[0]) >= _LEAST_SLICE
    ]


def _where(observed: Mapping[str, Any], *, failures: bool) -> str:
    """Return the category in which a difference lies, in words, where it lies in one."""
    column = 2 if failures else 1
    found: list[tuple[float, str]] = []
    for field, values in observed.get("by_field", {}).items():
        total = sum(int(counts[column]) for counts in values.values())
        rows = sum(int(counts[0]) for counts in values.values())
        for value, counts in values.items():
            part, size = int(counts[column]), int(counts[0])
            if part >= 5 and size < rows and total and part / total > 0.8 and part / total > 2 * size / rows:
                found.append((part / size, f", mostly where {field} = {value}: {part} of {size} rows"))
    return max(found)[1] if found else ""


def rule_count(plan: Plan, rules: Sequence[Guardrail]) -> int:
    """Return how many rules may each roll a release back: they share alpha."""
    if plan.shadow is None:
        return len(rules)
    return len(rules) + (2 if plan.shadow.max_disagreement is None else 3)


def judge_shadow(
    plan: Plan, shadow: ShadowStep, pairs: PairTally, *, rules: Sequence[Guardrail]
) -> list[Evidence]:
    """Return what pairs say: the same requests, answered by both versions.

    Args:
        plan: The plan.
        shadow: Its shadow step.
        pairs: Sum of the pairs since the shadow began.
        rules: The guardrails that apply later.
    """
    allowed = min((plan.allowed(guardrail, -1) for guardrail in at_once(rules)), default=1.0)
    common = {"alpha": plan.alpha, "rules": rule_count(plan, rules), "least_pairs": shadow.least_pairs}
    by_field = {field: {k: list(v) for k, v in values.items()} for field, values in pairs.by_field.items()}
    found = [
        evidence_of(
            SHADOW_FAILURES,
            {**common, "allowed": allowed},
            {
                "pairs": pairs.key_pairs,
                "worse": pairs.key_worse,
                "better": pairs.key_better,
                "errors": pairs.errors,
                "by_field": by_field,
            },
        ),
        evidence_of(
            SHADOW_LATENCY,
            {**common, "slow_us": shadow.slow_us, "least_pairs": min(20, shadow.least_pairs)},
            {
                "slower": pairs.key_slower,
                "faster": pairs.key_faster,
                "timed": pairs.timed,
                "shadow_times": {str(step): count for step, count in pairs.shadow_times.items()},
                "answer_times": {str(step): count for step, count in pairs.answer_times.items()},
            },
        ),
    ]
    if shadow.max_disagreement is not None:
        found.append(
            evidence_of(
                DISAGREEMENT,
                {
                    **common,
                    "limit": shadow.max_disagreement,
                    "slice_limit": shadow.max_slice_disagreement or 1.0,
                },
                {"pairs": pairs.key_compared, "disagree": pairs.key_disagree, "by_field": by_field},
            )
        )
    return found


# -- what became of it


def _outcome(parameters: Mapping[str, Any], observed: Mapping[str, Any]) -> Judged:
    """Judge outcomes that had the time to come: of both arms, and of requests that both have answered.

    Either way a healthy candidate gives e-values of mean 1 at most, so that their mean is one too; the same
    holds of the proofs of safety for one that is not safe.
    """
    tallies = msgspec.convert(observed["events"], list[EventTally])
    keys = msgspec.convert(observed["keys"], list[KeyTally])
    pairs, worse, better = (int(observed[name]) for name in ("pairs", "worse", "better"))
    alpha, allowed = float(parameters["alpha"]), float(parameters["allowed"])
    regressed = [_log_e(regression_test(float(parameters["tolerated"])), events_of(tallies, low=False))]
    proofs = [
        _log_e(safety_test(float(parameters["ratio"])), events_of(tallies, low=True)),
        log_wealth(trials_of(tallies, keys), allowance=allowed),
    ]
    seen = _seen(str(parameters["event"]), tallies, keys)
    if parameters["paired"]:  # from the first look on, or the mean would not be an e-value
        test = LossTest(min(0.99, allowed))
        test.observe_counts(worse=worse, better=better, even=pairs - worse - better)
        regressed.append(log_worse(worse, better))
        proofs.append(test.log_e)
        seen += f"; of {pairs} keys that both answered, for {worse} the candidate alone, for {better} stable"
    log_regressed = log_mean_exp(regressed)
    if log_regressed >= -math.log(bonferroni(alpha, int(parameters["rules"]))):
        return Judged(Verdict.REGRESSED, log_regressed, f"more {seen}")
    if not keys and not pairs:
        wait = f"outcomes take {float(parameters['horizon_s']):g} s, and none is so old yet"
        return Judged(Verdict.UNDECIDED, log_regressed, wait)
    rows = int(observed["candidate"]) + int(observed["stable"])
    if rows and int(observed["dropped"]) > float(parameters["max_dropped"]) * rows:
        lost = f"the journal lost records around {observed['dropped']} of {rows} rows"
        return Judged(Verdict.UNDECIDED, log_regressed, lost)
    if log_mean_exp(proofs) >= -math.log(alpha):
        proven = f"proven to exceed stable's by less than {allowed:.3%}: {seen}"
        return Judged(Verdict.SAFE, log_regressed, proven)
    return Judged(Verdict.UNDECIDED, log_regressed, f"not yet proven to stay within {allowed:.3%}: {seen}")


def judge_outcomes(
    plan: Plan,
    tallies: Mapping[str, OutcomeTallies],
    *,
    share: float,
    rules: Sequence[Guardrail],
    horizon_s: float,
) -> list[Evidence]:
    """Return what outcomes say that had the time to come.

    Args:
        plan: The plan.
        tallies: What was counted, by guardrail.
        share: The candidate's next share, or 1 once it has everything.
        rules: The guardrails that apply; those without an outcome are left out.
        horizon_s: How long outcomes take, seconds.
    """
    found = []
    for guardrail in rules:
        if not guardrail.outcome:
            continue
        seen = tallies.get(guardrail.name, OutcomeTallies())
        keys = [list(msgspec.structs.astuple(key)) for key in seen.keys]
        cut = {"until_us": seen.until_us}
        parameters = {
            "event": guardrail.name,
            "alpha": plan.alpha,
            "rules": rule_count(plan, rules),
            "tolerated": guardrail.tolerated,
            "ratio": guardrail.ratio,
            "allowed": min(1.0, guardrail.allowance / share),
            "max_dropped": plan.max_dropped,
            "horizon_s": horizon_s,
            "every_step": guardrail.every_step,
            "paired": bool(guardrail.against),
        }
        observed = {
            "events": [list(msgspec.structs.astuple(each)) for each in seen.events],
            "keys": keys,
            **{name: getattr(seen, name) for name in _OUTCOME_COUNTS},
        }
        found.append(evidence_of(f"{OUTCOME}:{guardrail.name}", parameters, observed, cut=cut))
        # outcomes that come for one version more often than for the other tell of those that came only
        found.append(
            evidence_of(f"{OUTCOME_RATIO}:{guardrail.name}", {"alpha": ALPHA}, {"keys": keys}, cut=cut)
        )
    return found


_OUTCOME_COUNTS = (
    "candidate",
    "stable",
    "candidate_known",
    "stable_known",
    "dropped",
    "pairs",
    "worse",
    "better",
)


def holding(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return the evidence that a step waits for: without outcomes, unless every step does.

    Nothing of outcomes stands for what happens at once: where that is missing, nothing is proven.
    """
    known = list(evidence)
    first = [each for each in known if each.rule.partition(":")[0] not in (OUTCOME, OUTCOME_RATIO)]
    late = [each for each in known if each.parameters.get("every_step", False)]
    return [*first, *late] if first else []


_RULES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Judged]] = {
    GUARDRAIL: _guardrail,
    SAMPLE_RATIO: _sample_ratio,
    SHADOW_FAILURES: _shadow_failures,
    SHADOW_LATENCY: _shadow_latency,
    DISAGREEMENT: _disagreement,
    OUTCOME: _outcome,
    OUTCOME_RATIO: _sample_ratio,
}


def worst(evidence: Iterable[Evidence]) -> Verdict:
    """Return what several rules say together: any regressed, else any invalid, else any undecided."""
    verdicts = {each.verdict for each in evidence}
    for verdict in (Verdict.REGRESSED, Verdict.INVALID, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.SAFE if verdicts else Verdict.UNDECIDED
