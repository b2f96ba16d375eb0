"""Weighted totals of samples are unbiased, by every design."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.data.sample import (
    Sample,
    inclusion_probabilities,
    reservoir_sample,
    stratified_sample,
    uniform_sample,
    weighted_sample,
)

N_DRAWS = 400
numbers = st.lists(st.floats(-5, 10), min_size=3, max_size=25)


def check_unbiased(values, design):
    """Check the mean of the Horvitz-Thompson total over many seeds: within 5 standard errors of the truth."""
    totals = np.array([design(seed).total(values) for seed in range(N_DRAWS)])
    error = totals.std(ddof=1) / math.sqrt(N_DRAWS)
    assert abs(totals.mean() - sum(values)) <= 5 * error + 1e-9 * (1 + np.abs(values).sum())


@given(values=numbers, share=st.floats(0.1, 1))
@settings(max_examples=8, derandomize=True)
def test_the_total_of_a_uniform_sample_is_unbiased(values, share):
    n_drawn = max(1, int(share * len(values)))

    check_unbiased(values, lambda seed: uniform_sample(len(values), n_drawn, seed=seed))


@given(values=numbers, per_stratum=st.integers(1, 4))
@settings(max_examples=4, derandomize=True)
def test_the_total_of_a_stratified_sample_is_unbiased(values, per_stratum):
    table = pl.DataFrame({"stratum": [int(abs(value)) % 3 for value in values]})

    check_unbiased(
        values, lambda seed: stratified_sample(table, ["stratum"], per_stratum=per_stratum, seed=seed)
    )


@given(values=numbers, share=st.floats(0.1, 1))
@settings(max_examples=8, derandomize=True)
def test_the_total_of_a_weighted_sample_is_unbiased(values, share):
    n_drawn = max(1, int(share * len(values)))
    sizes = [abs(value) + 0.5 for value in values]

    check_unbiased(values, lambda seed: weighted_sample(sizes, n_drawn, seed=seed))


@given(values=numbers, n_drawn=st.integers(1, 30))
@settings(max_examples=8, derandomize=True)
def test_the_total_of_a_reservoir_is_unbiased(values, n_drawn):
    def design(seed):
        rows, weight = reservoir_sample(iter(range(len(values))), n_drawn, seed=seed)
        return Sample(np.array(rows), np.full(len(rows), weight))

    check_unbiased(values, design)


@given(sizes=st.lists(st.floats(0.01, 1000), min_size=1, max_size=40), data=st.data())
@settings(max_examples=40)
def test_a_weighted_sample_has_the_size_asked_for_and_takes_no_row_twice(sizes, data):
    n_drawn = data.draw(st.integers(1, len(sizes)))

    sample = weighted_sample(sizes, n_drawn, seed=1)
    chance = inclusion_probabilities(np.array(sizes), n_drawn)

    assert len(set(sample.rows)) == len(sample.rows) == n_drawn
    assert chance.sum() == pytest.approx(n_drawn)
    assert ((chance > 0) & (chance <= 1)).all()
    assert sample.weights == pytest.approx(1 / chance[sample.rows])


def test_a_total_proportional_to_size_is_known_from_any_weighted_sample():
    sizes = np.arange(1.0, 21)

    assert weighted_sample(sizes, 5, seed=3).total(sizes) == pytest.approx(sizes.sum())


def test_rare_strata_are_seen_and_weigh_less():
    table = pl.DataFrame({"kind": ["rare"] * 2 + ["common"] * 98})

    sample = stratified_sample(table, ["kind"], per_stratum=2, seed=0)

    assert sample.rows[:2].tolist() == [0, 1]
    assert sample.weights.tolist() == [1, 1, 49, 49]
    assert sample.mean([1.0] * 2 + [0.0] * 98) == pytest.approx(0.02)


def test_the_same_seed_draws_the_same_rows():
    assert uniform_sample(100, 5, seed=7).rows.tolist() == uniform_sample(100, 5, seed=7).rows.tolist()
    assert uniform_sample(100, 5, seed=7).rows.tolist() != uniform_sample(100, 5, seed=8).rows.tolist()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: uniform_sample(3, 4, seed=0),
        lambda: uniform_sample(3, 0, seed=0),
        lambda: weighted_sample([1, 0], 1, seed=0),
        lambda: weighted_sample([1, math.nan], 1, seed=0),
        lambda: reservoir_sample([], 0, seed=0),
        lambda: stratified_sample(pl.DataFrame({"a": [1]}), ["a"], per_stratum=0, seed=0),
    ],
)
def test_a_sample_that_cannot_be_is_refused(draw):
    with pytest.raises(InvalidSetting):
        draw()


def test_nothing_can_be_drawn_from_nothing():
    assert uniform_sample(0, 0, seed=0).total([]) == 0
    assert reservoir_sample([], 3, seed=0) == ([], 0.0)
