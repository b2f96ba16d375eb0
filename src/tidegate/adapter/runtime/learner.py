"""A boosted classifier for checks of data, where scikit-learn is installed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.adapter.runtime.native import require
from tidegate.core.error import InvalidSetting

Floats = npt.NDArray[np.float64]

_MAX_CATEGORIES = 200
"""Texts that get a number of their own; scikit-learn takes up to 255 categories a column."""


def fit_boosted_classifier(
    rows: pl.DataFrame, given: npt.NDArray[np.int64], n_classes: int
) -> Callable[[pl.DataFrame], Floats]:
    """Fit gradient-boosted trees on histograms, small enough not to learn wrong labels by heart.

    Args:
        rows: Columns of numbers, texts, truth values and times; others are left out, and so are those that
            have no value here: trees cannot bin them.
        given: Class of each row, from 0; each class has rows.
        n_classes: How many there are.

    Raises:
        MissingExtra: scikit-learn is not installed.
        InvalidSetting: No column is left.
    """
    require("A boosted check of labels", "sklearn", extra="sklearn")
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]  # ships no types
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

    levels = {
        column.name: column.cast(pl.String)
        .drop_nulls()
        .value_counts(sort=True)[column.name]
        .head(_MAX_CATEGORIES)
        for column in rows
        if column.dtype in (pl.String, pl.Categorical, pl.Enum)
    }

    def numbers(column: pl.Series) -> Floats:
        if column.name in levels:
            known = levels[column.name]
            codes = pl.Series(range(len(known)), dtype=pl.Float64)
            column = column.cast(pl.String).replace_strict(known, codes, default=None)
        elif column.dtype.is_temporal():
            column = column.to_physical()
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()

    usable = {
        column.name: numbers(column) for column in rows if column.name in levels or _is_number(column.dtype)
    }
    usable = {name: column for name, column in usable.items() if bool(np.isfinite(column).any())}
    if not usable:
        raise InvalidSetting(f"None of the columns {', '.join(rows.columns)} holds a value to learn from.")

    def matrix(asked: pl.DataFrame) -> Floats:
        return np.column_stack([numbers(asked[name]) for name in usable])

    model = HistGradientBoostingClassifier(
        max_iter=60,
        learning_rate=0.15,
        max_leaf_nodes=15,
        min_samples_leaf=30,
        l2_regularization=1.0,
        categorical_features=[name in levels for name in usable],
        early_stopping=False,
        random_state=0,
    )
    # OpenMP's threads wait for each other by spinning, which on a busy machine costs more than it saves.
    with threadpool_limits(1, user_api="openmp"):
        model.fit(np.column_stack(list(usable.values())), given)

    def predict(asked: pl.DataFrame) -> Floats:
        found = np.zeros((len(asked), n_classes))
        with threadpool_limits(1, user_api="openmp"):
            found[:, model.classes_] = model.predict_proba(matrix(asked))
        return found

    return predict


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean
