"""Figures of ranked results, each with an interval over queries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Column, Estimate, Figure, Floats, numbers, resampled
from tidegate.evaluation.metric import NotMeasurable


def ranking(
    queries: npt.ArrayLike,
    relevance: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    cut: int = 10,
    level: float = 0.95,
) -> tuple[Estimate, ...]:
    """Measure rankings: ndcg, mrr and precision within the first `cut` results, means over queries.

    Gain is the relevance itself (linear), discounted by log2(1 + rank). Results with one score share
    the mean of their gains, so that their order in the table changes nothing. A query without any
    relevant result has no NDCG and is left out of it;
    its reciprocal rank is 0.

    Args:
        queries: Which query each result answers, shape (n_results,).
        relevance: Grades, >= 0; above 0 is relevant. Shape (n_results,).
        scores: Higher stands further up, shape (n_results,).
        rng: Source of randomness of the bootstrap.
        cut: Results that count, from the top.
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: Columns do not fit, or a grade is negative.
        InvalidSetting: `cut` is below 1.

    Source: Jarvelin & Kekalainen, ACM TOIS 20(4), 2002; ties: McSherry & Najork, ECIR 2008.
    """
    if cut < 1:
        raise InvalidSetting(f"At least one result counts. Got a cut of {cut}.")
    grades = numbers(relevance, name="Relevance")
    given = numbers(scores, name="Scores", n_rows=len(grades))
    names: Column = np.asarray(queries)
    if names.shape != grades.shape or (grades < 0).any():
        raise NotMeasurable("Each result needs a query and a grade of at least 0.")
    _, query = np.unique(names, return_inverse=True)
    terms = _per_query(query.astype(np.int64), grades, given, cut)
    figures: dict[str, tuple[Figure, bool | None]] = {
        f"ndcg@{cut}": (lambda s: s[:, 0] / s[:, 1], True),
        f"mrr@{cut}": (lambda s: s[:, 2] / s[:, 4], True),
        f"precision@{cut}": (lambda s: s[:, 3] / s[:, 4], True),
    }
    return resampled(terms, figures, rng=rng, level=level)


def list_gains(
    lists: npt.NDArray[np.int64], grades: Floats, scores: Floats, *, cut: int = 10
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return each list's NDCG, and whether it has a relevant result; without one, it has no NDCG.

    Args:
        lists: The list of each result, integers from 0.
        grades: >= 0; above 0 is relevant. Shape (n_results,).
        scores: Higher stands further up, shape (n_results,). A list with one that is no number has the
            NDCG NaN.
        cut: Results that count, from the top.
    """
    table = _per_query(lists, grades, np.where(np.isfinite(scores), scores, -np.inf), cut)
    gained = table[:, 0]
    gained[lists[~np.isfinite(scores)]] = np.nan
    return gained, table[:, 1] > 0


def _per_query(query: npt.NDArray[np.int64], grades: Floats, scores: Floats, cut: int) -> Floats:
    """Return a row per query: ndcg, whether it has one, reciprocal rank, precision, one."""
    n_queries = int(query.max()) + 1
    order = np.lexsort((-scores, query))
    query, grades, scores = query[order], grades[order], scores[order]
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
    rank = np.arange(len(query)) - starts[query]
    discount = np.where(rank < cut, 1 / np.log2(rank + 2), 0.0)
    tie = np.cumsum(np.r_[True, (query[1:] != query[:-1]) | (scores[1:] != scores[:-1])]) - 1
    n_tied = np.bincount(tie)
    shared_discount = (np.bincount(tie, weights=discount) / n_tied)[tie]
    gained = np.bincount(query, weights=grades * shared_discount, minlength=n_queries)
    best = np.lexsort((-grades, query))
    ideal = np.bincount(query, weights=grades[best] * discount, minlength=n_queries)
    shared_place = (np.bincount(tie, weights=rank < cut) / n_tied)[tie]
    precision = np.bincount(query, weights=(grades > 0) * shared_place, minlength=n_queries) / cut
    has = ideal > 0
    ndcg = np.where(has, gained / np.where(has, ideal, 1.0), 0.0)
    return np.column_stack(
        [
            ndcg,
            has,
            _reciprocal(query, grades, tie, rank=rank, cut=cut, n_queries=n_queries),
            precision,
            np.ones(n_queries),
        ]
    )


def _reciprocal(
    query: npt.NDArray[np.int64],
    grades: Floats,
    tie: npt.NDArray[np.int64],
    *,
    rank: npt.NDArray[np.int64],
    cut: int,
    n_queries: int,
) -> Floats:
    """Return 1 / rank of the first relevant result; within ties its expectation over random orders."""
    relevant = np.bincount(tie, weights=grades > 0).astype(np.int64)
    n_tied = np.bincount(tie)
    first_of_tie = np.flatnonzero(np.r_[True, tie[1:] != tie[:-1]])
    reciprocal = np.zeros(n_queries)
    done = np.zeros(n_queries, dtype=np.bool_)
    for group in np.flatnonzero(relevant):  # ties in order: the first relevant one of each query counts
        owner = query[first_of_tie[group]]
        if done[owner]:
            continue
        done[owner] = True
        start, size, hits = int(rank[first_of_tie[group]]), int(n_tied[group]), int(relevant[group])
        missed = 1.0  # probability that no relevant one stood before
        for place in range(min(size - hits + 1, cut - start)):
            found = hits / (size - place)
            reciprocal[owner] += missed * found / (start + place + 1)
            missed *= 1 - found
    return reciprocal
