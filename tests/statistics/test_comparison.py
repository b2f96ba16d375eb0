"""Paired tests, the certificate without labels, confidence sequences, several rules at once, maturity."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.statistics.confseq import asymptotic, betting, count_bounds, empirical_bernstein, quantile
from tidegate.statistics.disagreement import largest_disagreement, log_certificate
from tidegate.statistics.maturity import Cohort, mature
from tidegate.statistics.multiple import bonferroni, e_benjamini_hochberg
from tidegate.statistics.paired import LossTest, log_worse


def test_pairs_in_which_only_the_candidate_fails_are_noticed():
    assert log_worse(20, 0) > math.log(100)
    assert log_worse(10, 10) < 0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
def test_counted_losses_are_the_same_as_single_ones_and_states_add(worse, better, even):
    one, two = LossTest(0.02), LossTest(0.02)
    one.observe_counts(worse=worse, better=better, even=even)
    two.observe([1.0] * worse)
    taken_up = LossTest(0.02, two.state)
    taken_up.observe([-1.0] * better + [0.0] * even)

    assert one.log_e == pytest.approx(taken_up.log_e)


def test_a_candidate_that_loses_by_the_margin_is_rarely_called_as_good():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        test = LossTest(0.05)
        called = False
        for part in rng.choice([1.0, -1.0, 0.0], p=[0.1, 0.05, 0.85], size=(30, 50)):
            test.observe(part)
            called |= test.log_e >= math.log(20)
        wrong += called
    assert wrong <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05)


def test_losses_that_are_no_numbers_are_refused():
    with pytest.raises(InvalidSetting):
        LossTest(0.1).observe([float("nan")])
    with pytest.raises(InvalidSetting):
        LossTest(1.0)


def test_agreement_alone_certifies_as_many_points_as_the_literature_says():
    assert largest_disagreement(0, 690, alpha=0.05) <= 0.01
    assert largest_disagreement(0, 670, alpha=0.05) > 0.01
    assert largest_disagreement(0, 8060, alpha=0.05) == pytest.approx(0.001, rel=0.01)
    assert log_certificate(0, 304, margin=0.01) >= math.log(20)
    assert log_certificate(0, 295, margin=0.01) < math.log(20)
    assert largest_disagreement(0, 0, alpha=0.05) == 1.0


@given(st.integers(0, 200), st.integers(1, 400))
def test_bound_on_disagreement_lies_above_what_was_seen(disagreed, more):
    pairs = disagreed + more
    assert disagreed / pairs <= largest_disagreement(disagreed, pairs, alpha=0.01) <= 1


def test_bound_on_disagreement_holds_at_all_times():
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(300):
        seen = np.cumsum(rng.random(2000) < 0.03)
        missed += any(
            largest_disagreement(int(seen[n - 1]), n, alpha=0.1) < 0.03 for n in range(50, 2001, 150)
        )
    assert missed <= 300 * 0.1 + 3 * math.sqrt(300 * 0.09)


@pytest.mark.parametrize("interval", [empirical_bernstein, betting])
def test_interval_of_a_mean_holds_at_all_times_and_narrows(interval):
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(60):
        values = rng.beta(2, 6, 600)
        for n in (20, 60, 200, 600):
            found = interval(values[:n], alpha=0.1)
            if not found.low <= 0.25 <= found.high:
                missed += 1
                break
    wide, narrow = interval(values[:50]), interval(values)

    assert missed <= 60 * 0.1 + 3 * math.sqrt(60 * 0.09)
    assert narrow.high - narrow.low < wide.high - wide.low < 1
    assert interval([]).high == 1.0


def test_betting_is_tighter_than_bernstein():
    values = np.random.default_rng(1).beta(10, 30, 1000)
    bernstein, bet = empirical_bernstein(values), betting(values)

    assert bet.high - bet.low < bernstein.high - bernstein.low


def test_interval_of_a_quantile_holds_at_all_times():
    rng = np.random.default_rng(6)
    true = -math.log(0.1)
    missed = 0
    for _ in range(200):
        values = rng.exponential(size=1000)
        for n in (30, 100, 300, 1000):
            found = quantile(values[:n], 0.9, alpha=0.1)
            if not found.low <= true <= found.high:
                missed += 1
                break
    assert missed <= 200 * 0.1 + 3 * math.sqrt(200 * 0.09)
    assert quantile([], 0.9).high == math.inf
    assert quantile([1.0], 0.99).low == -math.inf


@given(st.integers(0, 3000), st.floats(0.01, 0.99))
def test_counts_below_a_quantile_that_are_possible_hold_its_expectation(n, fraction):
    least, most = count_bounds(n, fraction, alpha=0.05)
    assert 0 <= least <= round(n * fraction) <= most <= n


def test_asymptotic_interval_covers_and_needs_two_values():
    rng = np.random.default_rng(9)
    values = rng.lognormal(size=5000)
    found = asymptotic(len(values), float(values.mean()), float(values.var()))

    assert found.low < math.exp(0.5) < found.high
    assert asymptotic(1, 0.0, 0.0).high == math.inf


def test_rules_that_act_on_any_share_alpha_and_names_are_found_at_a_false_discovery_rate():
    assert bonferroni(0.01, 4) == 0.0025
    assert e_benjamini_hochberg([math.log(1000), 0.0, math.log(500), math.nan], alpha=0.01) == [0, 2]
    assert e_benjamini_hochberg([0.0, 0.0], alpha=0.01) == []


def test_only_cohorts_older_than_the_horizon_are_final():
    cohorts = [Cohort(0, 10, 9, 1), Cohort(59, 10, 8, 2), Cohort(90, 10, 1, 1)]

    found = mature(cohorts, now_minute=120, horizon_minutes=60)

    assert (found.predictions, found.known, found.events) == (20, 17, 3)
    assert (found.provisional_predictions, found.provisional_events) == (10, 1)
    assert found.coverage == pytest.approx(18 / 30)


@pytest.mark.parametrize(
    "make",
    [
        lambda: empirical_bernstein([2.0]),
        lambda: betting([math.nan]),
        lambda: quantile([1.0], 1.0),
        lambda: quantile([math.nan], 0.5),
        lambda: asymptotic(5, 0.0, 1.0, alpha=0.0),
        lambda: largest_disagreement(2, 1, alpha=0.1),
        lambda: log_certificate(0, 1, margin=1.0),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(InvalidSetting):
        make()
