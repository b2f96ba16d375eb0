"""Ranking figures agree with scikit-learn and with enumeration of tied orders."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.ranking import ranking

results = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=6)


def by_name(estimates):
    return {estimate.name: estimate for estimate in estimates}


@given(results, st.integers(1, 7))
@settings(max_examples=25)
def test_one_query_equals_scikit_learn_and_the_mean_over_tied_orders(given_results, cut):
    grades, scores = (np.array(column, dtype=float) for column in zip(*given_results, strict=True))
    assume(grades.any())
    orders = [
        order
        for order in permutations(range(len(grades)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    reciprocals, precisions = [], []
    for order in orders:
        hits = [grades[i] > 0 for i in order][:cut]
        reciprocals.append(1 / (hits.index(True) + 1) if True in hits else 0.0)
        precisions.append(sum(hits) / cut)

    found = by_name(ranking(np.zeros(len(grades)), grades, scores, rng=np.random.default_rng(0), cut=cut))

    assert found[f"ndcg@{cut}"].value == pytest.approx(oracle.ndcg_score([grades], [scores], k=cut))
    assert found[f"mrr@{cut}"].value == pytest.approx(np.mean(reciprocals))
    assert found[f"precision@{cut}"].value == pytest.approx(np.mean(precisions))


def test_figures_are_means_over_queries_in_any_order_of_rows():
    rng = np.random.default_rng(1)
    query = rng.integers(0, 30, 400)
    grades, scores = rng.integers(0, 4, 400), rng.normal(size=400)

    found = by_name(ranking(query, grades, scores, rng=rng))

    per_query = [
        oracle.ndcg_score([grades[query == q]], [scores[query == q]], k=10) for q in np.unique(query)
    ]
    assert found["ndcg@10"].value == pytest.approx(np.mean(per_query))
    assert found["ndcg@10"].low < found["ndcg@10"].value < found["ndcg@10"].high


def test_query_without_relevant_results_counts_for_mrr_only():
    found = by_name(ranking([1, 1, 2, 2], [1, 0, 0, 0], [2, 1, 2, 1], rng=np.random.default_rng(0)))

    assert found["ndcg@10"].value == 1
    assert found["mrr@10"].value == 0.5


def test_negative_grades_are_refused():
    with pytest.raises(NotMeasurable, match="grade"):
        ranking([1, 1], [-1, 0], [2, 1], rng=np.random.default_rng(0))
