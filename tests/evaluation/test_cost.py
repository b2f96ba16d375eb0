"""The threshold is the best there is, and its value is told without having chosen on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.cost import best_threshold, value
from tidegate.evaluation.declaration import CostMatrix

MATRIX = CostMatrix(
    true_positive=80, false_positive=-20, false_negative=-100, true_negative=0, currency="EUR"
)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-4, 4)), min_size=1, max_size=15))
@settings(max_examples=60)
def test_no_threshold_is_better(rows):
    predicted, gains = (np.array(column, dtype=float) for column in zip(*rows, strict=True))

    chosen = best_threshold(predicted, gains)

    best = max(gains[predicted >= candidate].sum() for candidate in np.arange(0, 7.5, 0.5))
    assert gains[predicted >= chosen].sum() == pytest.approx(best)


def test_threshold_of_theory_is_the_indifferent_probability():
    threshold = MATRIX.threshold()

    assert threshold == pytest.approx(0.1)
    acting = threshold * MATRIX.true_positive + (1 - threshold) * MATRIX.false_positive
    waiting = threshold * MATRIX.false_negative + (1 - threshold) * MATRIX.true_negative
    assert acting == pytest.approx(waiting)


def test_calibrated_predictions_are_worth_what_theory_says():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=20_000)
    happened = rng.uniform(size=20_000) < predicted

    found = value(happened, predicted, MATRIX, rng=rng)

    # E[max(80p - 20(1-p), -100p)] over uniform p: -0.5 up to 0.1, then 49.5 - 18
    assert found.per_prediction.low < 31.0 < found.per_prediction.high
    assert found.never.value == pytest.approx(-50, abs=1)
    assert found.always.value == pytest.approx(30, abs=1)
    assert found.threshold == pytest.approx(0.1, abs=0.03)
    assert found.over_trivial.value == pytest.approx(1.0, abs=0.4)
    assert found.currency == "EUR"


def test_predictions_without_any_information_add_nothing():
    rng = np.random.default_rng(1)
    adds = []
    for _ in range(15):
        happened = rng.uniform(size=200) < 0.12
        adds.append(value(happened, rng.uniform(size=200), MATRIX, rng=rng).over_trivial.value)

    assert np.mean(adds) < 0  # chosen and valued on the same rows it would be above 0


def test_matrix_with_a_wrong_sign_is_refused():
    with pytest.raises(InvalidSetting, match="signs"):
        CostMatrix(80, 20, -100, 0, "EUR").threshold()
