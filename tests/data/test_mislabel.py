"""Labels that were changed on purpose are found, those that were not are left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from tidegate.adapter.runtime.learner import fit_boosted_classifier
from tidegate.core.error import InvalidSetting
from tidegate.data.mislabel import check_mislabelled, cross_validated, find_mislabelled
from tidegate.training.learner import fit_linear_classifier


def shapes(n=1500, wrong=0.05):
    """Three classes that a line tells apart, and the rows whose label was changed."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, n))
    truth = np.digitize(x + 0.15 * rng.normal(size=n), [-0.5, 0.5])
    changed = rng.random(n) < wrong
    given = np.where(changed, (truth + 1 + rng.integers(0, 2, n)) % 3, truth)
    names = np.array(["circle", "line", "square"], dtype=object)[given]
    return pl.DataFrame({"x": x, "z": z, "shape": names.tolist()}), changed


@pytest.mark.parametrize("learner", [fit_linear_classifier, fit_boosted_classifier])
def test_changed_labels_are_found_and_others_left_alone(learner):
    table, changed = shapes(900)

    report = check_mislabelled(table, "shape", learner, n_folds=3)
    found = np.zeros(len(table), np.bool_)
    found[[each.row for each in report.rows[: changed.sum()]]] = True

    assert changed[found].mean() > 0.6  # some were changed to what a neighbour rightly is
    assert abs(report.share - changed.mean()) < 0.06
    assert report.rows[0].margin >= report.rows[-1].margin
    assert all(each.given != each.suggested for each in report.rows)


@pytest.mark.parametrize("learner", [fit_linear_classifier, fit_boosted_classifier])
@pytest.mark.parametrize("kind", [pl.Float64, pl.Boolean, pl.Date, pl.String])
def test_columns_without_a_value_in_any_fold_or_in_one_are_left_out(learner, kind):
    table, _ = shapes(300)
    lone = pl.when(pl.int_range(pl.len()) == 7).then(1).cast(pl.Int32).cast(kind)

    alone = check_mislabelled(table, "shape", learner)
    found = check_mislabelled(table.with_columns(empty=pl.lit(None, dtype=kind), lone=lone), "shape", learner)

    assert found.n_rows == alone.n_rows
    assert abs(found.share - alone.share) < 0.03
    with pytest.raises(InvalidSetting, match="nothing tells labels apart"):
        check_mislabelled(table.select("shape", empty=pl.lit(None, dtype=kind)), "shape", learner)


def test_boosted_trees_need_a_value_to_learn_from():
    rows = pl.DataFrame({"empty": [None, None], "list": [[1], [2]]}, schema_overrides={"empty": pl.Float64})

    with pytest.raises(InvalidSetting, match="None of the columns empty, list holds a value"):
        fit_boosted_classifier(rows, np.array([0, 1]), 2)


@pytest.mark.parametrize("seed", range(5))
def test_suspects_are_those_of_cleanlab(seed):
    rank = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(seed)
    sharp = rng.dirichlet([0.5, 0.5, 0.5], 400)
    given = np.array([rng.choice(3, p=row) for row in sharp])

    ours = find_mislabelled(given, sharp, ["a", "b", "c"])
    theirs = rank.find_label_issues(given, sharp, filter_by="confident_learning", n_jobs=1)

    assert {each.row for each in ours.rows} == set(np.flatnonzero(theirs).tolist())


def test_suspects_are_counted_by_pair_and_shares_add_up():
    rng = np.random.default_rng(0)
    # of the third class nobody is ever sure: its low threshold makes rows look confused that are no suspects
    sharp = rng.dirichlet([2, 2, 0.7], 800)
    given = np.array([rng.choice(3, p=row) for row in sharp])

    found = find_mislabelled(given, sharp, ["a", "b", "c"])
    pairs = Counter((each.given, each.suggested) for each in found.rows)

    assert {(each.given, each.suggested): each.count for each in found.confusions if each.count} == pairs
    assert sum(each.share for each in found.confusions) == pytest.approx(found.share)


def test_probabilities_are_of_models_that_have_not_seen_the_row_nor_its_copy():
    table = pl.DataFrame({"x": list(range(40)) * 2})
    given = np.array([0, 1] * 40)
    seen = []

    def learner(rows, labels, n_classes):
        mine = set(rows["x"].to_list())

        def predict(asked):
            seen.append(mine & set(asked["x"].to_list()))
            return np.full((len(asked), n_classes), 1 / n_classes)

        return predict

    found = cross_validated(table, given, 2, learner)

    assert seen == [set()] * len(seen)
    assert (found.sum(axis=1) == 1).all()


def test_row_numbers_are_the_table_s_where_labels_are_missing():
    table, _ = shapes(600, wrong=0)
    table = table.with_columns(
        pl.when(pl.int_range(pl.len()) < 100).then(None).otherwise(pl.col("shape")).alias("shape")
    )
    wrong = table.with_row_index().filter((pl.col("x") > 1.2) & pl.col("shape").is_not_null())["index"][0]
    table = table.with_columns(
        pl.when(pl.int_range(pl.len()) == wrong).then(pl.lit("circle")).otherwise("shape").alias("shape")
    )

    report = check_mislabelled(table, "shape", fit_linear_classifier)

    assert report.n_rows == 500
    assert report.rows[0].row == wrong
    assert (report.rows[0].given, report.rows[0].suggested) == ("circle", "square")


@pytest.mark.parametrize(
    ("label", "said"),
    [("nowhere", "no column"), ("same", "has 1 values"), ("rare", "has 3 rows"), ("x", "600 values")],
)
def test_labels_that_cannot_be_checked_are_refused_with_the_reason(label, said):
    table, _ = shapes(600)
    table = table.with_columns(
        same=pl.lit("one"), rare=pl.when(pl.int_range(pl.len()) < 3).then(1).otherwise(0)
    )

    with pytest.raises(InvalidSetting, match=said):
        check_mislabelled(table, label, fit_linear_classifier)
