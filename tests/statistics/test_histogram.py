import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.statistics.histogram import CategoryGrid, category_grid, number_grid

numbers = st.lists(
    st.floats(width=32, allow_infinity=True) | st.sampled_from([0.0, 1.0, float("nan")]), max_size=60
)


@given(
    reference=numbers, values=numbers, cuts=st.lists(st.integers(0, 60), max_size=4), n_bins=st.integers(1, 8)
)
@settings(max_examples=40)
def test_counts_merge_whatever_the_partition(reference, values, cuts, n_bins):
    grid = number_grid(np.array([0.5, *reference]), n_bins=n_bins)
    column = np.array(values)
    parts = np.split(column, sorted(min(cut, len(values)) for cut in cuts))

    merged = sum((grid.count(part) for part in parts), np.zeros(grid.n_bins, np.int64))

    assert merged.tolist() == grid.count(column).tolist()
    assert merged.sum() == len(values)
    assert np.bincount(grid.codes(column), minlength=grid.n_bins).tolist() == merged.tolist()


@given(values=st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=30), at=st.integers(0, 30))
@settings(max_examples=30)
def test_categories_merge_and_keep_what_is_unknown_apart(values, at):
    grid = CategoryGrid(("a", "b"))
    column = np.array(values, dtype=object)

    merged = grid.count(column[:at]) + grid.count(column[at:])

    assert merged.tolist() == [
        values.count("a"),
        values.count("b"),
        values.count("c") + values.count("d"),
        values.count(None),
    ]


def test_bins_hold_equal_shares_of_the_reference():
    reference = np.random.default_rng(0).exponential(size=10_000)

    counts = number_grid(reference, n_bins=10).count(reference)

    assert counts[[0, -2, -1]].tolist() == [0, 0, 0]
    assert np.abs(counts[1:-2] - 1000).max() <= 1


def test_a_frequent_value_has_a_bin_of_its_own_and_strangers_lie_outside():
    grid = number_grid(np.array([0.0] * 80 + [5.0] * 20), n_bins=10)

    assert grid.cuts[:2] == (0.0, 5.0)
    assert grid.count(np.array([-1.0, 0.0, 5.0, 5.1, np.nan, np.inf])).tolist() == [1, 1, 1, 2, 1]


def test_a_constant_has_one_bin():
    grid = number_grid(np.full(9, 3.0))

    assert grid.count(np.array([2.9, 3.0, 3.1])).tolist() == [1, 1, 1, 0]
    assert len(grid.names) == grid.n_bins


def test_single_precision_counts_as_double():
    values = np.random.default_rng(1).normal(size=5_000).astype(np.float32)
    grid = number_grid(values)

    assert grid.count(values).tolist() == grid.count(values.astype(np.float64)).tolist()


def test_only_frequent_categories_have_bins():
    grid = category_grid([("rare", 1), ("b", 5), ("a", 9)], max_categories=2)

    assert grid.values == ("a", "b")
    assert grid.names == ("a", "b", "any other", "missing")


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_a_reference_without_values_is_refused(values):
    with pytest.raises(InvalidSetting, match="no finite value"):
        number_grid(np.array(values))
