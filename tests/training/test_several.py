"""Baselines, feasibility and diagnosis of classes, rankings and forecasts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import tidegate as tg
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.measure import Measure
from tidegate.training.baseline import compare_with_baselines, read_trial
from tidegate.training.diagnosis import Cause, diagnose
from tidegate.training.feasibility import assess

SCHEMA = Schema((Field("a", DataType.FLOAT64), Field("b", DataType.FLOAT64)))
TREES = Measure(task="multiclass", classes=("ash", "birch", "cedar"))
DECIDED = Measure(task="multiclass", classes=TREES.classes, has_scores=False)
INPUTS = ["a", "b"]


def trees(n=900):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n))
    place = np.select([a > 0.6, b + a * a > 0.8], [0, 1], 2)
    place = np.where(rng.random(n) < 0.1, rng.integers(0, 3, n), place)
    return pl.DataFrame({"a": a, "b": b, "tree": np.array(TREES.classes)[place]})


def curved(rows):
    """Fit a model that knows squares, which the linear baseline does not."""
    return LogisticRegression(max_iter=300).fit(_squares(rows), rows["tree"].to_numpy())


def refitted(rows):
    model = curved(rows)
    return lambda asked: model.predict_proba(_squares(asked))


def _squares(rows):
    inputs = rows.select(INPUTS).to_numpy()
    return np.hstack([inputs, inputs**2])


@pytest.fixture(scope="module")
def scored():
    rows = trees()
    model = curved(rows[:500])
    return tg.Trial(
        train=rows[:500],
        test=rows[500:],
        target="tree",
        predicted=model.predict_proba(_squares(rows[500:])),
        fit=refitted,
    )


def test_a_classifier_is_held_against_how_often_each_class_came_and_against_linear_models(scored):
    found = compare_with_baselines(scored, SCHEMA, measure=TREES)

    assert found.measure == "log_loss"
    assert {each.name for each in found.baselines} == {"constant", "linear"}
    assert found.beats_all


def test_decided_classes_are_held_against_decided_classes(scored):
    rows = trees()
    decided = np.array(TREES.classes, dtype=object)[np.asarray(scored.predicted).argmax(axis=1)]

    found = compare_with_baselines(
        tg.Trial(train=rows[:500], test=rows[500:], target="tree", predicted=decided), SCHEMA, measure=DECIDED
    )

    assert found.measure == "share_wrong"
    assert found.loss == pytest.approx((decided != rows[500:]["tree"].to_numpy()).mean())
    assert next(each for each in found.baselines if each.name == "constant").beaten


def test_classes_can_be_examined_for_a_pattern_and_for_why_they_are_mistaken(scored):
    feasible = assess(scored, SCHEMA, measure=TREES, n_shuffles=19)
    findings = {each.cause: each for each in diagnose(scored, SCHEMA, measure=TREES).findings}

    assert feasible.permutation.p_value == 0.05
    assert "'ash'" in findings[Cause.LABEL_NOISE].message
    assert findings[Cause.IMBALANCE].likely is False


def test_probabilities_that_do_not_fit_the_classes_are_refused(scored):
    two = tg.Trial(**{**vars(scored), "predicted": np.asarray(scored.predicted)[:, :2]})

    with pytest.raises(InvalidSetting, match="3 probabilities"):
        compare_with_baselines(two, SCHEMA, measure=TREES)


def test_a_linear_model_answers_as_the_linear_baseline_and_is_as_simple_itself():
    rows = trees().with_columns(tree=(pl.col("a") > 0).cast(pl.Int64))
    model = LogisticRegression().fit(rows[:500].select(INPUTS).to_numpy(), rows[:500]["tree"].to_numpy())
    answered = model.predict_proba(rows[500:].select(INPUTS).to_numpy())[:, 1]

    found = compare_with_baselines(
        tg.Trial(train=rows[:500], test=rows[500:], target="tree", predicted=answered), SCHEMA
    )

    assert {each.name: each.same for each in found.baselines} == {"constant": False, "linear": True}


def lists(n_lists=60):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 10 * n_lists))
    return pl.DataFrame(
        {
            "a": a,
            "b": b,
            "grade": np.clip(np.round(a * a + rng.normal(0, 0.3, len(a))), 0, 3),
            "query": np.repeat(np.arange(n_lists), 10),
            "day": np.repeat(np.arange(n_lists) // 2, 10),
        }
    )


def test_a_ranking_is_held_against_others_list_by_list_and_lists_of_one_day_count_as_one():
    rows, measure = lists(), Measure(task="ranking", query="query")
    trial = tg.Trial(
        train=rows[:300], test=rows[300:], target="grade", predicted=rows[300:]["a"].to_numpy() ** 2
    )

    found = compare_with_baselines(trial, SCHEMA, measure=measure)
    by_day = compare_with_baselines(tg.Trial(**{**vars(trial), "group": "day"}), SCHEMA, measure=measure)

    assert found.beats_all
    assert by_day.n_groups == 15
    with pytest.raises(InvalidSetting, match="ranking"):
        diagnose(trial, SCHEMA, measure=measure)
    with pytest.raises(InvalidSetting, match="'query'"):
        read_trial(tg.Trial(**{**vars(trial), "test": rows[300:].drop("query")}), measure)


def test_a_forecast_is_held_against_the_last_season():
    steps = np.arange(400)
    rng = np.random.default_rng(0)
    load = np.sin(steps * np.pi / 6) + steps / 200 + rng.normal(0, 0.05, 400)
    rows = pl.DataFrame({"a": np.sin(steps * np.pi / 6), "b": steps / 200, "load": load, "at": steps})
    shuffled = rows[250:].sample(fraction=1.0, shuffle=True, seed=0)
    trial = tg.Trial(
        train=rows[:250],
        test=shuffled,
        target="load",
        predicted=shuffled["a"].to_numpy() + shuffled["b"].to_numpy(),
    )

    found = compare_with_baselines(trial, SCHEMA, measure=Measure(task="forecast", season=12, at="at"))

    seasonal = next(each for each in found.baselines if each.name == "seasonal")
    assert found.measure == "absolute_error"
    assert seasonal.beaten
    assert 0.1 < seasonal.loss < 1, "it repeats the season, and misses the rise"
    assert found.n_groups == 13
