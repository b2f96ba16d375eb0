"""Columns as bytes: how the rows of a batch are laid out in a frame, compiled once from a layout."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.layout import Column
from tidegate.contract.schema import DataType
from tidegate.core.error import Corrupt

_SWAP = sys.byteorder == "big"
_NULL = 0xFFFF_FFFF
_SIZE = struct.Struct("<I")


def pack(code: str, values: Iterable[Any]) -> bytes:
    """Return numbers as little-endian bytes; `code` is one of `array`'s type codes."""
    packed = array(code, values)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def pack_texts(values: Sequence[Any]) -> bytes:
    """Return texts or bytes (None allowed) as their lengths and then all their bytes."""
    if len(values) == 1 and isinstance(value := values[0], str):
        known = value.encode()
        return _SIZE.pack(len(known)) + known
    if None in values:
        pieces = [b"" if v is None else v.encode() if isinstance(v, str) else bytes(v) for v in values]
        lengths = [_NULL if v is None else len(k) for v, k in zip(values, pieces, strict=True)]
        return pack("I", lengths) + b"".join(pieces)
    pieces = [v.encode() if isinstance(v, str) else bytes(v) for v in values]
    return pack("I", map(len, pieces)) + b"".join(pieces)


def unpack_texts(data: memoryview, count: int, *, text: bool) -> tuple[list[Any], int]:
    """Undo `pack_texts` for `count` values; return them and how many bytes they took."""
    lengths = np.frombuffer(data, "<u4", count).tolist()
    at = 4 * count
    values: list[Any] = []
    for length in lengths:
        if length == _NULL:
            values.append(None)
            continue
        piece = bytes(data[at : at + length])
        values.append(piece.decode() if text else piece)
        at += length
    return values, at


