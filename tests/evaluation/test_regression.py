"""Figures of numbers and forecasts agree with scikit-learn and with definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.regression import forecast, regression


def by_name(estimates):
    return {estimate.name: estimate for estimate in estimates}


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_figures_equal_scikit_learn(offset):
    rng = np.random.default_rng(0)
    observed = rng.normal(size=300) + offset
    predicted = observed + rng.normal(0.2, 0.5, 300)

    found = by_name(regression(observed, predicted, rng=rng))

    assert found["mae"].value == pytest.approx(oracle.mean_absolute_error(observed, predicted))
    assert found["rmse"].value == pytest.approx(oracle.root_mean_squared_error(observed, predicted))
    assert found["r2"].value == pytest.approx(oracle.r2_score(observed, predicted))
    assert found["bias"].value == pytest.approx((predicted - observed).mean())
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high, estimate


def test_interval_of_the_error_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    truth = np.sqrt(2 / np.pi)  # mean |N(0, 1)|
    covered = 0
    for _ in range(60):
        error = rng.normal(size=150)
        mae = by_name(regression(np.zeros(150), error, rng=rng))["mae"]
        covered += mae.low <= truth <= mae.high

    assert covered >= 51  # 57 are due; below 51 has a probability of 0.4%


def test_constant_outcomes_have_no_r2():
    assert by_name(regression([2, 2], [1, 2], rng=np.random.default_rng(0)))["r2"].value is None


def test_missing_numbers_are_refused():
    with pytest.raises(NotMeasurable, match="1 are not"):
        regression([1.0, 2.0], [1.0, float("nan")], rng=np.random.default_rng(0))


def test_forecast_figures_equal_scikit_learn_and_the_definition():
    rng = np.random.default_rng(0)
    history, observed = rng.normal(size=48), rng.normal(size=24)
    predicted, low = rng.normal(size=24), rng.normal(-1, 1, 24)

    found = by_name(
        forecast(observed, predicted, history=history, season=12, quantiles={0.1: low}, rng=rng, block=4)
    )

    mae = oracle.mean_absolute_error(observed, predicted)
    naive = np.mean([abs(history[i] - history[i - 12]) for i in range(12, 48)])
    assert found["mae"].value == pytest.approx(mae)
    assert found["mase"].value == pytest.approx(mae / naive)
    assert found["pinball[0.1]"].value == pytest.approx(oracle.mean_pinball_loss(observed, low, alpha=0.1))
    assert found["coverage[0.1]"].value == pytest.approx((observed <= low).mean())


def test_blocks_widen_the_interval_where_errors_stay_alike():
    rng = np.random.default_rng(0)
    error = np.repeat(rng.normal(size=40), 25)
    width = {}
    for block in (1, 25):
        mae = by_name(forecast(np.zeros(1000), error, history=[0, 1], rng=rng, block=block))["mae"]
        width[block] = mae.high - mae.low

    assert width[25] > 3 * width[1]


def test_history_without_change_has_no_scale():
    with pytest.raises(NotMeasurable, match="MASE"):
        forecast([1.0], [1.0], history=[2.0, 2.0, 2.0], rng=np.random.default_rng(0))


def test_quantile_outside_its_range_is_refused():
    with pytest.raises(InvalidSetting, match="quantile"):
        forecast([1.0], [1.0], history=[2.0, 3.0], quantiles={1.5: [1.0]}, rng=np.random.default_rng(0))
