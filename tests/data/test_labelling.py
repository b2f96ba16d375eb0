"""Rules of thumb vote; the better ones count more, and what they disagree on is reported."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.data.labelling import LabellingRule, label_rows, read_labelling_rules


def voters(n=4000, accuracies=(0.9, 0.65, 0.6, 0.55), coverage=0.7):
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.4
    columns = {"truth": truth}
    for at, accuracy in enumerate(accuracies):
        vote = np.where(rng.random(n) < accuracy, truth, ~truth)
        columns[f"v{at}"] = [bool(value) if rng.random() < coverage else None for value in vote]
    return pl.DataFrame(columns)


def functions(table):
    return {name: (lambda rows, name=name: rows[name]) for name in table.columns if name.startswith("v")}


def test_accuracies_are_found_without_any_label():
    table = voters()

    report = label_rows(table, functions(table)).report

    assert [each.accuracy for each in report.functions] == pytest.approx([0.9, 0.65, 0.6, 0.55], abs=0.06)
    assert report.balance["True"] == pytest.approx(0.4, abs=0.06)
    weights = [each.weight for each in report.functions]
    assert weights == sorted(weights, reverse=True)


def test_the_weighted_vote_is_right_more_often_than_the_plain_one():
    table = voters()
    names = [name for name in table.columns if name.startswith("v")]

    labelled = label_rows(table, functions(table)).table.filter(pl.col("label").is_not_null())
    votes = labelled.select(
        pl.sum_horizontal(pl.when(name).then(1).when(~pl.col(name)).then(-1) for name in names)
    )
    plain = (votes.to_series() > 0) == labelled["truth"]

    assert (labelled["label"] == labelled["truth"]).mean() > plain.mean() + 0.03
    assert labelled["label_probability"].min() >= 0.5


def test_coverage_overlap_and_conflict_are_counted():
    table = pl.DataFrame({"a": [1, 1, None, None], "b": [1, 0, 0, None]})

    report = label_rows(table, {"a": lambda t: t["a"], "b": lambda t: t["b"]}).report
    a, b = report.functions

    assert (report.coverage, report.conflict) == (0.75, 0.25)
    assert (a.coverage, a.overlap, a.conflict) == (0.5, 0.5, 0.25)
    assert (b.coverage, b.overlap, b.conflict) == (0.75, 0.5, 0.25)


def test_a_hand_label_goes_before_any_vote_and_judges_the_functions():
    table = voters().with_columns(
        hand=pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.col("truth")).otherwise(None)
    )

    done = label_rows(table, functions(table), hand="hand")
    by_hand = done.table.filter(pl.col("hand").is_not_null())

    assert (by_hand["label"] == by_hand["hand"]).all()
    assert set(by_hand["label_by"]) == {"hand"}
    assert done.report.functions[0].checked == pytest.approx(0.9, abs=0.06)
    assert done.report.agreement > 0.8
    unlabelled = done.table.filter(pl.col("label").is_null())
    assert (
        unlabelled["label_by"].null_count() == unlabelled["label_probability"].null_count() == len(unlabelled)
    )


def test_a_lone_vote_is_never_turned_round_by_rules_that_hardly_meet():
    rules = [LabellingRule("long", "month > 30", 1), LabellingRule("small", "credit < 1500", 0)]
    months, amounts = [36] * 20 + [12] * 300 + [36], [5000] * 20 + [1000] * 300 + [1000]
    table = pl.DataFrame({"month": months, "credit": amounts})  # both hold in the last row only

    done = label_rows(table, {rule.name: rule for rule in rules})

    assert done.table["label"].to_list()[:-1] == [1] * 20 + [0] * 300
    assert done.table["label_probability"].max() < 0.8
    assert all(each.accuracy >= 0.5 and each.n_told == 1 for each in done.report.functions)
    assert [note for note in done.report.notes if "'long'" in note and "1 row only" in note]


def test_a_rule_that_the_others_contradict_is_held_at_chance_and_named():
    # `high` says 1 where two others, who agree with each other, say 0
    columns = {"high": [1] * 100 + [None] * 50 + [1] * 7, "low": [0] * 150 + [None] * 7}
    table = pl.DataFrame({**columns, "flat": [0] * 150 + [None] * 7})

    done = label_rows(table, {name: (lambda rows, name=name: rows[name]) for name in table.columns})

    assert done.report.functions[0].accuracy == pytest.approx(0.5, abs=0.01)
    assert done.table["label"].to_list() == [0] * 150 + [1] * 7
    assert any("'high' looks no better than chance" in note for note in done.report.notes)


def test_rules_are_read_from_json_and_vote_where_they_hold():
    rules = read_labelling_rules(
        b'[{"name": "far ahead", "when": "lead > 300 AND kind = \'x\'", "label": 1},'
        b' {"name": "near", "when": "lead < 10", "label": 0}]'
    )
    table = pl.DataFrame({"lead": [400, 400, 5, None], "kind": ["x", "y", "x", "x"]})

    done = label_rows(table, {rule.name: rule for rule in rules})

    assert done.table["label"].to_list() == [1, None, 0, None]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (LabellingRule("r", "nothing > 1", 1), "'r' cannot be used"),
        (LabellingRule("r", "lead >", 1), "'r' cannot be used"),
        (LabellingRule("r", "lead + 1", 1), "true or false"),
        (LabellingRule("r", "lead > 1", 1), "vote for 1 label"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(rule, said):
    with pytest.raises(InvalidSetting, match=said):
        label_rows(pl.DataFrame({"lead": [1, 2, 3]}), {"r": rule})


TWICE = b'[{"name": "a", "when": "x > 1", "label": 1}, {"name": "a", "when": "x > 2", "label": 0}]'
UNKNOWN = b'[{"name": "a", "when": "x > 1", "label": 1, "weigth": 2}]'


@pytest.mark.parametrize("text", [b"{}", b"[1]", b'[{"name": "a"}]', TWICE, UNKNOWN])
def test_what_is_no_list_of_labelling_rules_is_refused(text):
    with pytest.raises(InvalidSetting):
        read_labelling_rules(text)
