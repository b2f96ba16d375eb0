"""Data with a pattern, with none, and with one that a table holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

import tidegate as tg
from tidegate.contract.schema import DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.training.feasibility import Permutation, assess

SCHEMA = Schema((Field("x", DataType.FLOAT64), Field("k", DataType.STRING)))


def rows(n, seed, *, strength):
    rng = np.random.default_rng(seed)
    x, k = rng.normal(size=n), rng.integers(0, 4, n)
    chance = 1 / (1 + np.exp(-strength * x))
    return pl.DataFrame(
        {"x": x, "k": [f"k{number}" for number in k], "late": (rng.random(n) < chance).astype(int)}
    )


def to_pandas(frame):
    return pd.DataFrame(frame.to_dict(as_series=False))


def trial(strength, *, form=lambda frame: frame, fit=None):
    train, test = rows(600, 1, strength=strength), rows(1000, 2, strength=strength)
    predicted = 1 / (1 + np.exp(-strength * test["x"].to_numpy()))
    return tg.Trial(train=form(train), test=form(test), target="late", predicted=predicted, fit=fit)


@pytest.mark.parametrize(
    "form", [lambda frame: frame, to_pandas, lambda frame: frame.to_dict(as_series=False)]
)
def test_a_pattern_is_found_in_every_form_of_table(form):
    found = assess(trial(2.0, form=form), SCHEMA, by=["k"], n_shuffles=19)

    assert found.permutation.p_value == pytest.approx(1 / 20)
    assert found.learner == "linear"
    assert [point.n_rows for point in found.curve] == [75, 150, 300, 600]
    assert found.findings()[0].startswith("There is a pattern")
    assert found.findings()[1].startswith("A lookup by k is not enough")


def test_where_there_is_none_none_is_claimed():
    found = assess(trial(0.0), SCHEMA, by=["k"])

    assert found.permutation.p_value > 0.05
    assert found.findings()[0].startswith("No pattern was shown")
    assert found.findings()[1].startswith("A lookup by k may be enough")


@pytest.mark.slow
def test_outcomes_without_a_pattern_are_called_one_as_seldom_as_promised():
    p_values = [
        assess(
            tg.Trial(
                train=rows(64, seed, strength=0),
                test=rows(64, 1000 + seed, strength=0),
                target="late",
                predicted=np.full(64, 0.5),
            ),
            SCHEMA,
            n_shuffles=19,
        ).permutation.p_value
        for seed in range(40)
    ]

    assert sum(p <= 0.05 for p in p_values) <= 6  # 2 expected; 7 or more has a chance of 0.3%


def test_the_candidate_s_own_fit_is_used_on_tables_of_its_own_kind():
    seen = []

    def fit(table):
        seen.append((type(table), len(table), table["late"].to_numpy().sum()))
        share = table["late"].to_numpy().mean()
        return lambda asked: np.full(len(asked), share)

    found = assess(trial(1.0, form=to_pandas, fit=fit), SCHEMA, n_shuffles=19)

    assert found.learner == "candidate"
    assert {kind for kind, _, _ in seen} == {pd.DataFrame}
    assert [n_rows for _, n_rows, _ in seen] == [75, 150, 300, *[600] * 20]
    assert len({total for _, n_rows, total in seen if n_rows == 600}) == 1  # shuffling keeps every outcome


def test_the_p_value_counts_the_true_order_among_the_shuffled():
    assert Permutation(10, 0.5, (0.4, 0.5, 0.6)).p_value == 3 / 4


def test_too_few_shuffles_or_rows_are_refused():
    few = trial(1.0)
    few = tg.Trial(train=few.train[:8], test=few.test, target="late", predicted=few.predicted)

    with pytest.raises(InvalidSetting, match="at least 19"):
        assess(trial(1.0), SCHEMA, n_shuffles=5)
    with pytest.raises(InvalidSetting, match="at least 16 training rows"):
        assess(few, SCHEMA)
