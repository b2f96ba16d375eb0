"""Columns to a model's tensors and back, as a binding says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import DataType, Field, Schema
from tidegate.predictor.binding import InputBinding, OutputBinding
from tidegate.predictor.protocol import PredictorError

_ROUNDING = 1e-6  # how far float32 sums of leaf weights are seen to stray beyond a probability's range


class Gather:
    """Turns columns into one input tensor."""

    def __init__(
        self, binding: InputBinding, schema: Schema, *, missing: Mapping[str, float | None] | None = None
    ) -> None:
        """Take a binding.

        Args:
            binding: Which fields make up the tensor.
            schema: The contract's inputs.
            missing: Field -> what a missing text is to the model; "" unless said, since no graph knows one.
        """
        self.binding = binding
        self._missing = missing or {}
        self.fields = binding.fields
        self.dtype = binding.type.dtype
        fields = [schema.by_name[name] for name in binding.fields]
        self.is_matrix = fields[0].is_scalar and len(binding.row_shape) == 1
        self._is_single = len(fields) == 1
        self._takes_block = self.is_matrix and not binding.codes
        self.is_ragged = None in fields[0].shape
        self.is_numeric = self.dtype != object
        self._are_bytes = [field.type is DataType.BYTES for field in fields]
        self._codes = {
            name: {value: float(code) for code, value in enumerate(values)}
            for name, values in binding.codes.items()
        }

    def column(self, batch: Batch, name: str) -> Column:
        """Return one field's column as the model takes it: codes for names, no None in text."""
        column = batch.columns[name]
        codes = self._codes.get(name)
        if codes is not None:
            return np.fromiter(
                (codes.get(str(value), np.nan) for value in column.tolist()), np.float64, len(column)
            )
        return column

    def into(self, batch: Batch, out: Column) -> None:
        """Write the tensor of `batch` into `out`, shape (n_rows, *row_shape)."""
        if self._takes_block:
            block = batch.block(self.fields)
            if block is not None:
                out[...] = block
                return
        if not self.is_matrix:
            out[...] = self.column(batch, self.fields[0])
            return
        for position, name in enumerate(self.fields):
            out[:, position] = self.column(batch, name)

    def tensor(self, batch: Batch) -> Column:
        """Return the tensor of `batch`, without a copy where a column or block already is it."""
        if not self.is_numeric:
            return self._text(batch)
        if self.is_matrix:
            if self._codes:
                out = np.empty((batch.n_rows, len(self.fields)), self.dtype)
                self.into(batch, out)
                return out
            if self._is_single:
                return np.ascontiguousarray(batch.columns[self.fields[0]], self.dtype).reshape(-1, 1)
            return batch.matrix(self.fields, self.dtype)
        column = self.column(batch, self.fields[0])
        if column.dtype == object:  # rows of one shape, kept as separate arrays
            return np.ascontiguousarray(np.stack(list(column)), dtype=self.dtype)
        return np.ascontiguousarray(column, dtype=self.dtype)

    def _text(self, batch: Batch) -> Column:
        if self._is_single:
            column = self._as_text(batch, self.fields[0], is_bytes=self._are_bytes[0])
            return column.reshape(-1, 1) if self.is_matrix else column
        columns = [
            self._as_text(batch, name, is_bytes=is_bytes)
            for name, is_bytes in zip(self.fields, self._are_bytes, strict=True)
        ]
        return np.stack(columns, axis=1)

    def _as_text(self, batch: Batch, name: str, *, is_bytes: bool) -> Column:
        column = batch.columns[name]
        if self.is_ragged:
            column = np.stack(list(column))
        values = column.tolist() if column.ndim == 1 else column.ravel().tolist()
        if None in values:
            missing = self._missing.get(name, "")
            values = [missing if value is None else value for value in values]
        elif not is_bytes:
            return column
        if is_bytes:
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        out = np.empty(len(values), object)
        out[:] = values
        return out.reshape(column.shape)


