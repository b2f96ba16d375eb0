"""The anytime-valid tests: what they promise under the null, and what they notice."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.statistics.allowance import TrialCount, keys_without_failure, log_wealth, worst_excess
from tidegate.statistics.confseq import proportion
from tidegate.statistics.eprocess import (
    EventCount,
    RatioProcess,
    RatioTest,
    log_mean_exp,
    paths,
    regression_test,
    safety_test,
)
from tidegate.statistics.interval import Interval
from tidegate.statistics.srm import ALPHA as SRM_ALPHA
from tidegate.statistics.srm import KeyCount, log_mismatch, log_mismatch_arms

COUNTS = st.lists(
    st.builds(EventCount, st.floats(0.001, 0.999), st.integers(0, 50), st.integers(0, 50)), max_size=8
)
TRIALS = st.lists(
    st.builds(
        lambda weight, more, candidate, stable: TrialCount(
            weight, candidate + stable + more, candidate, stable
        ),
        st.floats(0.01, 0.99),
        st.integers(0, 500),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    max_size=6,
)


def process_of(counts):
    process = RatioProcess(regression_test())
    for count in counts:
        process.observe(weight=count.weight, candidate=count.candidate, stable=count.stable)
    return process


@given(COUNTS, st.data())
def test_any_partition_in_order_merges_to_the_whole(counts, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(counts)), max_size=3)))
    edges = [0, *cuts, len(counts)]

    parts = [process_of(counts[a:b]) for a, b in pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(RatioProcess(part.test, part.state))

    assert merged.log_e == pytest.approx(process_of(counts).log_e, abs=1e-9)
    assert log_mean_exp(regression_test().log_evidence(counts)) == pytest.approx(merged.log_e, abs=1e-9)


def test_evidence_is_the_formula():
    test = RatioTest(1.0, (2.0, 5.0))
    theta = {r: 0.3 * r / (0.3 * r + 0.7) for r in (1.0, 2.0, 5.0)}
    expected = np.mean(
        [(theta[r] / theta[1.0]) ** 2 * ((1 - theta[r]) / (1 - theta[1.0])) ** 3 for r in (2.0, 5.0)]
    )

    log_e = log_mean_exp(test.log_evidence([EventCount(0.3, 2, 3)]))

    assert math.exp(log_e) == pytest.approx(expected)


def test_paths_end_where_the_counts_say():
    rng = np.random.default_rng(5)
    events = rng.random((4, 300)) < 0.2
    for test in (regression_test(), safety_test(1.25)):
        ends = paths(test, events, 0.1)[:, -1]
        for row, end in zip(events, ends, strict=True):
            count = EventCount(0.1, int(row.sum()), int((~row).sum()))
            assert log_mean_exp(test.log_evidence([count])) == pytest.approx(end)


@pytest.mark.parametrize("test", [regression_test(), safety_test(1.25)])
@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
def test_false_verdicts_under_the_null_stay_below_alpha_however_often_one_looks(test, weight):
    rng = np.random.default_rng(11)
    share = weight * test.null / (weight * test.null + 1 - weight)
    events = rng.random((2000, 1200)) < share

    crossed = (paths(test, events, weight) >= math.log(1 / 0.05)).any(axis=1).mean()

    assert crossed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@given(st.floats(0.02, 0.9), st.floats(1.0, 1.1))
def test_a_weight_at_the_safe_end_never_lets_evidence_grow_under_the_null(weight, factor):
    """E[factor] <= 1: regressed counts with a weight that is too large, safe with one too small."""
    wide = min(1.0, weight * factor)
    for test, used in ((regression_test(), wide), (safety_test(1.25), weight / factor)):
        share = weight * test.null / (weight * test.null + 1 - weight)
        candidate, stable = test.log_factors(used)
        assert (share * np.exp(candidate) + (1 - share) * np.exp(stable) <= 1 + 1e-12).all()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_event_where_only_one_arm_had_traffic_tells_nothing_of_that_arm(weight):
    yes, no = regression_test().log_factors(weight)

    assert (yes if weight else no) == pytest.approx(0.0)


def test_ten_times_the_errors_are_seen_in_about_ten_events():
    process = RatioProcess(regression_test())
    for _ in range(6):
        process.observe(weight=0.1, candidate=1)
    assert process.log_e > math.log(100)


@given(TRIALS, st.floats(0.001, 0.5), st.floats(1.0, 2.0))
def test_a_larger_allowance_is_never_harder_to_prove(counts, allowance, factor):
    assert log_wealth(counts, allowance=min(1.0, allowance * factor)) >= log_wealth(
        counts, allowance=allowance
    )


@given(TRIALS)
def test_the_worst_excess_is_where_the_proof_ends(counts):
    bound = worst_excess(counts, alpha=0.01)

    assert 0 < bound <= 1
    if bound < 1:
        assert log_wealth(counts, allowance=bound) >= math.log(100) - 1e-6
        assert log_wealth(counts, allowance=bound * 0.999) < math.log(100) or bound < 1e-9


def test_without_failures_the_allowance_is_proven_by_a_known_number_of_keys():
    keys = keys_without_failure(allowance=0.01, alpha=0.01)

    assert 460 < keys < 600
    for weight in (0.01, 0.1, 0.5):
        trials = math.ceil(1.02 * keys / weight)
        assert log_wealth([TrialCount(weight, trials, 0, 0)], allowance=0.01) >= math.log(100)


def test_the_allowance_holds_under_drift():
    """Stable's rate falls while the candidate, always worse by the allowance, gets most of its keys late."""
    rng = np.random.default_rng(3)
    proven = 0
    for _ in range(400):
        counts = []
        for weight, base in ((0.01, 0.2), (0.05, 0.1), (0.25, 0.05), (0.5, 0.0)):
            n = 1000
            chosen = rng.random(n) < weight
            events = rng.random(n) < base + 0.02 * chosen
            counts.append(TrialCount(weight, n, int((events & chosen).sum()), int((events & ~chosen).sum())))
        proven += log_wealth(counts, allowance=0.02) >= math.log(20)
    assert proven <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_a_mismatch_of_keys_is_seen_and_a_fair_draw_is_not():
    fair = [KeyCount(0.01, 100, 9900), KeyCount(0.5, 5020, 4980)]

    assert log_mismatch(fair) < 0
    assert log_mismatch([*fair, KeyCount(0.1, 900, 9100)]) == pytest.approx(
        log_mismatch(fair) + log_mismatch([KeyCount(0.1, 900, 9100)])
    )
    assert log_mismatch([KeyCount(0.1, 1350, 13650)]) > 0
    assert log_mismatch([KeyCount(0.1, 9000, 91000)]) > math.log(1000)
    assert log_mismatch([KeyCount(0.0, 1, 0)]) == math.inf


