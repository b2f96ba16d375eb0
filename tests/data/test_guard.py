"""A poisoned batch is held, a batch like the others is not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting
from tidegate.data.guard import DepartureKind, guard_batch


def batch(seed, n=800, *, rate=0.3, shift=0.0, cities=("a", "b", "c"), wander=0.03):
    rng = np.random.default_rng(seed)
    rate += rng.normal(0, wander)
    return pl.DataFrame(
        {
            "amount": rng.lognormal(3 + shift, 1, n),
            "city": rng.choice(list(cities), n),
            "who": [f"customer {at}" for at in rng.integers(0, 10**9, n)],
            "fraud": (rng.random(n) < rate).astype(int),
        }
    )


HISTORY = [batch(seed) for seed in range(6)]


def test_batches_like_the_others_pass():
    verdicts = [guard_batch(batch(100 + seed), HISTORY, label="fraud").verdict for seed in range(40)]

    assert verdicts.count(Verdict.REGRESSED) <= 2


@pytest.mark.parametrize(
    ("poisoned", "kind", "column"),
    [
        (batch(7, rate=0.6), DepartureKind.LABEL_RATE, "fraud = 1"),
        (batch(7, shift=1.0), DepartureKind.DISTRIBUTION, "amount"),
        (batch(7, cities=("a", "b", "x")), DepartureKind.DISTRIBUTION, "city"),
        (batch(7).with_columns(pl.col("amount").cast(pl.String)), DepartureKind.COLUMNS, "amount"),
        (batch(7).drop("city"), DepartureKind.COLUMNS, "city"),
        (batch(7).with_columns(fraud=pl.lit(0, pl.Int64)), DepartureKind.LABEL_RATE, "fraud = 1"),
    ],
    ids=["label rate", "shifted", "unseen category", "type", "missing column", "one label"],
)
def test_a_batch_that_departs_is_named_with_its_figure(poisoned, kind, column):
    report = guard_batch(poisoned, HISTORY, label="fraud")

    assert report.verdict is Verdict.REGRESSED
    assert (report.departures[0].kind, report.departures[0].column) == (kind, column)
    assert column.split(" =")[0] in report.departures[0].message


def test_a_source_that_varies_much_is_given_room():
    wild = [batch(seed, rate=0.3, wander=0.15, shift=seed % 3) for seed in range(9)]

    report = guard_batch(batch(50, rate=0.45, shift=1, wander=0), wild, label="fraud")

    assert report.verdict is Verdict.SAFE


def test_too_little_history_decides_nothing():
    report = guard_batch(batch(9, rate=0.9), HISTORY[:2], label="fraud")

    assert report.verdict is Verdict.UNDECIDED
    assert (report.n_batches, report.departures) == (2, ())


def test_names_are_not_judged_and_hidden_columns_not_spoken_of():
    report = guard_batch(batch(8, shift=2.0), HISTORY, hidden=["amount"])

    assert report.not_judged == ("who",)
    assert report.verdict is Verdict.SAFE


def test_a_label_that_is_not_there_is_refused():
    with pytest.raises(InvalidSetting, match="no column 'late'"):
        guard_batch(batch(1), HISTORY, label="late")
