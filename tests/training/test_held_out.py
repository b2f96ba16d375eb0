"""A trial's rows come back as they were, and rows that a model has learnt from are told from others."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.core.error import Corrupt, InvalidSetting
from tidegate.training.held_out import (
    leaks_of,
    read_answers,
    read_held_out,
    read_rows,
    seen_before,
    store_trial,
)
from tidegate.training.trial import Trial

RNG = np.random.default_rng(0)
ROWS = pl.DataFrame(
    {
        "x": RNG.normal(size=900).tolist(),
        "name": [None if number % 7 == 0 else f"n{number % 50}" for number in range(900)],
        "late": RNG.integers(0, 2, 900),
        "day": np.arange(900) // 30,
        "remark": ["not an input"] * 900,
    }
)


@pytest.fixture
def store(tmp_path):
    return LocalArtifactStore(tmp_path / "artifacts")


def kept(store, first, last, **options):
    train, test = (
        ROWS.filter(pl.col("day").is_between(*days)) for days in ((first, last - 1), (last, last + 5))
    )
    predicted = np.linspace(0, 1, len(test))
    trial = Trial(train=train, test=test, target="late", predicted=predicted, group="day", **options)
    return read_held_out(store, store_trial(store, trial, inputs=["x", "name"])), test, predicted


def test_rows_and_answers_come_back_and_only_what_counts_is_kept(store):
    held_out, test, predicted = kept(store, 0, 20, refitted=True)

    rows = read_rows(store, held_out.test)
    assert rows.keys() == {"x", "name", "late", "day"}
    assert rows["x"].tolist() == test["x"].to_list()
    assert rows["name"].tolist() == test["name"].to_list()
    assert read_answers(store, held_out).tolist() == predicted.tolist()
    assert (held_out.n_train, held_out.n_test, held_out.refitted) == (600, 180, True)


def test_rows_that_a_model_was_fitted_on_are_found_gaps_included(store):
    champion, *_ = kept(store, 0, 20)
    candidate, test, _ = kept(store, 0, 17)

    seen = seen_before(store, candidate.test, [champion.train], ignoring={"day"})

    assert seen.tolist() == (test["day"] < 20).to_list()
    assert not seen_before(store, champion.test, [champion.train], ignoring={"day"}).any()


def test_the_same_rows_are_stored_once(store):
    one, *_ = kept(store, 0, 20)
    again, *_ = kept(store, 0, 20)

    assert one == again


def test_a_feature_that_is_the_outcome_is_found(store):
    leaky = ROWS.with_columns(name=pl.col("late").cast(pl.String))
    trial = Trial(train=leaky[:600], test=leaky[600:], target="late", predicted=np.zeros(300))
    held_out = read_held_out(store, store_trial(store, trial, inputs=["x", "name"]))

    assert [leak["column"] for leak in leaks_of(store, held_out, ["x", "name"])] == ["name"]


def test_rows_too_few_to_tell_of_leaks_are_not_taken_for_clean(store):
    trial = Trial(train=ROWS[:12], test=ROWS[12:24], target="late", predicted=np.zeros(12))
    held_out = read_held_out(store, store_trial(store, trial, inputs=["x", "name"]))

    with pytest.raises(InvalidSetting, match="too few to tell"):
        leaks_of(store, held_out, ["x", "name"])


def test_something_else_is_no_trial(store):
    with pytest.raises(Corrupt, match="cannot be read"):
        read_held_out(store, store.put_bytes(b"[1]"))
