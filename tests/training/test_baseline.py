"""A candidate is set beside simple models on the same rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import tidegate as tg
from tidegate.contract.schema import DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.measure import Measure
from tidegate.training.baseline import compare_with_baselines
from tidegate.training.simple import fit_lookup

SCHEMA = Schema((Field("x", DataType.FLOAT64), Field("colour", DataType.STRING)))


def rows(n, seed, *, number=False):
    """Rows whose chance depends on the sign of x and on the colour, together: no line can say it."""
    rng = np.random.default_rng(seed)
    x, red = rng.normal(size=n), rng.random(n) < 0.5
    chance = np.where((x > 0) == red, 0.9, 0.1)
    target = 10 * chance + rng.normal(size=n) if number else (rng.random(n) < chance).astype(int)
    return pl.DataFrame(
        {
            "x": x,
            "colour": np.where(red, "red", "blue"),
            "day": rng.integers(0, 30, n),
            "late": target,
            "chance": chance,
        }
    )


def trial(predicted=None, *, number=False, n_test=2000, **options):
    train, test = rows(4000, 0, number=number), rows(n_test, 1, number=number)
    truth = test["chance"].to_numpy() * (10 if number else 1)
    return tg.Trial(
        train=train, test=test, target="late", predicted=truth if predicted is None else predicted, **options
    )


@pytest.mark.parametrize(("number", "measure"), [(False, "log_loss"), (True, "squared_error")])
def test_a_model_that_knows_more_beats_every_baseline(number, measure):
    found = compare_with_baselines(trial(number=number), SCHEMA, by=["colour"])

    assert found.measure == measure
    assert [each.name for each in found.baselines] == ["constant", "lookup", "linear"]
    assert found.beats_all
    for each in found.baselines:
        assert each.gain.low < each.gain.value < each.gain.high
        assert each.gain.value == pytest.approx(each.loss - found.loss)


def test_a_model_that_is_the_constant_beats_nothing():
    share = float(rows(4000, 0)["late"].mean())

    found = compare_with_baselines(trial(np.full(2000, share)), SCHEMA)

    assert [each.name for each in found.baselines] == ["constant", "linear"]
    assert found.baselines[0].gain.value == 0
    assert not any(each.beaten for each in found.baselines)


def test_the_linear_baseline_sees_what_a_line_can_say():
    rng = np.random.default_rng(0)
    x = rng.normal(size=6000)
    frame = pl.DataFrame({"x": x, "late": (rng.random(6000) < 1 / (1 + np.exp(-2 * x))).astype(int)})
    always = tg.Trial(
        train=frame[:4000], test=frame[4000:], target="late", predicted=np.full(2000, frame["late"].mean())
    )

    found = compare_with_baselines(always, SCHEMA)

    assert found.baselines[-1].gain.high < 0


def test_whole_groups_widen_the_interval_and_a_handful_gives_none():
    surprising = rows(2000, 1).sort((pl.col("late") - pl.col("chance")).abs())
    test = surprising.with_row_index("place").with_columns(block=pl.col("place") // 100)
    model = {"train": rows(4000, 0), "test": test, "target": "late", "predicted": test["chance"].to_numpy()}

    alone = compare_with_baselines(tg.Trial(**model), SCHEMA).baselines[0].gain
    grouped = compare_with_baselines(tg.Trial(**model, group="block"), SCHEMA)
    few = compare_with_baselines(tg.Trial(**model, group="colour"), SCHEMA)

    wide = grouped.baselines[0].gain
    assert grouped.n_groups == 20
    assert wide.value == alone.value
    assert wide.high - wide.low > 2 * (alone.high - alone.low)
    assert few.n_groups == 2
    assert few.baselines[0].gain.low is None
    assert not few.beats_all


def test_a_lookup_answers_each_key_s_mean_and_leans_towards_the_whole():
    columns = {"k": np.array(["a", "a", "a", "b"], object)}

    answer = fit_lookup(columns, np.array([1.0, 1.0, 1.0, 0.0]), ["k"])

    asked = answer({"k": np.array(["a", "b", "c"], object)})
    assert asked.tolist() == [3.75 / 4, 0.75 / 2, 0.75]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"target": "nothing"}, "target 'nothing'"),
        ({"predicted": np.zeros(3)}, "2000 finite"),
        ({"predicted": np.full(2000, 1.5)}, "probabilities"),
        ({"predicted": np.full(2000, np.nan)}, "finite"),
        ({"group": "nothing"}, "group 'nothing'"),
    ],
)
def test_a_trial_that_does_not_hold_together_is_refused(change, fault):
    good = trial()

    with pytest.raises(InvalidSetting, match=fault):
        compare_with_baselines(tg.Trial(**{**vars(good), **change}), SCHEMA)


def test_a_target_with_gaps_is_refused():
    good = trial()
    test = good.test.with_columns(late=pl.when(pl.col("x") > 0).then(pl.col("late").cast(pl.Float64)))

    with pytest.raises(InvalidSetting, match="gaps"):
        compare_with_baselines(tg.Trial(**{**vars(good), "test": test}), SCHEMA)


def test_classes_by_name_are_refused_in_words():
    good = trial()
    named = good.test.with_columns(late=pl.lit("yes"))

    with pytest.raises(InvalidSetting, match="neither 0 and 1 nor a number"):
        compare_with_baselines(tg.Trial(**{**vars(good), "test": named}), SCHEMA)


def test_an_event_told_by_codes_is_refused_until_the_codes_have_names():
    good = trial()
    coded = {
        part: vars(good)[part].with_columns(late=1 + pl.col("late")).select(pl.exclude("chance"))
        for part in ("train", "test")
    }
    told = tg.Trial(**{**vars(good), **coded})

    with pytest.raises(InvalidSetting, match="neither 0/1 nor a share"):
        compare_with_baselines(told, SCHEMA, measure=Measure(task="binary"))
    found = compare_with_baselines(told, SCHEMA, measure=Measure(task="binary", classes=("1", "2")))
    assert found == compare_with_baselines(good, SCHEMA, measure=Measure(task="binary"))
