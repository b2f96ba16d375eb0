"""Calibration error is unbiased enough to be 0 where it should; recalibration equals scikit-learn's."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tidegate.core.error import InvalidSetting
from tidegate.evaluation import metric
from tidegate.evaluation.calibration import (
    Recalibration,
    calibration,
    choose_recalibration,
    fit_recalibration,
)
from tidegate.evaluation.metric import NotMeasurable


def drawn(rng, n_rows, *, overconfidence=1.0):
    logit = rng.normal(size=n_rows)
    happened = rng.uniform(size=n_rows) < 1 / (1 + np.exp(-logit))
    return happened, 1 / (1 + np.exp(-overconfidence * logit))


def test_plain_error_equals_the_metric_and_bins_hold_all_rows():
    happened, predicted = drawn(np.random.default_rng(0), 777)

    found = calibration(happened, predicted, rng=np.random.default_rng(0))

    assert found.plain == pytest.approx(metric.calibration_error(happened, predicted))
    assert sum(each.n_rows for each in found.bins) == 777
    assert all(each.low <= each.observed <= each.high for each in found.bins)


def test_debiased_error_of_calibrated_predictions_is_below_the_plain_one():
    rng = np.random.default_rng(1)
    found = [calibration(*drawn(rng, 500), rng=rng, n_replicates=200) for _ in range(40)]

    plain = np.mean([each.plain for each in found])
    debiased = np.mean([each.debiased.value for each in found])
    assert plain > 0.03
    assert debiased < 0.7 * plain
    # perfect calibration is called into question in about one of twenty
    assert sum(each.p_value <= 0.05 for each in found) <= 6
    assert sum(each.debiased.low == 0 for each in found) >= 34


def test_overconfidence_is_found_and_its_interval_covers_the_truth():
    rng = np.random.default_rng(2)
    happened, predicted = drawn(rng, 100_000, overconfidence=3.0)
    truth = calibration(happened, predicted, rng=rng, n_replicates=50).plain
    covered = 0
    for _ in range(40):
        found = calibration(*drawn(rng, 800, overconfidence=3.0), rng=rng, n_replicates=300)
        covered += found.debiased.low <= truth <= found.debiased.high
        assert found.p_value < 0.05

    assert covered >= 34


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.int8, n, elements=st.integers(0, 1)),
            hnp.arrays(np.float64, n, elements=st.integers(0, 20).map(lambda step: step / 20)),
        )
    )
)
@settings(max_examples=30)
def test_isotonic_equals_scikit_learn(rows):
    happened, predicted = rows
    grid = np.linspace(0, 1, 41)

    found = fit_recalibration(happened, predicted, method="isotonic").apply(grid)

    expected = IsotonicRegression(out_of_bounds="clip").fit(predicted, happened).predict(grid)
    assert found == pytest.approx(expected, abs=1e-9)


def test_platt_equals_logistic_regression_on_smoothed_targets():
    rng = np.random.default_rng(0)
    happened, predicted = drawn(rng, 300, overconfidence=2.0)

    slope, intercept = fit_recalibration(happened, predicted, method="platt").x

    n_events, n_others = happened.sum(), (~happened).sum()
    target = np.where(happened, (n_events + 1) / (n_events + 2), 1 / (n_others + 2))
    logit = np.log(predicted / (1 - predicted))[:, None]
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=5000).fit(
        np.r_[logit, logit], np.r_[np.ones(300), np.zeros(300)], np.r_[target, 1 - target]
    )
    assert slope == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert intercept == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_platt_of_one_prediction_gives_the_rate():
    rate = (2 / 3 + 3 * 1 / 5) / 4  # smoothed targets
    rule = fit_recalibration([1, 0, 0, 0], [0.9] * 4, method="platt")

    assert rule.apply([0.1, 0.9]) == pytest.approx([rate, rate])


def test_choice_mends_overconfidence_and_leaves_what_is_right():
    rng = np.random.default_rng(5)
    happened, predicted = drawn(rng, 3000, overconfidence=3.0)
    mended = choose_recalibration(happened, predicted, rng=rng)

    assert mended is not None
    fresh, given_fresh = drawn(rng, 3000, overconfidence=3.0)
    assert metric.brier(fresh, mended.apply(given_fresh)) < metric.brier(fresh, given_fresh)
    assert choose_recalibration(*drawn(np.random.default_rng(0), 3000), rng=rng) is None


def test_recalibration_survives_json():
    rule = fit_recalibration([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9], method="isotonic")

    assert msgspec.json.decode(msgspec.json.encode(rule), type=Recalibration) == rule


def test_unknown_method_is_refused():
    with pytest.raises(InvalidSetting, match="isotonic"):
        fit_recalibration([0, 1], [0.1, 0.2], method="spline")


def test_fewer_rows_than_folds_are_refused():
    with pytest.raises(NotMeasurable, match="folds"):
        choose_recalibration([0, 1], [0.1, 0.2], rng=np.random.default_rng(0))
