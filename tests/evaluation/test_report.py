"""A report says what was measured, says what was not, and survives JSON."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest

from tidegate.evaluation.assessment import Subject, assess_binary, assess_regression
from tidegate.evaluation.declaration import CostMatrix, Invariant, Monotone
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.report import Report, Span, render

DAY_US = 86_400_000_000
SPAN = Span(from_us=0, until_us=10 * DAY_US, evaluated_at_us=17 * DAY_US)


def chance(rows):
    return 1 / (1 + np.exp(-(rows["distance"] - 50) / 10))


def subject(**given):
    rng = np.random.default_rng(0)
    columns = {
        "distance": rng.uniform(0, 100, 1500),
        "carrier": rng.choice(np.array(["AA", "UA"], dtype=object), 1500),
    }
    truth = np.where(columns["carrier"] == "AA", chance(columns), 0.5)
    return Subject(
        outcomes=rng.uniform(size=1500) < truth,
        predictions=chance(columns),
        columns=columns,
        predict=chance,
        **given,
    )


@cache
def complete():
    rng = np.random.default_rng(1)
    return assess_binary(
        subject(
            protected={"sex": rng.integers(0, 2, 1500)},
            rules=[Monotone("distance", "falling"), Invariant("carrier")],
            matrix=CostMatrix(5, -1, -2, 0, "EUR"),
            span=SPAN,
        ),
        rng=rng,
    )


def test_complete_report_survives_json_and_has_nothing_to_excuse():
    report = complete()

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert report.notes == ()
    assert report.span.age_days == 7


def test_what_is_wrong_with_the_model_is_found():
    report = complete()

    assert report.slices[0].confirmed
    assert "carrier = UA" in str(report.slices[0])
    assert report.calibration.p_value < 0.01
    assert [rule.held for rule in report.rules] == [False, True]
    assert report.importance[0].column == "distance"
    # decisions are made, and their figures measured, where money says
    decided = chance(subject().columns) >= report.value.threshold
    assert report.figure("recall").n_rows == subject().outcomes.sum()
    assert report.figure("recall").value == pytest.approx(decided[subject().outcomes].mean())


@pytest.mark.parametrize(
    ("given", "threshold", "by", "said"),
    [
        ({}, 0.5, "default", "from 0.5 on, as nothing else"),
        ({"threshold": 0.3}, 0.3, "declared", "from 0.3 on, as declared"),
        ({"matrix": CostMatrix(5, -1, -2, 0, "EUR")}, None, "costs", "by the declared costs"),
    ],
)
def test_the_threshold_of_decisions_is_told_beside_their_figures(given, threshold, by, said):
    of = {"threshold": given.pop("threshold")} if "threshold" in given else {}

    report = assess_binary(subject(**given), rng=np.random.default_rng(1), **of)

    assert report.threshold == (report.value.threshold if threshold is None else threshold)
    assert report.threshold_by == by
    assert said in render(report)


def test_a_protected_number_is_cut_into_fifths_and_small_groups_are_not_compared():
    rng = np.random.default_rng(1)
    kinds = np.array(["a"] * 1000 + ["b"] * 480 + ["c"] * 20, dtype=object)

    report = assess_binary(subject(protected={"age": rng.integers(18, 90, 1500), "kind": kinds}), rng=rng)
    age, kind = report.fairness

    assert len(age.groups) == 5
    assert all(200 < each.n_rows < 400 for each in age.groups)
    assert all(each.group.startswith("age ") for each in age.groups)
    assert kind.left_out == ("c",)
    assert any("Groups by kind: c: fewer than 50 rows" in note for note in report.notes)


def test_text_holds_every_section_and_the_age():
    text = render(complete())

    assert "binary, 1,500 rows of 1970-01-01 to 1970-01-11, 7 days old when measured" in text
    for title in ("Figures", "Calibration", "Slices", "Groups by sex", "Value in EUR", "Robustness",
                  "Rules", "Importance"):  # fmt: skip
        assert f"\n{title}" in text
    assert "monotone in distance: broken on" in text
    assert "invariant in carrier: held on 1,000 rows" in text


def test_what_was_not_given_is_named_as_not_measured():
    report = assess_binary(
        Subject(outcomes=np.array([0, 1, 1, 0]), predictions=np.array([0.1, 0.9, 0.6, 0.4])),
        rng=np.random.default_rng(0),
    )

    assert len(report.notes) == 5
    assert "4 rows are no basis" in report.notes[0]
    assert "Not measured\n  Intervals by resampling" in render(report)


def test_report_of_numbers_has_their_figures():
    given = subject()

    report = assess_regression(given, rng=np.random.default_rng(0))

    assert report.task == "regression"
    assert report.figure("mae").value == pytest.approx(np.abs(given.predictions - given.outcomes).mean())
    assert report.importance[0].column == "distance"
    assert report.calibration is None


def test_unknown_figure_is_refused_with_those_there_are():
    report = complete()

    with pytest.raises(NotMeasurable, match="It has: auc, log_loss"):
        report.figure("mae")


def test_same_seed_gives_the_same_report():
    assert complete.__wrapped__() == complete()
