"""Input fields as the numbers of a linear model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting

Floats = npt.NDArray[np.float64]

MAX_LEVELS = 64
"""Values of a text field that get a column of their own, the most frequent first; others share none."""


class Design:
    """Turns columns into a matrix: numbers scaled as in training, gaps marked, texts one column a value."""

    def __init__(self, schema: Schema, columns: Mapping[str, Column]) -> None:
        """Learn scales and values.

        Args:
            schema: The input side of a contract; fields that `columns` lack are left out.
            columns: The training rows.

        Raises:
            InvalidSetting: None of the fields is among the columns.
        """
        self._scales_: dict[str, tuple[float, float]] = {}
        self._levels_: dict[str, dict[Any, int]] = {}
        for field in schema.fields:
            column = columns.get(field.name)
            if column is None or not field.is_scalar:
                continue
            if field.type.is_text:
                counted = Counter(value for value in column.tolist() if value is not None)
                frequent = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))[:MAX_LEVELS]
                self._levels_[field.name] = {value: place for place, (value, _) in enumerate(frequent)}
            elif field.type.dtype != object:
                values = as_floats(column)
                known = values[np.isfinite(values)]
                mean = float(known.mean()) if len(known) else 0.0
                self._scales_[field.name] = (mean, float(known.std()) or 1.0 if len(known) else 1.0)
        if not self._scales_ and not self._levels_:
            raise InvalidSetting(
                f"None of the contract's input fields {', '.join(schema.names)} is among the columns.",
                hint="Return the input fields by their names in tg.Trial(train=..., test=...).",
            )

    def matrix(self, columns: Mapping[str, Column]) -> Floats:
        """Return the design matrix, shape (n_rows, n_terms); its first column is all ones."""
        n_rows = len(next(iter(columns.values())))
        n_terms = 1 + 2 * len(self._scales_) + sum(len(levels) for levels in self._levels_.values())
        matrix = np.zeros((n_rows, n_terms))
        matrix[:, 0] = 1.0
        place = 1
        for name, (mean, scale) in self._scales_.items():
            values = as_floats(columns[name])
            known = np.isfinite(values)
            matrix[:, place] = np.where(known, (values - mean) / scale, 0.0)
            matrix[:, place + 1] = ~known
            place += 2
        for name, levels in self._levels_.items():
            codes = np.fromiter((levels.get(value, -1) for value in columns[name].tolist()), np.intp, n_rows)
            rows = np.flatnonzero(codes >= 0)
            matrix[rows, place + codes[rows]] = 1.0
            place += len(levels)
        return matrix


def as_floats(column: Column) -> Floats:
    """Return a column as float64; a gap is NaN, a time is microseconds."""
    if column.dtype.kind == "M":
        column = np.where(np.isnat(column), np.nan, column.astype("M8[us]").astype(np.int64))
    return np.asarray(column, dtype=np.float64)
