"""Intervals agree with scipy's, and refuse what has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidegate.core.error import InvalidSetting
from tidegate.statistics import interval, special

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@given(st.floats(0.05, 3000), st.floats(0.05, 3000), st.floats(0, 1))
def test_incomplete_beta_equals_scipy(a, b, x):
    assert special.incomplete_beta(a, b, x) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-9, abs=1e-11)


@given(st.floats(0.5, 500), st.floats(0.001, 0.999))
@settings(max_examples=30)
def test_student_tail_and_quantile_equal_scipy(freedom, probability):
    quantile = special.student_quantile(probability, freedom)

    assert quantile == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-6, abs=1e-6)
    assert special.student_tail(quantile, freedom) == pytest.approx(1 - probability, abs=1e-9)


@given(counts, levels)
@settings(max_examples=30)
def test_wilson_equals_scipy(count, level):
    successes, n_rows = count

    expected = stats.binomtest(successes, n_rows).proportion_ci(level, "wilson")

    found = interval.wilson(successes, n_rows, level=level)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


@given(counts, levels)
@settings(max_examples=30)
def test_clopper_pearson_equals_scipy(count, level):
    successes, n_rows = count

    expected = stats.binomtest(successes, n_rows).proportion_ci(level, "exact")

    found = interval.clopper_pearson(successes, n_rows, level=level)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_newcombe_equals_the_published_example():
    # Newcombe 1998, table II, contrast (a): 56/70 - 48/80, method 10
    found = interval.newcombe(56, 70, 48, 80)

    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_welch_equals_scipy():
    rng = np.random.default_rng(3)
    values, others = rng.normal(0.4, 2, 40), rng.normal(0, 1, 25)

    found, p_value = interval.welch(values, others)

    expected = stats.ttest_ind(values, others, equal_var=False, alternative="greater")
    both = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    assert p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((both.low, both.high))


def test_welch_is_certain_where_nothing_varies():
    found, p_value = interval.welch(np.ones(3), np.zeros(4))

    assert (found.low, found.high, p_value) == (1, 1, 0)


@pytest.mark.parametrize("function", [interval.wilson, interval.clopper_pearson])
@pytest.mark.parametrize("arguments", [(3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0), (1, 2, math.nan)])
def test_impossible_counts_and_levels_are_refused(function, arguments):
    successes, n_rows, level = arguments

    with pytest.raises(InvalidSetting):
        function(successes, n_rows, level=level)


def test_no_rows_say_nothing():
    assert interval.wilson(0, 0) == interval.clopper_pearson(0, 0) == interval.Interval(0, 1)
