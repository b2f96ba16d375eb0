"""Each cause, planted on purpose, is the one that is named."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from tidegate.adapter.runtime.learner import fit_boosted_classifier
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.training.diagnosis import Cause, diagnose
from tidegate.training.learner import fit_linear_classifier
from tidegate.training.trial import Trial

SCHEMA = Schema((Field("x", DataType.FLOAT64), Field("z", DataType.FLOAT64)))


def rows(seed, n=3000, *, shift=0.0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "x": rng.normal(size=n) + shift,
            "z": rng.normal(size=n),
            "other": rng.integers(0, 2, n),
            "at": np.arange(n),
        }
    )


def labelled(table, score, seed, *, sharp=4.0):
    rng = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-sharp * score(table)))
    return table.with_columns(y=pl.Series((rng.random(len(table)) < chance).astype(int)))


def trial_of(train, test, learner=fit_linear_classifier, names=("x", "z")):
    def fit(known):
        model = learner(known.select(names), known["y"].to_numpy().astype(np.int64), 2)
        return lambda asked: model(asked.select(names))[:, 1]

    return Trial(train=train, test=test, target="y", predicted=fit(train)(test), fit=fit)


def named(trial, **given):
    found = diagnose(trial, SCHEMA, **given)
    return [each.cause for each in found.likely], {each.cause: each for each in found.findings}


def line(table):
    return (table["x"] + table["z"]).to_numpy()


def test_a_sound_model_has_nothing_but_chance_against_it():
    likely, found = named(
        trial_of(labelled(rows(0), line, 1), labelled(rows(2), line, 3)), reference=fit_boosted_classifier
    )

    assert likely == []
    assert all(each.remedy == "" for each in found.values())
    assert set(found) == set(Cause)


def test_flipped_labels_are_noise():
    train, test = labelled(rows(0), line, 1, sharp=20), labelled(rows(2), line, 3, sharp=20)
    rng = np.random.default_rng(4)
    train, test = (
        part.with_columns(y=pl.Series(np.where(rng.random(len(part)) < 0.15, 1 - part["y"], part["y"])))
        for part in (train, test)
    )

    likely, found = named(trial_of(train, test), reference=fit_boosted_classifier)

    assert likely == [Cause.LABEL_NOISE]
    assert found[Cause.LABEL_NOISE].figures[0].value == pytest.approx(0.15, abs=0.06)
    assert "data labels" in found[Cause.LABEL_NOISE].remedy


def test_an_outcome_that_is_rare_and_missed_is_imbalance():
    def rare(table):
        return line(table) * 0.3 - 0.8

    likely, found = named(trial_of(labelled(rows(0), rare, 1), labelled(rows(2), rare, 3)))

    assert likely == [Cause.IMBALANCE]
    assert found[Cause.IMBALANCE].figures[0].high < 0.5


def test_a_column_that_explains_the_residuals_is_named_as_missing():
    def hidden(table):
        return line(table) + 1.5 * (table["other"].to_numpy() - 0.5)

    likely, found = named(trial_of(labelled(rows(0), hidden, 1), labelled(rows(2), hidden, 3)))

    assert likely == [Cause.MISSING_FEATURE]
    assert "'other'" in found[Cause.MISSING_FEATURE].remedy
    assert "at explains" not in found[Cause.MISSING_FEATURE].message


def test_another_world_since_training_is_a_shift_and_says_what_moved():
    def later(table):
        return (table["z"] - table["x"]).to_numpy()

    likely, found = named(trial_of(labelled(rows(0), line, 1), labelled(rows(2, shift=1.0), later, 3)))

    assert likely[0] is Cause.RECENT_SHIFT
    assert "x (PSI" in found[Cause.RECENT_SHIFT].message


def test_a_loss_that_falls_is_told_with_an_interval_on_the_same_side():
    train, test = labelled(rows(0), line, 1, sharp=1), labelled(rows(2), line, 3, sharp=20)

    _, found = named(trial_of(train, test))
    said = re.search(r"is ([\d.]+) \[(\S+), (\S+)\] below", found[Cause.RECENT_SHIFT].message)

    value, low, high = map(float, said.groups())
    assert low <= value <= high


def test_a_loss_that_rises_within_the_test_is_a_shift():
    test = rows(2)
    flipped = pl.concat([labelled(test[:1500], line, 3), labelled(test[1500:], lambda t: -line(t), 4)])

    trial = trial_of(labelled(rows(0), line, 1), flipped)
    likely, found = named(Trial(trial.train, trial.test, "y", trial.predicted), event_time="at")

    assert likely[0] is Cause.RECENT_SHIFT
    assert found[Cause.RECENT_SHIFT].figures[0].name == "rise_within_test"


def test_a_line_through_a_circle_has_too_little_capacity():
    def circle(table):
        return (table["x"] ** 2 + table["z"] ** 2).to_numpy() - 1.4

    likely, _ = named(
        trial_of(labelled(rows(0), circle, 1), labelled(rows(2), circle, 3)), reference=fit_boosted_classifier
    )

    assert likely == [Cause.TOO_LITTLE_CAPACITY]


def test_a_model_that_learns_by_heart_has_too_much_capacity():
    def by_heart(known, given, n_classes):
        points = known.to_numpy()

        def predict(asked):
            nearest = ((asked.to_numpy()[:, None] - points[None]) ** 2).sum(axis=2).argmin(axis=1)
            one = np.where(given[nearest] == 1, 0.95, 0.05)
            return np.column_stack([1 - one, one])

        return predict

    train, test = labelled(rows(0, 600), line, 1, sharp=1), labelled(rows(2, 600), line, 3, sharp=1)
    likely, found = named(trial_of(train, test, by_heart))

    assert Cause.TOO_MUCH_CAPACITY in likely
    assert "feasibility" in found[Cause.TOO_MUCH_CAPACITY].remedy


def test_what_cannot_be_looked_into_is_not_known():
    trial = trial_of(labelled(rows(0, 200), line, 1), labelled(rows(2, 200), line, 3))
    bare = Trial(trial.train.drop("other"), trial.test.drop("other", "at"), "y", trial.predicted)

    _, found = named(bare)

    assert {cause for cause, each in found.items() if each.likely is None} >= {
        Cause.RECENT_SHIFT,
        Cause.TOO_LITTLE_CAPACITY,
        Cause.TOO_MUCH_CAPACITY,
        Cause.MISSING_FEATURE,
    }


def test_a_few_wild_outcomes_of_a_number_are_noise():
    rng = np.random.default_rng(0)
    table = rows(0, 1000)
    y = table["x"].to_numpy() + 0.1 * rng.normal(size=1000)
    y[::125] += 30
    test = table.with_columns(y=pl.Series(y))

    found = diagnose(Trial(test, test, "y", table["x"].to_numpy()), SCHEMA)

    assert found.measure == "squared_error"
    assert [each.cause for each in found.likely] == [Cause.LABEL_NOISE]