class Extract:
    """Turns an output tensor into one column of the contract."""

    __slots__ = ("binding", "field", "finish", "is_open", "name", "position", "shape")

    def __init__(self, binding: OutputBinding, field: Field, position: int) -> None:
        self.binding = binding
        self.field = field
        self.name = field.name
        self.position = position
        self.shape = field.shape
        self.is_open = None in field.shape
        self.finish: Callable[[Column], Column] = self._finisher()

    def part(self, answer: Column, n_rows: int) -> Column:
        """Return this output's part of a tensor, as a view.

        Raises:
            PredictorError: The model gave another shape than the contract says.
        """
        index = self.binding.index
        if index is not None:
            if answer.ndim != 2 or index >= answer.shape[1]:
                raise self._wrong_shape(answer.shape)
            answer = answer[:, index]
        open_shape = self.is_open and answer.shape[:1] == (n_rows,) and answer.ndim == 1 + len(self.shape)
        if answer.shape != (n_rows, *self.shape) and not open_shape:
            raise self._wrong_shape(answer.shape)
        return answer

    def column(self, answer: Any, n_rows: int) -> Column:
        """Return the contract's column of an answer, as a copy.

        Raises:
            PredictorError: The model gave another shape than the contract says.
        """
        part = self.part(self._from_mappings(answer) if self.binding.classes else answer, n_rows)
        return self.stacked(list(part)) if self.is_open else self.finish(part)

    def stacked(self, values: Sequence[Any]) -> Column:
        """Return a column of one array a row."""
        if self.is_open:
            column = np.empty(len(values), object)
            for row, value in enumerate(values):
                column[row] = np.array(value)
            return column
        arrays = [np.asarray(value) for value in values]
        for array in arrays:
            if array.shape != self.shape and array.size != int(np.prod(self.shape)):  # type: ignore[arg-type]
                raise self._wrong_shape(array.shape)
        return self.finish(np.stack([array.reshape(self.shape) for array in arrays]))  # type: ignore[arg-type]

    def _finisher(self) -> Callable[[Column], Column]:
        dtype = self.field.type.dtype
        if self.field.type is DataType.BYTES:
            return _encode
        if self.field.type.is_float and self.field.ge == 0 and self.field.le == 1:
            return _unit(dtype)
        return lambda column: column.astype(dtype)

    def _from_mappings(self, answer: Sequence[dict[Any, float]]) -> Column:
        rows = [{str(key): score for key, score in row.items()} for row in answer]
        return np.array([[row[key] for key in self.binding.classes] for row in rows], np.float32)

    def _wrong_shape(self, shape: Sequence[int]) -> PredictorError:
        return PredictorError(
            f"The model's output {self.binding.tensor!r} has shape {list(shape)}; output field "
            f"{self.name!r} needs one value of shape {list(self.shape)} a row.",
            field=self.name,
        )


def _encode(column: Column) -> Column:
    out = np.empty(column.size, object)
    out[:] = [value.encode() for value in column.ravel().tolist()]
    return out.reshape(column.shape)


def _unit(dtype: np.dtype[Any]) -> Callable[[Column], Column]:
    """Return a cast that takes the rounding of float32 sums out of probabilities.

    What strays further is left for the contract to refuse.
    """
    bits = np.dtype(f"u{dtype.itemsize}")
    # As unsigned integers, the floats from 0 to 1 are those up to the bits of 1; anything negative,
    # above or NaN is larger. One pass answers for both ends.
    one = np.ones(1, dtype).view(bits)[0]
    maximum = np.maximum.reduce

    def finish(column: Column) -> Column:
        column = column.astype(dtype)
        if column.size == 1:  # a reduction costs more than the rest of the call
            if 0.0 <= column.item() <= 1.0:
                return column
        elif maximum(column.view(bits), None) <= one:
            return column
        column[(column > 1.0) & (column <= 1.0 + _ROUNDING)] = 1.0
        column[(column < 0.0) & (column >= -_ROUNDING)] = 0.0
        return column

    return finish
