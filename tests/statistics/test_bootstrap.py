"""The bootstrap's spread is that of theory, with rows, groups and clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.statistics.bootstrap import MAX_UNITS, bootstrap, percentile_interval, replicate_sums
from tidegate.statistics.multiple import holm


def mean(sums):
    return sums[:, 0] / sums[:, 1]


@pytest.mark.parametrize("n_rows", [200, MAX_UNITS + 5904])
def test_interval_of_a_mean_has_the_width_of_theory(n_rows):
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, n_rows)

    found = bootstrap(np.stack([values, np.ones(n_rows)], axis=1), mean, rng=rng)

    assert found is not None
    deviation = values.std() / np.sqrt(n_rows)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.08)
    assert (found.low + found.high) / 2 == pytest.approx(values.mean(), abs=0.3 * deviation)


def test_rows_of_one_cluster_stay_together():
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(50), 20)
    values = rng.normal(size=50)[cluster]  # all rows of a cluster are equal: 50 values, not 1000

    terms = np.stack([values, np.ones(1000)], axis=1)
    apart = bootstrap(terms, mean, rng=rng)
    together = bootstrap(terms, mean, rng=rng, cluster=cluster)

    assert apart is not None
    assert together is not None
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(20), rel=0.15)


def test_same_seed_gives_the_same_sums():
    terms = np.arange(30.0).reshape(15, 2)

    first = replicate_sums(terms, rng=np.random.default_rng(5), n_replicates=300)
    second = replicate_sums(terms, rng=np.random.default_rng(5), n_replicates=300)

    assert np.array_equal(first, second)


def test_every_replicate_draws_as_many_rows_as_there_are():
    sums = replicate_sums(np.ones((7, 1)), rng=np.random.default_rng(5), n_replicates=513)

    assert sums.shape == (513, 1)
    assert np.array_equal(sums, np.full((513, 1), 7.0))


def test_interval_is_none_where_most_replicates_are_undefined():
    assert percentile_interval([np.nan, np.nan, 1.0]) is None


def test_no_rows_are_refused():
    with pytest.raises(InvalidSetting):
        replicate_sums(np.empty((0, 2)), rng=np.random.default_rng(0))


def test_holm_equals_the_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_nor_their_order(p_values):
    adjusted = holm(p_values)

    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
