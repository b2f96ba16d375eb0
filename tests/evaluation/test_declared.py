"""From a contract, a declaration and rows to the report that fits them."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import CostMatrix, Evaluation, Invariant, Monotone
from tidegate.evaluation.declared import Judged, assess_declared
from tidegate.evaluation.metric import NotMeasurable

N = 600
INPUTS = (
    Field("x", DataType.FLOAT64),
    Field("sex", DataType.CATEGORY, categories=("f", "m"), roles=(Role.PROTECTED,)),
)


def contract(*outputs, inputs=INPUTS):
    return Contract(Schema(inputs), Schema(outputs))


P = Field("p", DataType.FLOAT64, ge=0, le=1)
SCORE = Field("score", DataType.FLOAT64)


def columns(**more):
    rng = np.random.default_rng(0)
    sex = np.array(["f", "m"], dtype=object)[rng.integers(0, 2, N)]
    return {"x": rng.normal(size=N), "sex": sex, **more}


def chance(batch):
    return 1 / (1 + np.exp(-batch["x"]))


def model(batch):
    return Batch({"p": chance(batch), "score": batch["x"]}, batch.n_rows)


def assess(given, declared, judged):
    return assess_declared(given, declared, judged, rng=np.random.default_rng(1))


def test_an_event_told_in_words_is_judged_by_all_that_is_declared():
    rows = columns()
    rng = np.random.default_rng(2)
    rows["came"] = np.where(rng.random(N) < chance(rows), "yes", "no").astype(object)
    rows["came"][:10] = None
    rows["at"] = np.datetime64("2024-01-01T00", "h") + np.arange(N)
    rows["day"] = np.arange(N) // 24
    declared = Evaluation(
        classes=("no", "yes"), event_time="at", group="day", costs=CostMatrix(1, -1, -1, 1, "EUR"),
        rules=[Monotone("x", "rising"), Invariant("sex")],
    )  # fmt: skip

    report = assess(
        contract(P),
        declared,
        Judged(columns=rows, target="came", model=model, evaluated_at_us=1_800_000_000_000_000),
    )

    assert (report.task, report.n_rows) == ("binary", N - 10)
    assert [rule.held for rule in report.rules] == [True, True]
    assert [audit.attribute for audit in report.fairness] == ["sex"]
    assert report.value.currency == "EUR"
    assert report.figure("auc").method == "bootstrap"  # by whole days
    assert report.span.age_days > 300
    assert len(report.windows) == 6
    assert any("10 rows" in note for note in report.notes)


def test_one_value_a_class_is_judged_as_classes():
    rows = columns()
    names = ("down", "level", "up")
    rows["went"] = np.array(names, dtype=object)[np.digitize(rows["x"], [-0.5, 0.5])]

    def classify(batch):
        distance = -np.abs(batch["x"][:, None] - np.array([-1.2, 0.0, 1.2]))
        odds = np.exp(3 * distance)
        return Batch({"probabilities": odds / odds.sum(axis=1, keepdims=True)}, batch.n_rows)

    output = Field("probabilities", DataType.FLOAT64, shape=(3,), ge=0, le=1)

    report = assess(
        contract(output), Evaluation(classes=names), Judged(columns=rows, target="went", model=classify)
    )

    assert report.task == "multiclass"
    assert report.figure("accuracy").value > 0.9
    assert report.importance[0].column == "x"


def test_labels_of_a_category_are_judged_without_probabilities():
    rows = columns()
    rows["went"] = np.where(rows["x"] > 0, "up", "down").astype(object)
    output = Field("label", DataType.CATEGORY, categories=("down", "up"))

    def label(batch):
        return Batch({"label": np.where(batch["x"] > 0.2, "up", "down").astype(object)}, batch.n_rows)

    report = assess(contract(output), Evaluation(), Judged(columns=rows, target="went", model=label))

    assert report.task == "multiclass"
    assert 0.8 < report.figure("recall[up]").value < 1
    assert report.calibration is None


def test_a_number_is_judged_as_one():
    rows = columns(minutes=np.zeros(N))
    rows["minutes"] = rows["x"] + 0.1

    report = assess(contract(SCORE), Evaluation(), Judged(columns=rows, target="minutes", model=model))

    assert report.task == "regression"
    assert report.figure("bias").value == pytest.approx(-0.1)


def test_a_ranking_needs_its_lists():
    rows = columns(grade=np.random.default_rng(0).integers(0, 3, N), list=np.arange(N) // 10)
    judged = Judged(columns=rows, target="grade", model=model)

    report = assess(contract(SCORE), Evaluation(task="ranking", query="list"), judged)

    assert report.figure("ndcg@10").n_rows == N // 10
    with pytest.raises(InvalidSetting, match="no column says which"):
        assess(contract(SCORE), Evaluation(task="ranking"), judged)


def test_a_forecast_is_put_in_order_of_time_and_needs_what_was_before():
    rng = np.random.default_rng(0)
    rows = columns(at=rng.permutation(N))
    series = np.sin(np.arange(2 * N) * 2 * np.pi / 7)
    rows["level"] = series[N:][rows["at"]]
    rows["x"] = rows["level"] + 0.05
    declared = Evaluation(task="forecast", event_time="at", season=7)
    judged = Judged(columns=rows, target="level", model=model, history=series[:N] + 0.2 * rng.normal(size=N))

    report = assess(contract(SCORE), declared, judged)

    assert report.figure("mae").value == pytest.approx(0.05)
    assert report.figure("mase").value < 1
    with pytest.raises(NotMeasurable, match="the series before"):
        assess(contract(SCORE), declared, Judged(columns=rows, target="level", model=model))


def test_what_is_sensitive_is_judged_with_and_not_spoken_of():
    inputs = (INPUTS[0], Field("income", DataType.FLOAT64, sensitive=True))
    rows = columns(income=np.random.default_rng(3).normal(size=N))
    rows["came"] = (rows["income"] > 1).astype(int)

    report = assess(
        contract(P, inputs=inputs), Evaluation(), Judged(columns=rows, target="came", model=model)
    )

    spoken = {condition.column for found in report.slices for condition in found.conditions}
    assert "income" not in spoken
    assert report.importance == ()
    assert any("sensitive" in note for note in report.notes)


def test_a_slice_by_time_is_told_as_a_time():
    start_us = 1_704_067_200_000_000  # 2024-01-01
    rows = columns(at=start_us + np.arange(N) * 3_600_000_000)
    late = np.arange(N) >= N // 2
    rows["came"] = np.where(late, rows["x"] < 0, rows["x"] > 0).astype(int)
    inputs = (*INPUTS, Field("at", DataType.TIMESTAMP))

    report = assess(
        contract(P, inputs=inputs), Evaluation(), Judged(columns=rows, target="came", model=model)
    )

    assert "at >= 2024-01-" in str(report.slices[0])
    assert report.slices[0].confirmed


def test_answers_that_are_known_need_no_inputs():
    rows = {"came": np.array([0, 1] * 50)}
    predicted = np.linspace(0.1, 0.9, 100)

    report = assess(contract(P), Evaluation(), Judged(columns=rows, target="came", predicted=predicted))

    assert report.n_rows == 100
    with pytest.raises(InvalidSetting, match="neither answers nor all inputs"):
        assess(contract(P), Evaluation(), Judged(columns=rows, target="came", model=model))


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (Evaluation(rules=[Monotone("nothing", "rising")]), "names no input field"),
        (Evaluation(rules=[Monotone("sex", "rising")]), "needs a field of numbers"),
        (Evaluation(output="q"), "no output field"),
        (Evaluation(threshold=2), "is a probability"),
        (Evaluation(costs=CostMatrix(-1, 1, 1, -1, "EUR")), "must make acting better"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(declared, said):
    with pytest.raises(InvalidSetting, match=said):
        declared.checked(contract(P))


@pytest.mark.parametrize(
    ("given", "declared", "rows", "said"),
    [
        (contract(P, SCORE), Evaluation(), {}, "2 outputs that could be judged"),
        (contract(P), Evaluation(), {"came": np.array(["a", "b"], dtype=object)}, "nor a number"),
        (
            contract(P),
            Evaluation(classes=("good", "bad")),
            {"came": np.array(["Good", "bad"], dtype=object)},
            "'came' holds 'Good', which is none of the classes good, bad",
        ),
        (contract(P), Evaluation(), {"other": np.array([1, 0])}, "no column 'came'"),
    ],
)
def test_rows_that_cannot_be_judged_are_told_in_words(given, declared, rows, said):
    judged = Judged(columns=rows or {"came": np.array([1, 0])}, target="came", predicted=np.array([0.1, 0.2]))

    with pytest.raises(InvalidSetting, match=said):
        assess(given, declared, judged)
