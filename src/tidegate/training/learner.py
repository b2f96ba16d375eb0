"""A classifier that needs no engine, for checks of data before there is a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.batch import Column
from tidegate.contract.field import DataType, Field
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.training.design import Design
from tidegate.training.linear import fit_logistic, probability

Floats = npt.NDArray[np.float64]


def fit_linear_classifier(
    rows: pl.DataFrame, given: npt.NDArray[np.int64], n_classes: int
) -> LinearClassifier:
    """Fit a logistic model for each class against the others.

    Args:
        rows: Columns of numbers, texts, truth values and times; others are left out.
        given: Class of each row, from 0, shape (n_rows,).
        n_classes: How many there are.

    Raises:
        InvalidSetting: No column can be used.
    """
    return LinearClassifier(rows, given, n_classes)


class LinearClassifier:
    """One logistic model a class, on scaled numbers and the frequent values of texts."""

    def __init__(self, rows: pl.DataFrame, given: npt.NDArray[np.int64], n_classes: int) -> None:
        usable = usable_columns(rows)
        self._names_ = tuple(usable)
        fields = tuple(
            Field(name, DataType.STRING if column.dtype == object else DataType.FLOAT64)
            for name, column in usable.items()
        )
        self._design_ = Design(Schema(fields), usable)
        matrix = self._design_.matrix(usable)
        # Of two classes one model says all.
        asked = [1] if n_classes == 2 else range(n_classes)
        self._odds_ = [fit_logistic(matrix, (given == k).astype(np.float64)) for k in asked]

    def __call__(self, rows: pl.DataFrame) -> Floats:
        """Return probabilities, shape (n_rows, n_classes)."""
        matrix = self._design_.matrix(usable_columns(rows.select(self._names_)))
        found = np.column_stack([probability(matrix @ odds) for odds in self._odds_])
        if found.shape[1] == 1:
            return np.column_stack([1 - found[:, 0], found[:, 0]])
        return np.asarray(found / found.sum(axis=1, keepdims=True))


def usable_columns(rows: pl.DataFrame) -> dict[str, Column]:
    """Return the columns that a simple model can look at: numbers as floats, texts as objects.

    Raises:
        InvalidSetting: There is none.
    """
    chosen = []
    for column in rows:
        kind = column.dtype
        if kind.is_temporal():
            chosen.append(column.to_physical().cast(pl.Float64))
        elif kind.is_numeric() or kind == pl.Boolean:
            chosen.append(column.cast(pl.Float64))
        elif kind in (pl.String, pl.Categorical, pl.Enum):
            chosen.append(column.cast(pl.String))
    if not chosen:
        raise InvalidSetting(f"None of the columns {', '.join(rows.columns)} holds numbers, texts or times.")
    return columns_of(pl.DataFrame(chosen))
