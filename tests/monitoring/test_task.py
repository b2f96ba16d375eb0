"""Monitors of whatever is predicted, on sets that the project does not come with."""

from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np
import polars as pl
import pytest

from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Contract, Schema
from tidegate.evaluation.cost import CostMatrix
from tidegate.evaluation.declaration import Evaluation
from tidegate.monitoring.declaration import Monitoring
from tidegate.monitoring.report import render
from tidegate.monitoring.run import Result, run
from tidegate.monitoring.subject import LABEL, TableHistory, subject_of

datasets = pytest.importorskip("sklearn.datasets")
FIRST = date(2026, 1, 1)
N_REFERENCE, N_DAYS = 40, 70


def served(data, answer, outputs, *, per_day=40, label=None, declared=None, seed=0):
    """Return the history and subject of a model that answered rows of a set, drawn again day by day."""
    rng = np.random.default_rng(seed)
    place = rng.integers(len(data.data), size=(N_DAYS, per_day)).ravel()
    names = [f"x{number}" for number in range(data.data.shape[1])]
    contract = Contract(Schema(tuple(Field(name, DataType.FLOAT64) for name in names)), Schema(outputs))
    start = datetime(2026, 1, 1, 8, tzinfo=UTC)
    times = [start + timedelta(days=int(n // per_day), seconds=int(n % per_day)) for n in range(len(place))]
    at = pl.Series(times, dtype=pl.Datetime("us", "UTC"))
    columns = {f"input.{name}": data.data[place, number] for number, name in enumerate(names)}
    answers = {f"output.{name}": values[place] for name, values in answer.items()}
    truth = np.asarray(data.target if label is None else label)[place]
    table = pl.DataFrame({**columns, **answers, "arrived_at": at, LABEL: truth, "labelled_at": at})
    subject = subject_of("held", contract, evaluation=declared, monitoring=Monitoring())
    return TableHistory(table), subject


def examined(history, subject):
    span = (FIRST, FIRST + timedelta(days=N_REFERENCE - 1))
    over = (FIRST + timedelta(days=N_REFERENCE), FIRST + timedelta(days=N_DAYS - 1))
    result = run(history, subject, over=over, reference=span)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result).n_rows == result.n_rows
    assert "<html" in render(result)
    return result


def probabilities(data, *, sure=3.0):
    """Return what a plain model says: distances to the means of the classes."""
    scaled = (data.data - data.data.mean(axis=0)) / (data.data.std(axis=0) + 1e-9)
    centres = np.stack([scaled[data.target == k].mean(axis=0) for k in np.unique(data.target)])
    distance = ((scaled[:, None] - centres) ** 2).mean(axis=2)
    weights = np.exp(-sure * (distance - distance.min(axis=1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


def several(n_classes):
    return (
        Field("label", DataType.INT64),
        Field("probabilities", DataType.FLOAT64, shape=(n_classes,), ge=0, le=1),
    )


@pytest.mark.parametrize(
    "load",
    [
        datasets.load_iris,
        pytest.param(datasets.load_wine, marks=pytest.mark.slow),
        pytest.param(datasets.load_digits, marks=pytest.mark.slow),
    ],
)
def test_classes_are_judged_by_their_probabilities_with_and_without_labels(load):
    data = load()
    said = probabilities(data)
    answer = {"label": said.argmax(axis=1), "probabilities": said}

    result = examined(*served(data, answer, several(said.shape[1])))

    (stretch, *_) = result.stretches
    estimated = {each.metric: each for each in stretch.estimated}
    wrong = float((said.argmax(axis=1) != data.target).mean())
    assert result.task == "multiclass"
    assert result.coverage == 1
    assert stretch.realised["error_rate"] == pytest.approx(wrong, abs=0.05)
    assert set(estimated) == {"accuracy", "error_rate", "f1", "auc", "log_loss"}
    for name in ("error_rate", "auc"):
        assert estimated[name].value == pytest.approx(stretch.realised[name], abs=0.05)
        assert estimated[name].low <= estimated[name].value <= estimated[name].high
    assert stretch.fused is not None


def test_numbers_are_judged_in_their_own_unit():
    data = datasets.load_diabetes()
    design = np.column_stack([np.ones(len(data.data)), data.data])
    said = design @ np.linalg.lstsq(design, data.target, rcond=None)[0]

    result = examined(*served(data, {"y": said}, (Field("y", DataType.FLOAT64),)))

    (stretch, *_) = result.stretches
    estimated = {each.metric: each for each in stretch.estimated}
    assert stretch.realised["mae"] == pytest.approx(np.abs(said - data.target).mean(), rel=0.1)
    assert estimated["mae"].value == pytest.approx(stretch.realised["mae"], rel=0.1)
    assert estimated["rmse"].value == pytest.approx(stretch.realised["rmse"], rel=0.1)
    assert result.reference_loss * result.scale == pytest.approx(stretch.realised["mae"], rel=0.1)


def test_labels_that_are_nothing_to_compare_with_are_said_and_never_a_crash():
    data = datasets.load_iris()
    said = probabilities(data)
    answer = {"label": said.argmax(axis=1), "probabilities": said}
    strange = np.where(data.target == 2, "virginica", data.target.astype(str))

    result = examined(*served(data, answer, several(3), label=strange))
    alone = examined(*served(data, answer, several(3), label=np.zeros(len(strange))))

    assert any("could be held against: 'virginica'." in note for note in result.notes)
    assert any("one class" in note for note in alone.notes)
    assert alone.stretches[0].estimated == ()


@pytest.mark.slow
def test_an_event_told_in_words_is_read_by_its_declared_classes():
    data = datasets.load_breast_cancer()
    said = probabilities(data)[:, 1]
    words = np.where(data.target == 1, "benign", "malignant")
    outputs = (Field("p", DataType.FLOAT64, ge=0, le=1),)
    declared = Evaluation(classes=("malignant", "benign"))

    told = examined(*served(data, {"p": said}, outputs, label=words, declared=declared))
    untold = examined(*served(data, {"p": said}, outputs, label=words))

    brier = float(((said - data.target) ** 2).mean())
    assert told.stretches[0].realised["brier"] == pytest.approx(brier, abs=0.02)
    assert untold.coverage == 0
    assert any("held against" in note for note in untold.notes)


@pytest.mark.slow
def test_predictions_that_bring_less_money_are_a_signal():
    data = datasets.load_breast_cancer()
    said = probabilities(data)[:, 1]
    costs = CostMatrix(10, -5, -20, 0, "EUR")
    outputs = (Field("p", DataType.FLOAT64, ge=0, le=1),)
    history, subject = served(data, {"p": said}, outputs, declared=Evaluation(costs=costs))
    table = history.records(FIRST, FIRST + timedelta(days=N_DAYS))
    turned = pl.col("arrived_at").dt.date() >= FIRST + timedelta(days=50)
    label = pl.when(turned).then(1 - pl.col(LABEL)).otherwise(pl.col(LABEL)).alias(LABEL)

    calm, result = (examined(each, subject) for each in (history, TableHistory(table.with_columns(label))))

    (signal,) = [each for each in result.signals if each.kind == "value"]
    assert "EUR" in signal.title
    assert signal.first_on >= FIRST + timedelta(days=50)
    assert not {"value", "risk"} & {each.kind for each in calm.signals}
    assert sum(calm.spending[name].allowance for name in ("risk", "value")) == pytest.approx(0.2)
