"""Simple models that need no engine: a constant, a lookup, a linear model, the last season."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.schema import Schema
from tidegate.evaluation.measure import Measure
from tidegate.training.design import Design
from tidegate.training.linear import fit_linear, fit_logistic, probability

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Answer = Callable[[Mapping[str, Column]], Floats]

NUMBER = Measure(task="regression")

_MAX_LINEAR_ROWS = 100_000
"""A hundred coefficients are as well known from this many rows as from more, and memory stays small."""


def fit_constant(target: Floats, measure: Measure = NUMBER) -> Answer:
    """Return a model that always answers the mean; of classes, how often each came."""
    rows = _scores(target, measure)
    mean = rows.mean(axis=0)
    if rows.shape[1] > 1:  # one more row of each class: one that never came is unlikely, not impossible
        mean = (rows.sum(axis=0) + 1) / (len(rows) + rows.shape[1])
    return lambda columns: _answered(np.tile(mean, (_n_rows(columns), 1)), measure)


def fit_lookup(
    columns: Mapping[str, Column], target: Floats, by: Sequence[str], measure: Measure = NUMBER
) -> Answer:
    """Return a model that answers the mean of the rows with the same keys.

    One row of the overall mean is added to each key's, so that a key seen once is not certain.
    """
    rows = _scores(target, measure)
    mean = rows.mean(axis=0)
    places: dict[tuple[object, ...], int] = {}
    found = np.array([places.setdefault(key, len(places)) for key in _keys(columns, by)], dtype=np.intp)
    count = np.bincount(found, minlength=len(places)) + 1.0
    sums = np.stack([np.bincount(found, weights=each, minlength=len(places)) for each in rows.T], axis=1)
    table = np.vstack([(sums + mean) / count[:, None], mean])  # the last row is for keys never seen

    def answer(asked: Mapping[str, Column]) -> Floats:
        return _answered(table[[places.get(key, -1) for key in _keys(asked, by)]], measure)

    return answer


def fit_linear_model(
    schema: Schema, columns: Mapping[str, Column], target: Floats, *, measure: Measure, seed: int = 0
) -> Answer:
    """Return a logistic model of an event, one a class of classes, else a linear one.

    It is fitted on 100,000 rows at most, of many classes on fewer.
    """
    rows = _scores(target, measure)
    most = _MAX_LINEAR_ROWS // max(1, rows.shape[1] // 2)
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
        columns, rows = {name: column[chosen] for name, column in columns.items()}, rows[chosen]
    design = Design(schema, columns)
    matrix = design.matrix(columns)
    if measure.is_binary or measure.task == "multiclass":
        odds = np.column_stack([fit_logistic(matrix, each) for each in rows.T])

        def shares(asked: Mapping[str, Column]) -> Floats:
            found = probability(design.matrix(asked) @ odds)
            return _answered(
                found if found.shape[1] == 1 else found / found.sum(axis=1, keepdims=True), measure
            )

        return shares
    slope = fit_linear(matrix, rows[:, 0])
    return lambda asked: design.matrix(asked) @ slope


def fit_seasonal(columns: Mapping[str, Column], target: Floats, measure: Measure) -> Answer:
    """Return a forecast that repeats the last season that is known."""
    order = np.argsort(steps(columns, measure), kind="stable")
    last = target[order][-measure.season :]
    return lambda asked: last[steps(asked, measure) % len(last)]


def _scores(target: Floats, measure: Measure) -> Floats:
    """Return outcomes as rows of means to be: one column, or one a class."""
    if measure.task != "multiclass":
        return target[:, None]
    return np.asarray(target[:, None] == np.arange(len(measure.classes)), dtype=np.float64)


def _answered(scores: Floats, measure: Measure) -> Floats:
    if measure.task != "multiclass":
        return scores[:, 0]
    return scores if measure.has_scores else measure.decided(scores)


def steps(columns: Mapping[str, Column], measure: Measure) -> Ints:
    """Return which step of a forecast each row is, from 0."""
    at = columns.get(measure.at)
    if at is None:
        return np.arange(len(next(iter(columns.values()))))
    place = np.empty(len(at), dtype=np.int64)
    place[np.argsort(at, kind="stable")] = np.arange(len(at))
    return place


def _n_rows(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values())))


def _keys(columns: Mapping[str, Column], by: Sequence[str]) -> list[tuple[object, ...]]:
    return list(zip(*(columns[name].tolist() for name in by), strict=True))
