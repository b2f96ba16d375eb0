"""Classes, rankings and numbers are compared as events are: on the same rows, in parts, by group."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.gate.world import trees
from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.measure import Measure
from tidegate.gate import part, quality
from tidegate.gate.answer import Answers, alike, by_list
from tidegate.gate.calibration import calibration
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import applies

GATES = Gates(quality_margin=0.05)


def rng():
    return np.random.default_rng(0)


def turned(columns, own):
    """Take every second class for the next one at one of the sites."""
    return np.where((columns["site"] == "hill")[:, None], own[:, [1, 2, 0]], own)


def sharpened(columns, own):
    sharp = own**4
    return sharp / sharp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("decided", [False, True])
def test_classifiers_are_compared_row_by_row(decided):
    healthy = quality.champion(trees(decided=decided), Gates(quality_margin=0.1), rng=rng())
    worse = quality.champion(trees(decided=decided, worse=turned), GATES, rng=rng())

    assert healthy.verdict is Verdict.SAFE
    assert worse.verdict is Verdict.REGRESSED
    assert ("share wrong" if decided else "log loss") in worse.reason


def test_a_site_where_classes_are_mistaken_is_named_and_so_is_the_group():
    spoiled = trees(worse=turned)

    found = part.slices(spoiled, GATES, rng=rng())
    by_group = part.groups(spoiled, ["site"], GATES, rng=rng(), threshold=0.5)

    assert found.verdict is Verdict.REGRESSED
    assert "site = hill" in found.reason
    assert by_group.verdict is Verdict.REGRESSED
    assert "hill" in by_group.reason


def test_without_a_champion_the_decisions_for_each_class_are_compared_between_groups():
    found = part.groups(trees(champion=False, worse=turned), ["site"], GATES, rng=rng(), threshold=0.5)

    assert found.verdict is Verdict.REGRESSED
    assert "true positive" in found.reason


def test_the_likeliest_class_has_to_be_right_as_often_as_it_says():
    assert calibration(trees(blur=0.02), GATES, rng=rng()).verdict is Verdict.SAFE
    assert calibration(trees(worse=sharpened), GATES, rng=rng()).verdict is Verdict.REGRESSED
    assert not applies(calibration(trees(decided=True), GATES, rng=rng()))


def test_answers_that_are_no_probabilities_regress_instead_of_failing():
    broken = trees(worse=lambda columns, own: own * 2)

    assert calibration(broken, GATES, rng=rng()).verdict is Verdict.REGRESSED


def test_classes_in_another_order_are_put_in_one_and_labels_meet_labels():
    measure = Measure(task="multiclass", classes=("a", "b"))
    other = Measure(task="multiclass", classes=("b", "a"))
    labels = msgspec.structs.replace(other, has_scores=False)
    own, theirs = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.3, 0.7], [0.6, 0.4]])

    _, swapped, same = alike(own, measure, theirs, other)
    decided, named, by_label = alike(own, measure, np.array([1.0, 0.0]), labels)

    assert swapped.tolist() == [[0.7, 0.3], [0.4, 0.6]]
    assert same == measure
    assert decided.tolist() == named.tolist() == [0.0, 1.0]
    assert not by_label.has_scores
    with pytest.raises(InvalidSetting, match="classes"):
        alike(own, measure, theirs, Measure(task="multiclass", classes=("a", "c")))
    with pytest.raises(InvalidSetting, match="regression"):
        alike(own, measure, theirs[:, 0], Measure(task="regression"))


def ranked(spoil=0.0, n_lists=300):
    draw = np.random.default_rng(1)
    lists = np.repeat(np.arange(n_lists), 8)
    grades = draw.integers(0, 3, len(lists)).astype(float)
    scores = grades + draw.normal(0, 0.8, len(lists))
    site = np.array(["hill", "shore"], dtype=object)[lists % 2]
    bad = np.where(site == "hill", draw.normal(0, spoil, len(lists)), 0.0)
    answers = Answers(
        columns={"site": site, "x": draw.normal(size=len(lists))},
        outcomes=grades,
        candidate=scores,
        champion=scores,
        measure=Measure(task="ranking", query="query"),
    )
    champion = scores + draw.normal(0, 0.01, len(lists))
    return by_list(answers, lists, candidate=scores + bad, champion=champion, grades=grades)


def test_rankings_are_compared_list_by_list_with_what_all_results_of_a_list_share():
    healthy, spoiled = ranked(), ranked(spoil=3.0)

    assert healthy.columns.keys() == {"site"}
    assert quality.champion(healthy, GATES, rng=rng()).verdict is Verdict.SAFE
    found = quality.champion(spoiled, GATES, rng=rng())
    assert found.verdict is Verdict.REGRESSED
    assert "lists" in found.reason
    assert "site = hill" in part.slices(spoiled, GATES, rng=rng()).reason


def test_where_the_champion_loses_nothing_the_candidate_is_judged_all_the_same():
    perfect = np.zeros(400)
    own = perfect.copy()
    measure = Measure(task="regression")

    def verdict(candidate):
        answers = Answers(
            columns={}, outcomes=perfect, candidate=candidate, champion=perfect, measure=measure
        )
        return quality.champion(answers, GATES, rng=rng()).verdict

    assert verdict(own) is Verdict.SAFE
    assert verdict(own + 1) is Verdict.REGRESSED