def test_mismatch_of_fair_keys_is_rare_however_often_one_looks():
    rng = np.random.default_rng(8)
    fired = 0
    for _ in range(300):
        seen = np.cumsum(rng.random(4000) < 0.1)
        fired += any(
            log_mismatch([KeyCount(0.1, int(seen[n - 1]), int(n - seen[n - 1]))]) >= math.log(20)
            for n in range(100, 4001, 100)
        )
    assert fired <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RatioTest(0.0, (1.0,)),
        lambda: RatioTest(1.0, ()),
        lambda: RatioProcess(regression_test(), [0.0]),
        lambda: log_wealth([], allowance=0.0),
        lambda: worst_excess([], alpha=1.0),
        lambda: RatioProcess(regression_test()).merge(RatioProcess(safety_test(1.25))),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(InvalidSetting):
        make()


def test_the_interval_of_a_proportion_holds_whoever_looks_and_narrows():
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(60):
        draws = np.cumsum(rng.random(2000) < 0.1)
        looks = [proportion(int(draws[n - 1]), n, alpha=0.1) for n in range(20, 2001, 60)]
        missed += any(not look.low <= 0.1 <= look.high for look in looks)

    assert missed <= 12  # a tenth of 60, and twice as many
    assert looks[-1].high - looks[-1].low < 0.06
    assert proportion(0, 0) == Interval(0.0, 1.0)
    assert proportion(0, 50).low == 0.0
    with pytest.raises(InvalidSetting):
        proportion(3, 2)


def test_several_arms_that_get_their_shares_are_valid_and_others_are_not():
    shares = [0.5, 0.3, 0.2]

    assert log_mismatch_arms(shares, [5000, 3000, 2000]) < 0
    assert log_mismatch_arms(shares, [5000, 2600, 2400]) > -math.log(SRM_ALPHA)
    two = log_mismatch_arms([0.3, 0.7], [40, 60])
    assert two == pytest.approx(log_mismatch([KeyCount(0.3, 40, 60)]))
