"""Where an input tensor goes: into the column of one field, or as a matrix into those of several."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le
from typing import Protocol

import numpy as np

from tidegate.contract.batch import Batch, BlockColumns
from tidegate.contract.convert import keeps_all
from tidegate.contract.limit import column_limit
from tidegate.contract.protocol import DATATYPES, datatype_of
from tidegate.contract.schema import Contract, DataType, Field
from tidegate.serving.http.tensor import Array

_FEW_VALUES = 256
"""Up to here Python's own numbers are compared faster than numpy starts."""

_COMPARABLE = (DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64, DataType.INT32, DataType.INT64)


class Port(Protocol):
    """An input tensor by one of its names."""

    @property
    def whole(self) -> bool:
        """Whether this tensor alone makes the rows of a request, by `batch`."""
        ...

    def expected(self, shape: Sequence[int]) -> list[int] | None:
        """Return the shape that the tensor should have, where `shape` is another."""
        ...

    def columns(self, array: Array) -> dict[str, Array]:
        """Return the tensor as columns of the contract, not checked yet."""
        ...

    def batch(self, array: Array) -> Batch | None:
        """Return the rows of a request, checked; None where the array needs a closer look."""
        ...


class FieldPort:
    """The tensor of one field."""

    __slots__ = ("_batched", "_check", "_dims", "_name", "_names", "_scalar", "whole")

    def __init__(self, field: Field, contract: Contract) -> None:
        """Make the port of one of the contract's input fields."""
        self._name = field.name
        self._dims = [-1 if size is None else size for size in field.shape]
        self._scalar = self._dims in ([], [1])
        self._batched = contract.batched
        alone = len(contract.input.fields) == 1 and contract.batched and -1 not in self._dims
        self.whole = alone and field.type in _COMPARABLE
        self._check = _RangeCheck([field]) if self.whole else None

    def expected(self, shape: Sequence[int]) -> list[int] | None:
        dims = self._dims
        if shape or not self._batched:
            row = shape[1:] if self._batched else shape
            if row == dims or (self._scalar and row in ([], [1])):  # clients send a column as [n] or [n, 1]
                return None
            if -1 in dims and len(dims) == len(row):
                fits = (want in (-1, got) for want, got in zip(dims, row, strict=True))
                if all(fits):
                    return None
        return [-1, *dims] if self._batched else dims or [1]

    def columns(self, array: Array) -> dict[str, Array]:
        if not self._batched:  # the whole tensor is one row
            array = array.reshape(1) if self._dims == [] else array[np.newaxis]
        return {self._name: array}

    def batch(self, array: Array) -> Batch | None:
        checked = self._check.accept(array) if self._check is not None else None
        if checked is None:
            return None
        n_rows = len(array)
        if checked.ndim != len(self._dims) + 1:
            checked = checked.reshape(n_rows, *self._dims)
        return Batch({self._name: checked}, n_rows)


class MatrixPort:
    """A model's own input matrix, whose columns are fields of the contract."""

    __slots__ = ("_check", "_names", "_order", "_places", "datatype", "name", "whole", "width")

    def __init__(self, name: str, names: tuple[str, ...], contract: Contract) -> None:
        """Make the port of a matrix.

        Args:
            name: Its name.
            names: Scalar fields that its columns are, in order.
            contract: The contract.
        """
        fields = [contract.input.by_name[field] for field in names]
        kind = fields[0].type
        self.name = name
        self.width = len(fields)
        self.datatype = datatype_of(fields[0])
        self._names = names
        self._order = contract.input.names
        self._places = {field: (0, position) for position, field in enumerate(names)}
        alike = kind in _COMPARABLE and all(field.type is kind for field in fields)
        self.whole = alike and contract.batched and set(names) == set(self._order)
        self._check = _RangeCheck(fields) if self.whole else None

    def expected(self, shape: Sequence[int]) -> list[int] | None:
        return None if len(shape) == 2 and shape[1] == self.width else [-1, self.width]

    def columns(self, array: Array) -> dict[str, Array]:
        return {name: array[:, position] for position, name in enumerate(self._names)}

    def batch(self, array: Array) -> Batch | None:
        block = self._check.accept(array) if self._check is not None else None
        if block is None:
            return None
        columns = BlockColumns(self._order, self._places, (block,), {})
        return Batch(columns, len(block), blocks={self._names: block})


class _RangeCheck:
    """Dtype and range of all columns of an array at once."""

    __slots__ = ("_dtype", "_high_row", "_highs", "_low_row", "_lows", "_widens_from", "_width")

    def __init__(self, fields: Sequence[Field]) -> None:
        self._dtype = fields[0].type.dtype
        self._widens_from = frozenset(dtype for dtype in DATATYPES.values() if keeps_all(dtype, self._dtype))
        limits = [column_limit(field) for field in fields]
        self._lows = [limit.low for limit in limits]
        self._highs = [limit.high for limit in limits]
        self._low_row = np.array(self._lows, self._dtype)
        self._high_row = np.array(self._highs, self._dtype)
        self._width = len(fields)

    def accept(self, array: Array) -> Array | None:
        """Return the array in the fields' dtype if that loses nothing and all is in range, else None."""
        if array.dtype != self._dtype:
            if array.dtype not in self._widens_from:
                return None
            array = array.astype(self._dtype)
        size = array.size
        if size == 0:
            return None
        # a comparison with NaN is false, so that NaN is looked at closer
        if size > _FEW_VALUES:
            fits = bool((array >= self._low_row).all() and (array <= self._high_row).all())
        else:
            values = array.ravel().tolist()
            times = size // self._width
            lows, highs = (
                (self._lows * times, self._highs * times) if times > 1 else (self._lows, self._highs)
            )
            fits = all(map(le, lows, values)) and all(map(le, values, highs))
        return array if fits else None
