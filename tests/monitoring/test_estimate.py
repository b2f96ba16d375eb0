import numpy as np
import pytest

from tidegate.evaluation.metric import NotMeasurable, auc
from tidegate.monitoring.estimate import (
    CalibratedEstimator,
    ScoreTable,
    by_name,
    calibrate,
    expected_figures,
    fused,
    realised_figures,
    score_table,
)


def drawn(n_rows, *, seed, low=0.0, bend=1.0):
    rng = np.random.default_rng(seed)
    scores = low + (1 - low) * rng.beta(1.2, 3.0, n_rows)
    return scores, (rng.random(n_rows) < scores**bend).astype(float)


def exact(scores, *, threshold=0.5):
    """The figures of the single rows, without bins."""
    acted = scores >= threshold
    tp, fp = scores[acted].sum(), (1 - scores[acted]).sum()
    fn = scores[~acted].sum()
    order = np.argsort(scores)
    c = scores[order]
    before = np.cumsum(1 - c) - (1 - c)
    return {
        "accuracy": (tp + (1 - scores[~acted]).sum()) / len(scores),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "brier": (scores * (1 - scores)).mean(),
        "auc": (c * (before + (1 - c) / 2)).sum() / (c.sum() * (1 - c).sum()),
    }


def test_bins_give_the_figures_of_the_rows_to_a_thousandth():
    scores, labels = drawn(20_000, seed=0)
    estimator = CalibratedEstimator(
        scores, labels, chunk=np.zeros(20_000, np.int64), rng=np.random.default_rng(0)
    )
    table = estimator.table(scores)
    found = expected_figures(table, table.scores, threshold=0.5)

    for name, value in exact(scores).items():
        assert found[name].value == pytest.approx(value, abs=1e-3), name


def test_tables_of_scores_merge():
    scores, _ = drawn(1_000, seed=1)
    cuts = np.linspace(0.1, 0.9, 9)

    merged = score_table(scores[:300], cuts) + score_table(scores[300:], cuts)

    assert merged.counts.tolist() == score_table(scores, cuts).counts.tolist()
    assert merged.scores == pytest.approx(score_table(scores, cuts).scores)


def test_deviations_are_those_of_drawn_labels():
    scores, _ = drawn(2_000, seed=2)
    table = score_table(scores, np.linspace(0.01, 0.99, 99))
    rng = np.random.default_rng(3)
    draws = [
        realised_figures(scores, (rng.random(2_000) < scores).astype(float), threshold=0.5)
        for _ in range(300)
    ]

    for name, each in expected_figures(table, table.scores, threshold=0.5, rng=rng).items():
        assert each.deviation == pytest.approx(np.std([draw[name] for draw in draws]), rel=0.2), name


def test_covariate_shift_is_estimated_and_the_constant_is_not():
    reference, labels = drawn(30_000, seed=4, bend=1.3)
    scores, came = drawn(10_000, seed=5, low=0.3, bend=1.3)
    estimator = CalibratedEstimator(
        reference, labels, chunk=np.arange(30_000) // 5_000, rng=np.random.default_rng(0)
    )
    found = by_name(estimator.cbpe(estimator.table(scores)))
    realised = realised_figures(scores, came, threshold=0.5)
    constant = realised_figures(reference, labels, threshold=0.5)

    assert estimator.recalibrated
    for name in ("accuracy", "f1", "brier", "auc"):
        assert found[name].low <= realised[name] <= found[name].high, name
        assert abs(found[name].value - realised[name]) < abs(constant[name] - realised[name]), name


def test_pape_falls_back_where_weights_leave_too_few_rows_and_says_so():
    scores, labels = drawn(5_000, seed=6)
    estimator = CalibratedEstimator(
        scores, labels, chunk=np.arange(5_000) // 1_000, rng=np.random.default_rng(0)
    )
    table = estimator.table(scores)
    few = np.zeros(5_000)
    few[:20] = 1.0

    assert {each.method for each in estimator.pape(table, np.ones(5_000))} == {"pape"}
    fallen = estimator.pape(table, few)
    assert {each.method for each in fallen} == {"cbpe"}
    assert fallen[0].effective_rows == pytest.approx(20)
    assert "too few rows" in fallen[0].blind


def test_calibration_grows_with_the_score_and_keeps_the_events():
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 50, 40).astype(float)
    events = np.floor(counts * rng.random(40))

    chances = calibrate(ScoreTable(counts, counts * np.linspace(0, 1, 40)), events)

    assert (np.diff(chances) >= 0).all()
    assert (chances * counts).sum() == pytest.approx(events.sum())


def test_auc_of_certain_scores_is_that_of_the_labels():
    scores = np.array([0.0, 0.0, 1.0, 1.0])
    table = score_table(scores, np.array([0.5]))

    assert expected_figures(table, table.scores, threshold=0.5)["auc"].value == 1.0
    assert auc(scores, scores) == 1.0


def test_fused_estimate_is_unbiased_where_labels_are_chosen_and_the_model_is_wrong():
    """Labels come more often where the loss is high; the estimates are far off; propensities are known."""
    rng = np.random.default_rng(8)
    n, inside, naive = 4_000, 0, []
    for _ in range(60):
        loss = rng.random(n)
        propensity = 0.05 + 0.4 * loss
        labelled = rng.random(n) < propensity
        _, interval = fused(
            np.full(n, 0.1) + 0.5 * loss, np.where(labelled, loss, np.nan), propensity, level=0.95
        )
        inside += interval.low <= loss.mean() <= interval.high
        naive.append(loss[labelled].mean())

    assert inside >= 52
    assert np.mean(naive) > 0.6


def test_labels_without_propensity_are_refused():
    with pytest.raises(NotMeasurable, match="propensities"):
        fused([0.1], [1.0], [0.0])


def test_fused_estimate_of_one_day_has_no_interval_and_few_days_are_not_too_sure():
    """Days differ, and one of them may have nearly all rows: what then is sure is very little."""
    rng = np.random.default_rng(4)
    assert fused([0.2, 0.2], [0.1, 0.4], [1.0, 1.0], cluster=np.zeros(2, np.int64))[1] is None
    assert fused([0.2], [0.1], [1.0])[1] is None

    for sizes in ([100, 100], [500, 5], [40, 40, 400], [60] * 7):
        day = np.repeat(np.arange(len(sizes)), sizes)
        inside = 0
        for _ in range(300):
            loss = 0.3 + rng.normal(scale=0.05, size=len(sizes))[day] + rng.normal(scale=0.1, size=len(day))
            _, interval = fused(np.full(len(day), 0.3), loss, 1.0, cluster=day)
            inside += interval.low <= 0.3 <= interval.high
        assert inside >= 0.9 * 300, sizes
