"""Whatever is predicted, an answer loses what the textbook says, and what cannot be measured is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

import tidegate as tg
from tidegate.contract.declare import contract_of
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.measure import Measure, measure_of

CLASSES = ("ash", "birch", "cedar")
TREES = Measure(task="multiclass", classes=CLASSES)
DECIDED = Measure(task="multiclass", classes=CLASSES, has_scores=False)
LISTS = Measure(task="ranking", query="query")


def names(*values):
    return np.array(values, dtype=object)


def test_several_classes_lose_what_scikit_learn_says():
    rng = np.random.default_rng(0)
    given = rng.dirichlet([1, 1, 1], 200)
    truth = names(*rng.choice(CLASSES, 200))

    lost = TREES.loss(TREES.outcomes(truth), TREES.checked_answers(given, 200, what="It"))

    assert lost.mean() == pytest.approx(oracle.log_loss(truth.tolist(), given, labels=CLASSES))


def test_decided_classes_lose_one_where_they_are_wrong_also_by_a_class_that_does_not_exist():
    lost = DECIDED.loss(
        DECIDED.outcomes(names("ash", "birch", "cedar")), DECIDED.answers(names("ash", "ash", "oak"))
    )

    assert lost.tolist() == [0, 1, 1]


def test_a_list_loses_what_its_ndcg_lacks_and_one_without_anything_relevant_is_left_out():
    lists = np.array([0, 0, 0, 1, 1, 2, 2])
    grades = np.array([0.0, 1, 2, 0, 0, 1, 0])
    scores = np.array([0.1, 0.2, 0.3, 0.5, 0.6, np.nan, 0.0])

    lost = LISTS.loss(grades, scores, lists)

    assert lost[0] == pytest.approx(0.0)
    assert np.isinf(lost[1])
    assert len(lost) == 2


@pytest.mark.parametrize(
    ("measure", "truth", "answered", "expected"),
    [
        (Measure(task="binary"), [1.0, 0.0], [0.5, 0.75], [np.log(2), np.log(4)]),
        (Measure(task="regression"), [1.0, 2.0], [3.0, np.nan], [4.0, np.inf]),
        (Measure(task="forecast"), [1.0, 2.0], [3.0, 2.5], [2.0, 0.5]),
    ],
)
def test_events_numbers_and_forecasts_lose_by_their_own_measure(measure, truth, answered, expected):
    assert measure.loss(np.array(truth), np.array(answered)) == pytest.approx(expected)


def test_a_probability_of_a_share_is_measured_as_a_number():
    event = Measure(task="binary")

    assert event.fitting(np.array([0.0, 1.0])).task == "binary"
    assert event.fitting(np.array([0.0, 0.4])).task == "regression"


@pytest.mark.parametrize(("coded", "odd"), [([1.0, 2.0], "2"), ([-1.0, 1.0], "-1"), ([0.0, 17.5], "17.5")])
def test_a_probability_does_not_stand_for_codes_or_numbers(coded, odd):
    with pytest.raises(InvalidSetting, match=rf"neither 0/1 nor a share.* Got {odd}\.") as caught:
        Measure(task="binary").fitting(np.array(coded))

    assert "classes=" in caught.value.hint
    assert Measure(task="regression").fitting(np.array(coded)).task == "regression"


@pytest.mark.parametrize(
    ("classes", "column"),
    [
        (("good", "bad"), names("good", "bad")),
        (("1", "2"), np.array([1, 2])),
        (("1", "2"), np.array([1.0, 2.0])),
        (("-1", "1"), np.array([-1, 1])),
        (("0", "1"), np.array([0.0, 1.0])),
        (("1", "0"), np.array([1, 0])),
        (("false", "TRUE"), np.array([False, True])),
        (("0", "1"), np.array([False, True])),
        (("no", "yes"), np.array([False, True])),
        (("no", "yes"), names(0, 1.0)),
    ],
)
def test_the_names_of_an_event_s_outcomes_are_found_whatever_the_column_s_type(classes, column):
    assert Measure(task="binary", classes=classes).outcomes(column).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("classes", "column", "odd"),
    [
        (("good", "bad"), names("Good", "bad"), "'Good'"),
        (("no", "yes"), names("no", " yes"), "' yes'"),
        (("no", "yes"), names("no", 1), "'1'"),
        (("no", "yes"), np.array([1, 2]), "'1'"),
        (("1", "2"), np.array([1, 3]), "'3'"),
        (("1", "2"), np.array([0, 1]), "'0'"),
    ],
)
def test_an_outcome_that_is_neither_of_an_event_s_is_named(classes, column, odd):
    with pytest.raises(InvalidSetting, match=f"holds {odd}, which is none of the classes"):
        Measure(task="binary", classes=classes).outcomes(column)


def test_rounding_past_one_is_forgiven_and_more_is_not():
    event = Measure(task="binary")

    assert event.checked_answers([1.0000001], 1, what="It").tolist() == [1.0]
    with pytest.raises(InvalidSetting, match=r"probabilities in \[0, 1\]"):
        event.checked_answers([1.01], 1, what="It")


@pytest.mark.parametrize(
    ("measure", "call", "fault"),
    [
        (TREES, lambda m: m.outcomes(names("ash", "oak")), "'oak'"),
        (TREES, lambda m: m.answers(np.zeros((4, 2))), "3 probabilities"),
        (TREES, lambda m: m.checked_answers(np.full((2, 3), 0.5), 2, what="It"), "sum to 1"),
        (DECIDED, lambda m: m.answers(np.zeros((4, 3))), "one value a row"),
        (Measure(task="binary"), lambda m: m.outcomes(names("no", "yes")), "classes="),
        (Measure(task="regression"), lambda m: m.outcomes(np.array([1, 10**400], object)), "nor a number"),
        (Measure(task="regression"), lambda m: m.answers(names("a")), "no numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(measure, call, fault):
    with pytest.raises(InvalidSetting) as caught:
        call(measure)

    assert fault in caught.value.message + caught.value.hint


class Row(tg.Input):
    x: float


class Scores(tg.Output):
    p: list[float] = tg.vector(3)


class Label(tg.Output):
    tree: str = tg.category(*CLASSES)


class Score(tg.Output):
    score: float


def test_the_contract_and_the_declaration_say_by_what_a_service_is_measured():
    assert measure_of(contract_of(Row, Scores), Evaluation(classes=CLASSES)) == TREES
    assert measure_of(contract_of(Row, Scores), Evaluation()).classes == ("0", "1", "2")
    assert measure_of(contract_of(Row, Label), Evaluation()) == DECIDED
    assert measure_of(contract_of(Row, Score), Evaluation(task="ranking", query="query")) == LISTS
    with pytest.raises(InvalidSetting, match="which"):
        measure_of(contract_of(Row, Score), Evaluation(task="ranking"))
