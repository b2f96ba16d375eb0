"""The search finds what enumeration finds; a finding is confirmed on rows it was not found on."""

from __future__ import annotations

from itertools import combinations, product

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.slice import Condition, SliceFinding, find_slices, search


def enumerated(codes, losses, *, min_rows, max_conditions, size_weight):
    """Return every slice's score, by definition."""
    n, mean = len(losses), losses.mean()
    scores = {}
    for size in range(1, max_conditions + 1):
        for names in combinations(codes, size):
            for values in product(*(range(codes[name].max() + 1) for name in names)):
                fits = np.all([codes[k] == v for k, v in zip(names, values, strict=True)], axis=0)
                if fits.sum() >= min_rows:
                    score = (1 - size_weight) * (losses[fits].mean() / mean - 1) - size_weight * (
                        n / fits.sum() - 1
                    )
                    scores[tuple(zip(names, values, strict=True))] = score
    return scores


tables = st.integers(4, 40).flatmap(
    lambda n: st.tuples(
        st.lists(hnp.arrays(np.int64, n, elements=st.integers(-1, 3)), min_size=1, max_size=4),
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 7.0])),
    )
)


@given(tables, st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.sampled_from([0.02, 0.2, 0.6]))
@settings(max_examples=60, deadline=None)
def test_search_equals_enumeration(table, min_rows, n_slices, max_conditions, size_weight):
    columns, losses = table
    assume(losses.sum() > 0)
    codes = {f"f{i}": column for i, column in enumerate(columns)}
    assume(all(column.max() >= 0 for column in columns))

    found = search(
        codes,
        losses,
        min_rows=min_rows,
        n_slices=n_slices,
        max_conditions=max_conditions,
        size_weight=size_weight,
    )

    scores = enumerated(
        codes, losses, min_rows=min_rows, max_conditions=max_conditions, size_weight=size_weight
    )
    best = sorted((score for score in scores.values() if score > 1e-9), reverse=True)[:n_slices]
    strong = [each for each in found if each.score > 1e-9]
    assert [each.score for each in strong] == pytest.approx(best)
    for each in strong:
        assert each.score == pytest.approx(scores[each.conditions])


def bad_where_far_and_night(rng, n_rows=6000):
    columns = {
        "distance": rng.uniform(0, 100, n_rows),
        "time": rng.choice(np.array(["day", "night", None], dtype=object), n_rows),
        "noise": rng.integers(0, 5, n_rows),
    }
    bad = (columns["distance"] > 80) & (columns["time"] == "night")
    return columns, (rng.uniform(size=n_rows) < np.where(bad, 0.5, 0.1)).astype(float), bad


def test_planted_slice_is_found_first_and_confirmed():
    columns, losses, bad = bad_where_far_and_night(np.random.default_rng(0))

    best = find_slices(columns, losses, rng=np.random.default_rng(1))[0]

    assert {each.column for each in best.conditions} == {"distance", "time"}
    assert best.confirmed
    assert best.difference.low < 0.4 < best.difference.high
    assert (best.matches(columns) & bad).sum() > 0.9 * (best.matches(columns) | bad).sum()


def test_without_a_bad_slice_nothing_is_confirmed_more_often_than_stated():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(12):
        # among so many slices the best of the first half nearly always looks bad there
        columns = {f"f{i}": rng.normal(size=1200) for i in range(8)}
        losses = (rng.uniform(size=1200) < 0.2).astype(float)
        wrong += any(each.confirmed for each in find_slices(columns, losses, rng=rng))

    assert wrong <= 3  # of 12 at 5% each; above 3 has a probability below 1%


def test_missing_values_are_a_slice():
    rng = np.random.default_rng(3)
    value = rng.normal(size=2000)
    value[:400] = np.nan
    losses = np.where(np.isnan(value), 1.0, 0.1) * rng.uniform(size=2000)

    best = find_slices({"value": value}, losses, rng=rng)[0]

    assert best.conditions == (Condition("value", missing=True),)
    assert best.confirmed


def test_few_distinct_numbers_are_a_range_each():
    rng = np.random.default_rng(3)
    month = rng.integers(1, 4, 3000)
    losses = (month == 2) + rng.uniform(0, 0.1, 3000)

    best = find_slices({"month": month}, losses, rng=rng)[0]

    assert best.conditions == (Condition("month", low=2, high=3),)
    assert str(best) == "month >= 2 and month < 3"


def test_finding_survives_json():
    columns, losses, _ = bad_where_far_and_night(np.random.default_rng(0))
    best = find_slices(columns, losses, rng=np.random.default_rng(1))[0]

    assert msgspec.json.decode(msgspec.json.encode(best), type=SliceFinding) == best


def test_model_without_errors_has_no_slices():
    assert find_slices({"a": np.arange(100)}, np.zeros(100), rng=np.random.default_rng(0)) == ()


def test_negative_losses_are_refused():
    with pytest.raises(NotMeasurable, match="at least 0"):
        find_slices({"a": np.arange(3)}, [-1, 0, 1], rng=np.random.default_rng(0))


def test_weight_outside_its_range_is_refused():
    with pytest.raises(InvalidSetting, match="weight"):
        search({"a": np.arange(3)}, np.ones(3), min_rows=1, n_slices=1, size_weight=1.0)
