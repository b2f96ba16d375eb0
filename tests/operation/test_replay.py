"""Decisions are evaluated again from what they keep, and candidates that break the contract are refused."""

from __future__ import annotations

import msgspec
import pytest

from tests.release.fleet import ANA, SERVICE, SteppedClock
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import NotFound
from tidegate.journal.pair import PairTally
from tidegate.operation.compatible import BreakingContract, check_takes_over
from tidegate.operation.decide import record_decision
from tidegate.operation.replay import find_decision, replay_decision
from tidegate.release.evidence import judge_shadow
from tidegate.release.plan import Plan, ShadowStep


def keep(unit, *evidence):
    decision = Decision("release", SERVICE, "canary", ANA, 0, version=2, evidence=list(evidence))
    return record_decision(
        unit, decision, key=f"k{len(evidence)}-{id(evidence)}", clock=SteppedClock()
    ).result.id


def shadow_evidence():
    pairs = PairTally(pairs=400, key_pairs=400, key_compared=400, key_disagree=3, key_worse=30, timed=400)
    return judge_shadow(Plan(), ShadowStep(), pairs, rules=Plan().guardrails)


def test_a_decision_replays_to_the_verdicts_that_it_was_taken_on(unit):
    evidence = shadow_evidence()
    assert Verdict.REGRESSED in {each.verdict for each in evidence}
    number = keep(unit, *evidence, Evidence(rule="route-changed", verdict=Verdict.SAFE))

    found = replay_decision(unit, number)

    assert found.is_same
    assert [each.verdict for each in found.evidence] == [*(each.verdict for each in evidence), None]
    assert find_decision(unit, number) == found.decision


def test_evidence_that_was_altered_does_not_replay(unit):
    first, *others = shadow_evidence()
    altered = msgspec.structs.replace(first, verdict=Verdict.SAFE)
    number = keep(unit, altered, *others)

    found = replay_decision(unit, number)

    assert not found.is_same
    assert [each.is_same for each in found.evidence] == [False, *([True] * len(others))]


def test_a_decision_that_is_not_there_is_said_so(unit):
    with pytest.raises(NotFound, match="no decision 99"):
        replay_decision(unit, 99)


def contract(*inputs: Field) -> Contract:
    return Contract(Schema(inputs), Schema((Field("y", DataType.FLOAT64),)))


def test_a_candidate_that_takes_what_stable_takes_may_take_over():
    narrow = contract(Field("x", DataType.FLOAT64, ge=0, le=1))
    wide = contract(Field("x", DataType.FLOAT64, ge=0, le=2))

    check_takes_over("svc", narrow, wide, version=2)
    with pytest.raises(BreakingContract, match="Version 2 of service 'svc' breaks the contract"):
        check_takes_over("svc", wide, narrow, version=2)
