"""Figures of classifiers agree with scikit-learn; their intervals cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.classification import binary, delong, multiclass
from tidegate.evaluation.metric import NotMeasurable

rows = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int8, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(0, 20).map(lambda step: step / 20)),
    )
)


def by_name(estimates):
    return {estimate.name: estimate for estimate in estimates}


@given(rows)
@settings(max_examples=8)
def test_binary_figures_equal_scikit_learn(pair):
    happened, predicted = pair
    decided = predicted >= 0.5
    assume(0 < happened.sum() < len(happened))
    assume(0 < decided.sum() < len(decided))

    found = by_name(binary(happened, predicted, rng=np.random.default_rng(0)))

    expected = {
        "auc": oracle.roc_auc_score(happened, predicted),
        "brier": oracle.brier_score_loss(happened, predicted),
        "f1": oracle.f1_score(happened, decided),
        "matthews": oracle.matthews_corrcoef(happened, decided),
        "accuracy": oracle.accuracy_score(happened, decided),
        "precision": oracle.precision_score(happened, decided),
        "recall": oracle.recall_score(happened, decided),
        "specificity": oracle.recall_score(1 - happened, ~decided),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value), name
    # scikit-learn clips at another floor; compared where none is reached
    if predicted.min() > 0 and predicted.max() < 1:
        assert found["log_loss"].value == pytest.approx(oracle.log_loss(happened, predicted))


def test_value_lies_within_its_interval():
    rng = np.random.default_rng(4)
    predicted = rng.uniform(size=500)
    happened = rng.uniform(size=500) < predicted

    for estimate in binary(happened, predicted, rng=rng):
        assert estimate.low < estimate.value < estimate.high, estimate


def test_share_without_rows_has_no_value():
    found = by_name(binary([0, 1], [0.1, 0.2], rng=np.random.default_rng(0)))

    assert found["precision"].value is None
    assert found["precision"].low is None


def test_delong_variance_equals_its_definition():
    rng = np.random.default_rng(7)
    happened = rng.uniform(size=80) < 0.4
    predicted = np.round(rng.normal(size=80) + happened, 1)
    beats = (predicted[happened][:, None] > predicted[~happened]) + 0.5 * (
        predicted[happened][:, None] == predicted[~happened]
    )
    variance = (
        beats.mean(axis=1).var(ddof=1) / happened.sum() + beats.mean(axis=0).var(ddof=1) / (~happened).sum()
    )
    area = beats.mean()

    found = delong(happened, predicted)

    logit = lambda p: np.log(p / (1 - p))  # noqa: E731  # one formula, used thrice
    half = 1.959964 * np.sqrt(variance) / (area * (1 - area))
    assert logit(found.high) - logit(area) == pytest.approx(half, rel=1e-6)
    assert logit(area) - logit(found.low) == pytest.approx(half, rel=1e-6)


def test_delong_covers_the_true_area_as_often_as_it_says():
    rng = np.random.default_rng(11)
    truth = 0.7602499  # Phi(1 / sqrt(2)): scores of two normals one deviation apart
    covered = 0
    for _ in range(400):
        happened = np.arange(90) < 30
        found = delong(happened, rng.normal(size=90) + happened)
        covered += found.low <= truth <= found.high

    assert 0.92 <= covered / 400 <= 0.98


classified = st.integers(3, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 2)),
        hnp.arrays(np.float64, (n, 3), elements=st.integers(1, 9).map(float)),
    )
)


@given(classified)
@settings(max_examples=8)
def test_multiclass_figures_equal_scikit_learn(pair):
    truth, weights = pair
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    decided = probabilities.argmax(axis=1)
    assume(len(set(truth)) == 3)
    names = np.array(["a", "b", "c"], dtype=object)

    found = by_name(multiclass(names[truth], probabilities, list(names), rng=np.random.default_rng(0)))

    assert found["accuracy"].value == pytest.approx(oracle.accuracy_score(truth, decided))
    assert found["balanced_accuracy"].value == pytest.approx(oracle.balanced_accuracy_score(truth, decided))
    assert found["macro_f1"].value == pytest.approx(oracle.f1_score(truth, decided, average="macro"))
    assert found["kappa"].value == pytest.approx(oracle.cohen_kappa_score(truth, decided))
    assert found["log_loss"].value == pytest.approx(oracle.log_loss(truth, probabilities))
    recalls = oracle.recall_score(truth, decided, average=None)
    assert [found[f"recall[{name}]"].value for name in names] == pytest.approx(list(recalls))


def test_outcome_outside_the_classes_is_refused():
    with pytest.raises(NotMeasurable, match="1 outcomes are not among"):
        multiclass(["a", "z"], [[0.5, 0.5], [0.5, 0.5]], ["a", "b"], rng=np.random.default_rng(0))


def test_repeated_class_is_refused():
    with pytest.raises(InvalidSetting, match="two different classes"):
        multiclass(["a"], [[0.5, 0.5]], ["a", "a"], rng=np.random.default_rng(0))


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(NotMeasurable, match="sum to 1"):
        multiclass(["a"], [[0.5, 0.6]], ["a", "b"], rng=np.random.default_rng(0))


def test_rows_that_belong_together_make_intervals_wider_and_leave_figures_alone():
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(30), 60)
    usual = rng.normal(size=1800)
    storm = 1.5 * rng.normal(size=30)[day]  # which the model does not know of
    chance = 1 / (1 + np.exp(-usual))
    happened = rng.random(1800) < 1 / (1 + np.exp(-usual - storm))

    apart = {each.name: each for each in binary(happened, chance, rng=rng)}
    together = {each.name: each for each in binary(happened, chance, rng=rng, cluster=day)}
    singles = {each.name: each for each in binary(happened, chance, rng=rng, cluster=np.arange(1800))}

    assert set(apart) == set(together)
    for name, each in together.items():
        assert each.value == pytest.approx(apart[name].value)
        assert each.method == "bootstrap"
    widths = [each["precision"].high - each["precision"].low for each in (together, apart)]
    assert widths[0] > 1.5 * widths[1]
    for end in ("low", "high"):
        assert getattr(singles["auc"], end) == pytest.approx(getattr(apart["auc"], end), abs=0.01)
