"""Importance and contributions equal what they are for models that are known."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.importance import contributions, importance, wrong
from tidegate.evaluation.metric import NotMeasurable


def columns(n_rows=1500):
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=n_rows), "b": rng.normal(size=n_rows), "unused": rng.normal(size=n_rows)}


def linear(rows):
    return 3 * rows["a"] - rows["b"]


def test_importance_of_a_linear_model_is_twice_the_variance_of_the_term():
    given = columns()
    outcomes = linear(given) + np.random.default_rng(1).normal(size=1500)

    found = importance(linear, given, outcomes, rng=np.random.default_rng(2))

    assert [each.column for each in found] == ["a", "b", "unused"]
    assert found[0].increase.low < 2 * 9 * given["a"].var() < found[0].increase.high
    assert found[1].increase.low < 2 * given["b"].var() < found[1].increase.high
    assert found[2].increase.value == 0


def test_importance_of_labels_counts_new_errors():
    kind = np.random.default_rng(0).choice(np.array(["x", "y"], dtype=object), 1000)

    (found,) = importance(
        lambda rows: rows["kind"], {"kind": kind}, kind, rng=np.random.default_rng(1), loss=wrong
    )

    assert found.increase.value == pytest.approx(0.5, abs=0.03)


def test_contributions_of_a_linear_model_are_its_terms_less_their_means():
    rows, background = columns(7), columns(50)

    found = contributions(linear, rows, background)

    assert found["a"] == pytest.approx(3 * (rows["a"] - background["a"].mean()))
    assert found["b"] == pytest.approx(-(rows["b"] - background["b"].mean()))
    assert found["unused"] == pytest.approx(np.zeros(7))


def test_background_without_a_column_is_refused():
    with pytest.raises(InvalidSetting, match="lacks"):
        contributions(linear, columns(2), {"a": np.ones(3)})


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(NotMeasurable, match="finite"):
        importance(lambda rows: rows["a"] * np.nan, columns(), np.zeros(1500), rng=np.random.default_rng(0))
