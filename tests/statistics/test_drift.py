import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidegate.core.error import InvalidSetting
from tidegate.statistics import drift
from tidegate.statistics.histogram import number_grid
from tidegate.statistics.special import chi2_tail

counts = st.lists(st.integers(0, 50), min_size=5, max_size=5).filter(any)


@given(one=counts, factor=st.integers(1, 5))
def test_identical_shares_have_not_moved(one, factor):
    other = [10 * factor * count for count in one]
    same = [10 * count for count in one]

    assert drift.psi(same, other) == pytest.approx(0, abs=1e-12)
    assert drift.ks(same, other) == pytest.approx(0, abs=1e-12)
    assert drift.jensen_shannon(same, other) == pytest.approx(0, abs=1e-6)
    assert drift.wasserstein(same, other, [0, 1, 2, 3]) == pytest.approx(0, abs=1e-12)
    assert drift.chi_square(same, other)[0] == pytest.approx(0, abs=1e-9)


@given(one=counts, other=counts)
@settings(max_examples=50)
def test_measures_are_symmetric_and_bounded(one, other):
    assert drift.psi(one, other) == pytest.approx(drift.psi(other, one))
    assert drift.psi(one, other) >= 0
    assert 0 <= drift.jensen_shannon(one, other) <= 1 + 1e-12
    assert 0 <= drift.ks(one, other) <= 1 + 1e-12
    table = np.array([one, other])[:, np.array(one) + np.array(other) > 0]
    expected = stats.chi2_contingency(table, correction=False)[0] if table.shape[1] > 1 else 0
    assert drift.chi_square(one, other)[0] == pytest.approx(expected)


def test_distances_agree_with_those_of_the_values():
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=40_000), rng.normal(0.3, 1.2, size=30_000)
    grid = number_grid(before, n_bins=100)
    p, q = grid.count(before), grid.count(after)
    clipped = np.clip(after, before.min(), before.max())

    assert drift.ks(p[:-1], q[:-1]) == pytest.approx(stats.ks_2samp(before, after).statistic, abs=1 / 100)
    assert drift.wasserstein(p[:-1], q[:-1], grid.cuts) == pytest.approx(
        stats.wasserstein_distance(before, clipped), rel=0.06
    )


@pytest.mark.parametrize("value", [0.01, 0.05, 0.1])
def test_ks_tail_is_the_exact_one_to_a_few_per_cent(value):
    exact = stats.kstwo.sf(value, 500)

    assert drift.ks_tail(value, 1000, 1000) == pytest.approx(exact, rel=0.1, abs=1e-4)


@given(freedom=st.floats(0.5, 200), x=st.floats(0, 500))
@settings(max_examples=50)
def test_chi2_tail_agrees_with_scipy(freedom, x):
    assert chi2_tail(x, freedom) == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-13)


def test_psi_without_drift_follows_its_law_and_not_the_folklore():
    """10 bins, 200 rows on each side: PSI > 0.1 fires in a third of the cases, the law in one of 100."""
    rng = np.random.default_rng(0)
    before, after = (rng.multinomial(200, [0.1] * 10, size=4_000) for _ in range(2))

    values = drift.psi(before, after)
    folklore = float((values > 0.1).mean())
    law = float(np.mean([drift.psi_tail(value, 200, 200, n_bins=10) <= 0.01 for value in values]))

    assert folklore == pytest.approx(0.36, abs=0.04)
    assert law == pytest.approx(0.013, abs=0.006)


def test_bins_that_differ_and_empty_sides_are_refused():
    with pytest.raises(InvalidSetting, match="same bins"):
        drift.psi([1, 2], [1, 2, 3])
    with pytest.raises(InvalidSetting, match="at least one row"):
        drift.psi([1, 2], [0, 0])
