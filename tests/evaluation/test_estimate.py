"""A handful of rows or groups gives a figure and no interval: one cluster drawn again is always the same."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.evaluation.assessment import Subject, assess_regression
from tidegate.evaluation.calibration import calibration
from tidegate.evaluation.classification import binary, multiclass
from tidegate.evaluation.ranking import ranking
from tidegate.evaluation.regression import forecast, regression
from tidegate.evaluation.report import render

N = 120


@pytest.mark.parametrize(("n_groups", "is_drawn"), [(1, False), (2, False), (9, False), (10, True)])
def test_few_groups_give_no_interval(n_groups, is_drawn):
    rng = np.random.default_rng(0)
    event, chance = rng.random(N) < 0.4, rng.random(N)
    cluster = np.arange(N) % n_groups * 3  # numbers without a group are none

    figures = [
        *binary(event, chance, rng=rng, cluster=cluster),
        *regression(event, chance, rng=rng, cluster=cluster),
    ]

    assert {each.name for each in figures} >= {"auc", "recall", "mae"}
    for each in figures:
        assert each.value is not None
        assert (each.low is not None, each.method == "bootstrap") == (is_drawn, is_drawn)


@pytest.mark.parametrize(("n_rows", "is_drawn"), [(1, False), (9, False), (10, True)])
def test_few_rows_give_no_interval(n_rows, is_drawn):
    rng = np.random.default_rng(0)
    values, chance = rng.normal(size=n_rows), rng.uniform(0.1, 0.9, n_rows)
    event, history = np.arange(n_rows) % 2, np.arange(20.0) ** 2
    shares = np.stack([chance, 1 - chance], axis=1)

    figures = [
        *regression(values, values + 1, rng=rng),
        *forecast(values, values + 1, history=history, rng=rng),
        *ranking(np.arange(n_rows), event, chance, rng=rng),
        *(each for each in multiclass(event, shares, (0, 1), rng=rng) if each.method != "wilson"),
        calibration(event, chance, rng=rng).debiased,
    ]

    with_values = [each for each in figures if each.value is not None]
    assert all((each.low is not None) == is_drawn for each in with_values)
    assert {"mae", "mase", "log_loss", "calibration_error"} <= {each.name for each in with_values}


def test_the_report_says_why_there_is_no_interval():
    values = np.arange(40.0)
    subject = Subject(outcomes=values, predictions=values + 1, cluster=np.arange(40) % 2)

    report = assess_regression(subject, rng=np.random.default_rng(0))

    assert "2 groups of rows are no basis for one; 10 are needed" in render(report)
    assert "mae                      1\n" in render(report)
