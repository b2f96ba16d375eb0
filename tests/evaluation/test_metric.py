"""Figures agree with scikit-learn, and refuse what they are not defined for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from tidegate.evaluation import metric

outcomes_and_predictions = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int8, n, elements=st.integers(0, 1)),
        # Twentieths give ties, which is where ranks go wrong.
        hnp.arrays(np.float64, n, elements=st.integers(0, 20).map(lambda step: step / 20)),
    )
)


@given(outcomes_and_predictions)
@settings(max_examples=15)
def test_auc_equals_scikit_learn_with_ties(rows):
    happened, predicted = rows
    assume(0 < happened.sum() < len(happened))

    assert metric.auc(happened, predicted) == pytest.approx(oracle.roc_auc_score(happened, predicted))


@given(outcomes_and_predictions)
@settings(max_examples=15)
def test_auc_is_mirrored_when_outcomes_are_swapped(rows):
    happened, predicted = rows
    assume(0 < happened.sum() < len(happened))

    assert metric.auc(happened, predicted) + metric.auc(1 - happened, predicted) == pytest.approx(1)


@given(outcomes_and_predictions)
@settings(max_examples=15)
def test_brier_equals_scikit_learn(rows):
    happened, predicted = rows

    assert metric.brier(happened, predicted) == pytest.approx(oracle.brier_score_loss(happened, predicted))


@given(outcomes_and_predictions)
@settings(max_examples=15)
def test_log_loss_equals_scikit_learn_away_from_certainty(rows):
    happened, predicted = rows
    predicted = 0.01 + 0.98 * predicted

    assert metric.log_loss(happened, predicted) == pytest.approx(
        oracle.log_loss(happened, predicted, labels=[0, 1])
    )


def test_log_loss_of_a_certain_error_is_finite():
    assert metric.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-15))


@given(outcomes_and_predictions, st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_calibration_does_not_depend_on_the_order_of_rows(rows, random):
    happened, predicted = rows
    order = list(range(len(happened)))
    random.shuffle(order)

    first, second = (
        metric.calibration(happened, predicted),
        metric.calibration(happened[order], predicted[order]),
    )

    assert [each.n_rows for each in first] == [each.n_rows for each in second]
    assert [each.observed for each in first] == pytest.approx([each.observed for each in second])


@given(outcomes_and_predictions)
@settings(max_examples=15)
def test_calibration_bins_hold_every_row_once(rows):
    happened, predicted = rows

    bins = metric.calibration(happened, predicted)

    assert sum(each.n_rows for each in bins) == len(happened)
    assert all(each.n_rows > 0 for each in bins)
    assert sum(each.n_rows * each.observed for each in bins) == pytest.approx(happened.sum())


def test_calibration_error_is_zero_when_each_rate_comes_true():
    happened = np.array([0, 0, 0, 1] * 5 + [1, 1, 1, 0] * 5)
    predicted = np.array([0.25] * 20 + [0.75] * 20)

    assert metric.calibration_error(happened, predicted, n_bins=2) == pytest.approx(0)
    assert metric.calibration_error(1 - happened, predicted, n_bins=2) == pytest.approx(0.5)


def test_report_of_one_kind_of_outcome_has_no_auc():
    report = metric.binary_report([0, 0], [0.1, 0.3])

    assert np.isnan(report.auc)
    assert report.base_rate == 0
    assert report.mean_prediction == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("happened", "predicted"),
    [
        ([], []),
        ([0, 1], [0.5]),
        ([[0], [1]], [[0.5], [0.5]]),
        ([0, 2], [0.5, 0.5]),
        ([0, np.nan], [0.5, 0.5]),
        ([0, 1], [0.5, 1.5]),
        ([0, 1], [0.5, np.nan]),
    ],
)
def test_report_refuses_what_is_no_probability_of_an_event(happened, predicted):
    with pytest.raises(metric.NotMeasurable):
        metric.binary_report(happened, predicted)


def test_auc_refuses_a_single_kind_of_outcome():
    with pytest.raises(metric.NotMeasurable, match="only one kind"):
        metric.auc([1, 1], [0.2, 0.3])