class Part(Protocol):
    """Some columns that stand together in a frame."""

    names: tuple[str, ...]

    def encode(self, batch: Batch) -> bytes: ...

    def decode(self, data: memoryview, n_rows: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        """Return the columns and the number of bytes they took from the start of `data`."""
        ...


class NumberPart:
    """Scalar columns of one dtype, row by row: usually one block of the batch, taken in one call."""

    def __init__(self, names: tuple[str, ...], dtype: np.dtype[Any]) -> None:
        self.names = names
        self.dtype = dtype
        self._stored = dtype.newbyteorder("<")

    def encode(self, batch: Batch) -> bytes:
        names = self.names
        column = batch.columns[names[0]] if len(names) == 1 else batch.block(names)
        if column is None:
            return batch.matrix(names, self._stored).tobytes()
        if column.dtype is not self._stored and column.dtype != self._stored:
            column = column.astype(self._stored)
        return column.tobytes()

    def block(self, data: memoryview, n_rows: int) -> np.ndarray[Any, Any]:
        """Return the columns side by side, shape (n_rows, len(names)), as a view of `data`."""
        return np.frombuffer(data, self._stored, n_rows * len(self.names)).reshape(n_rows, -1)

    def decode(self, data: memoryview, n_rows: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        block = self.block(data, n_rows)
        return {name: block[:, position] for position, name in enumerate(self.names)}, block.nbytes


class _Codes(dict[Any, int]):
    """Position of each category; what is none of them gets the code of the unknown."""

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__({name: code for code, name in enumerate(categories)})
        self.letter = "H" if len(categories) < 0xFFFE else "I"
        self.null = 0xFFFF if self.letter == "H" else 0xFFFF_FFFF
        self[None] = self.null

    def __missing__(self, name: Any) -> int:
        return self.null - 1


class _Element(NamedTuple):
    """How the elements of one column are stored once they stand in one dimension."""

    pack: Callable[[np.ndarray[Any, Any]], bytes]
    unpack: Callable[[memoryview, int], tuple[np.ndarray[Any, Any], int]]


def _objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _number_element(dtype: np.dtype[Any]) -> _Element:
    stored = dtype.newbyteorder("<")
    return _Element(
        lambda flat: flat.astype(stored, copy=False).tobytes(),
        lambda data, count: (np.frombuffer(data, stored, count), count * dtype.itemsize),
    )


def _text_element(text: bool) -> _Element:
    def unpack(data: memoryview, count: int) -> tuple[np.ndarray[Any, Any], int]:
        values, taken = unpack_texts(data, count, text=text)
        return _objects(values), taken

    return _Element(lambda flat: pack_texts(flat.tolist()), unpack)


def _category_element(categories: Sequence[str]) -> _Element:
    codes = _Codes(categories)
    width = 2 if codes.letter == "H" else 4

    def unpack(data: memoryview, count: int) -> tuple[np.ndarray[Any, Any], int]:
        stored = np.frombuffer(data, f"<u{width}", count)
        n = len(categories)
        return _objects([categories[c] if c < n else None for c in stored.tolist()]), count * width

    return _Element(lambda flat: pack(codes.letter, map(codes.__getitem__, flat.tolist())), unpack)


def _element(column: Column) -> _Element:
    if column.type is DataType.CATEGORY:
        return _category_element(column.categories)
    if column.type in (DataType.STRING, DataType.BYTES):
        return _text_element(column.type is DataType.STRING)
    return _number_element(column.type.dtype)


class ElementPart:
    """One column whose rows all have one shape."""

    def __init__(self, column: Column) -> None:
        self.names: tuple[str, ...] = (column.name,)
        self._name = column.name
        self._shape = tuple(size or 0 for size in column.shape)
        self._per_row = math.prod(self._shape)
        self._element = _element(column)

    def encode(self, batch: Batch) -> bytes:
        column = batch.columns[self._name]
        return self._element.pack(column.reshape(-1) if self._shape else column)

    def decode(self, data: memoryview, n_rows: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        flat, taken = self._element.unpack(data, n_rows * self._per_row)
        return {self._name: flat.reshape((n_rows, *self._shape)) if self._shape else flat}, taken


class RaggedPart:
    """One column of arrays whose sizes differ from row to row: the free sizes, then all elements."""

    def __init__(self, column: Column) -> None:
        self.names: tuple[str, ...] = (column.name,)
        self._name = column.name
        self._shape = column.shape
        self._free = [axis for axis, size in enumerate(column.shape) if size is None]
        self._dtype = column.type.dtype
        self._element = _element(column)

    def encode(self, batch: Batch) -> bytes:
        rows = [None if row is None else np.asarray(row, self._dtype) for row in batch.columns[self._name]]
        sizes: list[int] = []
        for row in rows:
            sizes.extend(_NULL if row is None else row.shape[axis] for axis in self._free)
        flat = [row.reshape(-1) for row in rows if row is not None]
        elements = np.concatenate(flat) if flat else np.empty(0, self._dtype)
        return pack("I", sizes) + self._element.pack(elements)

    def decode(self, data: memoryview, n_rows: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        n_free = len(self._free)
        sizes = np.frombuffer(data, "<u4", n_rows * n_free).reshape(n_rows, n_free).tolist()
        shapes: list[list[int] | None] = []
        for row in sizes:
            shape = [size or 0 for size in self._shape]
            for axis, free in zip(self._free, row, strict=True):
                shape[axis] = free
            shapes.append(None if row[0] == _NULL else shape)
        counts = [0 if shape is None else math.prod(shape) for shape in shapes]
        head = 4 * n_rows * n_free
        flat, taken = self._element.unpack(data[head:], sum(counts))
        column = np.empty(n_rows, dtype=object)
        at = 0
        for position, (known, count) in enumerate(zip(shapes, counts, strict=True)):
            if known is not None:
                column[position] = flat[at : at + count].reshape(known)
            at += count
        return {self._name: column}, head + taken


def _is_number(column: Column) -> bool:
    return column.type not in (DataType.STRING, DataType.BYTES, DataType.CATEGORY)


class ColumnCodec:
    """All columns of one side of a layout."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.names = tuple(column.name for column in columns)
        groups: dict[np.dtype[Any], list[str]] = {}
        parts: list[Part] = []
        for column in columns:
            if None in column.shape:
                parts.append(RaggedPart(column))
            elif column.shape or not _is_number(column):
                parts.append(ElementPart(column))
            else:
                groups.setdefault(column.type.dtype, []).append(column.name)
        numbers: list[Part] = [NumberPart(tuple(names), dtype) for dtype, names in groups.items()]
        self.parts: tuple[Part, ...] = (*numbers, *parts)
        self._encoders = tuple(part.encode for part in self.parts)

    def encode(self, batch: Batch) -> list[bytes]:
        """Return the rows' bytes, in pieces."""
        return [encode(batch) for encode in self._encoders]

    def decode(self, data: memoryview, n_rows: int) -> Batch:
        """Return the rows, columns in the layout's order.

        Raises:
            Corrupt: There are fewer or more bytes than the rows take.
        """
        columns: dict[str, np.ndarray[Any, Any]] = {}
        blocks: list[tuple[tuple[str, ...], np.ndarray[Any, Any]]] = []
        at = 0
        for part in self.parts:
            decoded, taken = part.decode(data[at:], n_rows)
            columns |= decoded
            if isinstance(part, NumberPart) and len(part.names) > 1:
                blocks.append((part.names, part.block(data[at:], n_rows)))
            at += taken
        if at != len(data):
            raise Corrupt(f"The columns of a frame take {at} bytes, it has {len(data)}.")
        return Batch({name: columns[name] for name in self.names}, n_rows, blocks=blocks)
