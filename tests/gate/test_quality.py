"""A candidate that answers worse is told from one that answers otherwise."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.gate.world import answers
from tidegate.core.decision import Verdict
from tidegate.evaluation.estimate import Estimate
from tidegate.evaluation.measure import Measure
from tidegate.gate import quality
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import applies
from tidegate.training.baseline import Baseline, Comparison


def rng():
    return np.random.default_rng(0)


def flattened(share):
    return lambda columns, own: own * (1 - share) + own.mean() * share


def test_a_candidate_as_good_as_the_champion_is_safe():
    found = quality.champion(answers(), Gates(), rng=rng())

    assert found.verdict is Verdict.SAFE
    low, high = found.observed["interval"]
    assert low < found.statistic < high <= 0.02


def test_a_worse_candidate_regresses_and_the_figures_say_by_how_much():
    found = quality.champion(answers(worse=flattened(0.9)), Gates(), rng=rng())

    assert found.verdict is Verdict.REGRESSED
    assert found.observed["candidate"] > found.observed["champion"]
    assert "allowed +2%" in found.reason


def test_an_interval_that_holds_the_margin_is_undecided_and_asks_for_more_rows():
    found = quality.champion(answers(n=300, blur=0.12), Gates(quality_margin=0.001), rng=rng())

    assert found.verdict is Verdict.UNDECIDED
    assert "hold out more days" in found.reason


def test_few_groups_are_no_evidence_whatever_they_say():
    found = quality.champion(answers(n_days=4), Gates(), rng=rng())

    assert found.verdict is Verdict.UNDECIDED
    assert "4 days" in found.reason


def test_rows_of_one_group_count_as_one():
    # two days in which the candidate is better by chance must not pass for thousands of rows
    alone = answers(n_days=12, worse=flattened(0.25), seed=3)
    apart = answers(n_days=12, worse=flattened(0.25), seed=3, cluster=False)

    clustered = quality.champion(alone, Gates(), rng=rng()).observed["interval"]
    independent = quality.champion(apart, Gates(), rng=rng()).observed["interval"]

    assert np.ptp(clustered) > 0
    assert clustered != independent


def test_an_answer_that_is_no_number_regresses():
    def broken(columns, own):
        own[:3] = np.nan
        return own

    found = quality.champion(answers(worse=broken), Gates(), rng=rng())

    assert found.verdict is Verdict.REGRESSED
    assert "3 of 6,000" in found.reason


def test_without_a_champion_the_gate_does_not_apply_but_without_answers_it_is_undecided():
    assert not applies(quality.champion(answers(champion=False), Gates(), rng=rng()))
    missing = quality.champion(None, Gates(), rng=rng(), why_not="no rows were held out")
    assert (missing.verdict, missing.reason) == (Verdict.UNDECIDED, "no rows were held out")


def test_a_champion_that_cannot_answer_leaves_it_undecided():
    found = quality.champion(
        answers(champion=False), Gates(), rng=rng(), why_not="the champion cannot answer"
    )

    assert found.verdict is Verdict.UNDECIDED


def baseline(name, value, low, high):
    return Baseline(name, 0.5 + value, Estimate("gain", value, low, high))


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([("constant", 0.1, 0.05, 0.2), ("linear", 0.02, 0.01, 0.03)], Verdict.SAFE),
        ([("constant", 0.1, 0.05, 0.2), ("linear", 0.02, -0.01, 0.05)], Verdict.UNDECIDED),
        ([("constant", -0.1, -0.2, -0.05), ("linear", 0.02, 0.01, 0.05)], Verdict.REGRESSED),
        ([("constant", 0.1, None, None)], Verdict.UNDECIDED),
    ],
)
def test_every_baseline_has_to_be_beaten_with_intervals_apart(gains, verdict):
    comparison = Comparison("log_loss", 100, 50, 0.5, tuple(baseline(*each) for each in gains))

    assert quality.baselines(comparison).verdict is verdict


def test_nothing_compared_is_no_pass():
    assert quality.baselines(None).verdict is Verdict.UNDECIDED


TRIED = np.linspace(0.1, 0.9, 1_000)
HAPPENED = (np.arange(1_000) % 3 == 0).astype(float)


def rehearsed(registered, **options):
    options = {"measure": Measure(task="binary"), "refitted": False, "margin": 0.02, **options}
    return quality.rehearsal(TRIED, registered, HAPPENED, **options)


def test_files_that_answer_as_in_the_trial_are_safe():
    assert rehearsed(TRIED + 1e-6).verdict is Verdict.SAFE


def test_files_that_answer_otherwise_regress():
    found = rehearsed(TRIED * 0.9)

    assert found.verdict is Verdict.REGRESSED
    assert "another unit" in found.reason


def test_a_model_fitted_again_must_only_not_be_worse_on_what_it_has_seen():
    better = TRIED * 0.5 + HAPPENED * 0.5

    assert rehearsed(better, refitted=True).verdict is Verdict.SAFE
    assert rehearsed(1 - better, refitted=True).verdict is Verdict.REGRESSED


def test_evidence_keeps_only_what_json_can():
    found = rehearsed(np.full(1_000, np.inf))

    assert found.observed["largest"] is None
    assert b"Infinity" not in msgspec.json.encode(found)
