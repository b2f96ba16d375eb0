"""The rules: what they say of counts, and what they refuse to say."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting
from tidegate.journal.matured import OutcomeTallies
from tidegate.journal.pair import PairTally
from tidegate.journal.watch import EventTally, KeyTally, ReleaseTallies
from tidegate.release.evidence import (
    evaluate,
    evidence_of,
    holding,
    judge_canary,
    judge_outcomes,
    judge_shadow,
    replay,
    share_between,
    worst,
)
from tidegate.release.plan import Guardrail, Plan, PlanStep, ShadowStep, forecast

PLAN = Plan(guardrails=(Guardrail("errors", allowance=0.01),), shadow=None)


def tallies(*phases: tuple[float, int, int, int, int], **counts) -> ReleaseTallies:
    """(share, candidate keys, stable keys, candidate events, stable events), a phase each."""
    return ReleaseTallies(
        {"errors": [EventTally(share, share, share, 0.0, c, s) for share, _, _, c, s in phases if c + s]},
        [KeyTally(share, candidate, stable) for share, candidate, stable, _, _ in phases],
        counts.pop("candidate", sum(phase[1] for phase in phases)),
        counts.pop("stable", sum(phase[2] for phase in phases)),
        **counts,
    )


def judge(found: ReleaseTallies, step: int = 3, plan: Plan = PLAN):
    return judge_canary(plan, found, step=step, rules=plan.guardrails)[0]


def test_more_errors_of_the_candidate_regress_and_as_many_do_not():
    assert judge(tallies((0.5, 1000, 1000, 60, 10))).verdict is Verdict.REGRESSED
    assert judge(tallies((0.5, 1000, 1000, 10, 60))).verdict is not Verdict.REGRESSED
    assert judge(tallies((0.5, 1000, 1000, 30, 30))).verdict is Verdict.UNDECIDED


LATE = Guardrail("wrong", outcome="late", against="p", allowance=0.02)
LATER = msgspec.structs.replace(LATE, every_step=True)


def judge_late(*, rule: Guardrail = LATE, share: float = 1.0, **counts):
    found = {"wrong": OutcomeTallies(**counts)} if counts else {}
    return judge_outcomes(PLAN, found, share=share, rules=(*PLAN.guardrails, rule), horizon_s=60.0)


def test_outcomes_are_undecided_until_some_are_old_enough_and_then_say_both_ways():
    keys = [KeyTally(0.5, 1000, 1000)]
    worse = [EventTally(0.5, 0.5, 0.5, 0.0, 200, 100)]
    alike = [EventTally(0.5, 0.5, 0.5, 0.0, 100, 100)]

    assert "none is so old yet" in judge_late()[0].reason
    assert judge_late()[0].verdict is Verdict.UNDECIDED
    assert judge_late(events=worse, keys=keys)[0].verdict is Verdict.REGRESSED
    assert judge_late(events=alike, keys=keys)[0].verdict is Verdict.UNDECIDED
    assert judge_late(pairs=3000, worse=150, better=30)[0].verdict is Verdict.REGRESSED
    assert judge_late(pairs=3000, worse=30, better=30)[0].verdict is Verdict.SAFE
    assert judge_late(keys=[KeyTally(0.5, 900, 600)])[1].verdict is Verdict.INVALID


@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 4000))
def test_what_outcomes_said_replays_to_the_same(worse, better, pairs):
    for found in judge_late(pairs=pairs, worse=worse, better=better, keys=[KeyTally(0.5, 90, 100)]):
        again = replay(found)

        assert again is not None
        assert (again.verdict, again.reason) == (found.verdict, found.reason)


def test_a_step_waits_for_what_happens_at_once_and_for_outcomes_only_where_it_is_told_to():
    clean = judge(tallies((0.5, 2000, 2000, 0, 0)))

    assert worst(holding([clean, *judge_late()])) is Verdict.SAFE
    assert worst(holding([clean, *judge_late(rule=LATER)])) is Verdict.UNDECIDED
    for rule in (LATE, LATER):  # nothing of outcomes stands for evidence that is missing
        assert worst(holding(judge_late(rule=rule, pairs=9000))) is Verdict.UNDECIDED


def test_without_failures_each_step_asks_for_what_the_next_one_risks():
    clean = tallies((0.01, 60, 5940, 0, 0))

    assert judge(clean, step=0).verdict is Verdict.SAFE
    assert judge(clean, step=2).verdict is Verdict.UNDECIDED
    assert judge(tallies((0.01, 60, 5940, 0, 0), (0.5, 700, 700, 0, 0)), step=3).verdict is Verdict.SAFE


def test_no_traffic_lost_records_and_missing_counts_are_undecided():
    enough = (0.5, 2000, 2000, 0, 0)

    assert judge(tallies(enough)).verdict is Verdict.SAFE
    assert judge(ReleaseTallies()).verdict is Verdict.UNDECIDED
    lossy = judge(tallies(enough, dropped=40))
    assert (lossy.verdict, "lost records" in lossy.reason) == (Verdict.UNDECIDED, True)
    evidence = judge(tallies(enough))
    for name in evidence.observed:
        less = {key: value for key, value in evidence.observed.items() if key != name}
        assert evaluate(evidence.rule, evidence.parameters, less).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("weight", [math.nan, -1.0])
def test_weights_that_are_no_shares_are_undecided(weight):
    found = ReleaseTallies(
        {"errors": [EventTally(weight, weight, weight, 0.0, 50, 1)]}, [KeyTally(0.5, 9, 9)]
    )

    assert judge(found).verdict is Verdict.UNDECIDED


def test_evidence_survives_storage_and_replays_to_the_same_verdict():
    for found in (tallies((0.5, 1000, 1000, 60, 10)), tallies((0.5, 1000, 1000, 5, 5)), ReleaseTallies()):
        for evidence in judge_canary(PLAN, found, step=1, rules=PLAN.guardrails):
            stored = msgspec.json.decode(msgspec.json.encode(evidence), type=type(evidence))
            again = replay(stored)
            assert again is not None
            assert (again.verdict, again.statistic) == (evidence.verdict, evidence.statistic)


def test_keys_that_were_not_drawn_as_promised_make_it_invalid():
    evidence = judge_canary(PLAN, tallies((0.1, 900, 9100, 0, 0)), step=1, rules=PLAN.guardrails)[1]
    assert evidence.verdict is Verdict.SAFE
    evidence = judge_canary(PLAN, tallies((0.1, 9000, 91000, 0, 0)), step=1, rules=PLAN.guardrails)[1]
    assert (evidence.verdict, "did not get its share" in evidence.reason) == (Verdict.INVALID, True)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 4000))
def test_more_failures_of_the_candidate_are_never_better(candidate, stable, keys):
    order = [Verdict.SAFE, Verdict.UNDECIDED, Verdict.REGRESSED]
    few = judge(tallies((0.5, keys + 50, keys + 50, candidate, stable)))
    more = judge(tallies((0.5, keys + 50, keys + 50, candidate + 5, stable)))

    assert order.index(more.verdict) >= order.index(few.verdict)


def test_few_users_allow_a_share_before_the_next_step():
    forty = tallies((0.01, 40, 3960, 0, 0))

    assert (
        judge(forty, step=0, plan=Plan(guardrails=(Guardrail("errors"),), shadow=None)).verdict
        is not Verdict.SAFE
    )
    share = share_between(Plan(shadow=None), forty, step=0, share=0.01, rules=(Guardrail("errors"),))
    assert share is not None
    assert 0.015 <= share < 0.05
    assert (
        share_between(PLAN, tallies((0.01, 2, 198, 0, 0)), step=0, share=0.01, rules=PLAN.guardrails) is None
    )


SHADOW = ShadowStep(least_pairs=100, max_disagreement=0.2, max_slice_disagreement=0.6)


def shadow(**counts) -> dict[str, object]:
    evidence = judge_shadow(PLAN, SHADOW, PairTally(**counts), rules=PLAN.guardrails)
    return {each.rule: each for each in evidence}


HEALTHY = {"pairs": 500, "key_pairs": 500, "key_compared": 500, "key_disagree": 20, "timed": 500}


def test_shadow_that_agrees_is_safe_and_one_that_was_not_compared_is_undecided():
    assert worst(shadow(**HEALTHY).values()) is Verdict.SAFE
    assert worst(shadow().values()) is Verdict.UNDECIDED


def test_shadow_that_fails_alone_regresses_and_the_place_is_named():
    by_field = {"carrier": {"AA": [100, 0, 40], "UA": [400, 0, 0]}}
    found = shadow(**{**HEALTHY, "key_worse": 40, "by_field": by_field})["shadow-failures"]

    assert found.verdict is Verdict.REGRESSED
    assert "mostly where carrier = AA: 40 of 100" in found.reason


def test_disagreement_beyond_the_limit_in_all_or_in_one_category_regresses():
    assert shadow(**{**HEALTHY, "key_disagree": 250})["disagreement"].verdict is Verdict.REGRESSED
    by_field = {"origin": {"EWR": [150, 145, 0], "JFK": [350, 10, 0]}}
    found = shadow(**{**HEALTHY, "key_disagree": 70, "by_field": by_field})["disagreement"]
    assert found.verdict is Verdict.REGRESSED
    assert "origin = EWR" in found.reason


def test_slowness_counts_only_where_it_is_worth_a_word():
    slow = {**HEALTHY, "key_slower": 300, "answer_times": {40: 500}}
    tiny = {**HEALTHY, "key_slower": 300, "answer_times": {12: 500}}

    assert shadow(**slow, shadow_times={48: 500})["shadow-latency"].verdict is Verdict.REGRESSED
    found = shadow(**tiny, shadow_times={20: 500})["shadow-latency"]
    assert found.verdict is Verdict.SAFE
    assert "slower more often, but calls under 1 ms do not count" in found.reason
    near = shadow(**slow, shadow_times={42: 500})["shadow-latency"]
    assert near.verdict is Verdict.SAFE
    assert "under 2 times does not count" in near.reason


def test_unknown_rule_is_refused():
    with pytest.raises(InvalidSetting, match="no rule"):
        evidence_of("horoscope", {}, {})
    assert worst([]) is Verdict.UNDECIDED


def test_forecast_is_finite_without_failures_and_longer_with_less_traffic():
    quick = forecast(Plan(), keys_per_s=100.0)
    slow = forecast(Plan(), keys_per_s=1.0)
    failing = forecast(Plan(), keys_per_s=1.0, rates={"errors": 0.01})

    assert quick.total_s < slow.total_s < failing.total_s < math.inf
    assert sum(step.keys for step in slow.steps) < 20_000
    assert failing.slowest == "errors"
    assert forecast(Plan(), keys_per_s=0.0).total_s == math.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: Plan(steps=()).checked(),
        lambda: Plan(steps=(PlanStep(0.5), PlanStep(0.1))).checked(),
        lambda: Plan(guardrails=()).checked(),
        lambda: Plan(approve=(0.3,)).checked(),
        lambda: Plan(alpha=0.0).checked(),
        lambda: Plan(idle_s=math.inf).checked(),
        lambda: Guardrail("errors", allowance=0.0),
    ],
)
def test_plans_that_contradict_themselves_are_refused(make):
    with pytest.raises(InvalidSetting):
        make()
