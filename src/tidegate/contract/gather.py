"""Rows to columns, with the scalar columns of one dtype side by side in one block."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, BlockColumns, Column
from tidegate.contract.field import Field
from tidegate.contract.schema import Schema

_PACK_CODES = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}
"""What `struct` calls numpy's dtypes, in its sizes that are the same everywhere."""

_NONE: Mapping[str, Column] = {}

Values = Callable[[Any], Any]


class Gatherer:
    """Turns finished row structs of one schema into batches."""

    def __init__(self, schema: Schema) -> None:
        """Compile the plan; see `block_groups` for what stands in one block."""
        self._names = schema.names
        self._blocks = [
            _BlockPlan(names, dtype, whole=names == schema.names)
            for names, dtype in block_groups(schema.fields)
        ]
        self._vectors = [
            (field.name, attrgetter(field.name), _stacker(field))
            for field in schema.fields
            if not field.is_scalar
        ]
        self._places = {
            name: (which, position)
            for which, plan in enumerate(self._blocks)
            for position, name in enumerate(plan.names)
        }

    def gather(self, rows: Sequence[Any]) -> Batch:
        """Return the columns of `rows` (at least one)."""
        blocks = {plan.names: plan.gather(rows) for plan in self._blocks}
        vectors = (
            {name: stack([read(row) for row in rows]) for name, read, stack in self._vectors}
            if self._vectors
            else _NONE
        )
        columns = BlockColumns(self._names, self._places, tuple(blocks.values()), vectors)
        return Batch(columns, len(rows), blocks=blocks)


def block_groups(fields: Iterable[Field]) -> list[tuple[tuple[str, ...], npt.DTypeLike]]:
    """Return which scalar fields share a block: those of one column dtype, in schema order."""
    groups: dict[np.dtype[Any], list[str]] = {}
    for field in fields:
        if field.is_scalar:
            groups.setdefault(field.type.dtype, []).append(field.name)
    return [(tuple(names), dtype) for dtype, names in groups.items()]


class _BlockPlan:
    """How one block is read off the rows."""

    __slots__ = ("_dtype", "_pack", "_read", "_width", "names")

    def __init__(self, names: tuple[str, ...], dtype: npt.DTypeLike, *, whole: bool) -> None:
        self.names = names
        self._dtype = np.dtype(dtype)
        self._width = len(names)
        # attrgetter of one name gives the value itself, of several a tuple; astuple is twice as fast.
        self._read: Values = msgspec.structs.astuple if whole else attrgetter(*names)
        if len(names) == 1 and not whole:
            read_one = self._read
            self._read = lambda row: (read_one(row),)
        code = _PACK_CODES.get(self._dtype.str[1:])
        self._pack = None if code is None else struct.Struct(f"={self._width}{code}").pack

    def gather(self, rows: Sequence[Any]) -> Column:
        n_rows = len(rows)
        read, pack, width = self._read, self._pack, self._width
        if pack is not None:
            try:  # two thirds of the time that numpy takes over Python's numbers
                data = bytearray().join([pack(*read(row)) for row in rows])
                return np.ndarray((n_rows, width), self._dtype, data)
            except struct.error:
                pass  # a missing float is None, which numpy knows as NaN and struct does not
        values = read(rows[0]) if n_rows == 1 else chain.from_iterable(map(read, rows))
        return np.fromiter(values, self._dtype, n_rows * width).reshape(n_rows, width)


def _stacker(field: Field) -> Callable[[list[Any]], Column]:
    """Return what makes a column of the vectors of several rows."""
    dtype = field.type.dtype
    if None not in field.shape:
        return lambda values: np.array(values, dtype=dtype)
    empty = tuple(size or 0 for size in field.shape)

    def stack(values: list[Any]) -> Column:
        column = np.empty(len(values), dtype=object)
        for position, value in enumerate(values):
            array = np.array(value, dtype=dtype)
            column[position] = array if array.ndim == len(empty) else array.reshape(empty)
        return column

    return stack
