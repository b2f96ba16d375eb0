"""Columns as bytes: how the rows of a batch are laid out in a frame, compiled once from a layout."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from tidegate.contract.batch import Batch, Column
from tidegate.contract.layout import Column as StoredColumn
from tidegate.contract.schema import DataType
from tidegate.core.error import Corrupt

_SWAP = sys.byteorder == "big"
_NULL = 0xFFFF_FFFF
_SIZE = struct.Struct("<I")

Bytes = bytes | memoryview


def pack(code: str, values: Iterable[Any]) -> bytes:
    """Return numbers as little-endian bytes; `code` is one of `array`'s type codes."""
    packed = array(code, values)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def pack_texts(values: Sequence[Any]) -> bytes:
    """Return texts or bytes (None allowed) as their lengths and then all their bytes."""
    try:
        if len(values) == 1 and isinstance(value := values[0], str):
            known = value.encode()
            return _SIZE.pack(len(known)) + known
        pieces = [value.encode() if isinstance(value, str) else bytes(value or b"") for value in values]
    except UnicodeEncodeError:  # half of a pair, which no text on the wire has, but a program can make
        pieces = [
            value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value or b"")
            for value in values
        ]
    if None in values:
        lengths = [_NULL if v is None else len(piece) for v, piece in zip(values, pieces, strict=True)]
        return pack("I", lengths) + b"".join(pieces)
    return pack("I", map(len, pieces)) + b"".join(pieces)


def cut_texts(data: memoryview, at: int, count: int, pieces: list[memoryview]) -> int:
    """Cut what `pack_texts` made of `count` values, from `at`, into lengths and bytes; return its end."""
    body = at + 4 * count
    lengths = data[at:body]
    if count == 1:
        (total,) = _SIZE.unpack(lengths)
        end = body if total == _NULL else body + total
    else:
        stored = np.frombuffer(lengths, "<u4")
        end = body + int(stored.sum(dtype=np.int64, where=stored != _NULL))
    pieces += (lengths, data[body:end])
    return end


def unpack_texts(lengths: Bytes, joined: Bytes, *, text: bool) -> list[Any]:
    """Return the values that `cut_texts` cut, of one frame or of several put together."""
    whole = bytes(joined)
    values: list[Any] = []
    at = 0
    for length in np.frombuffer(lengths, "<u4").tolist():
        if length == _NULL:
            values.append(None)
            continue
        piece = whole[at : at + length]
        values.append(piece.decode() if text else piece)
        at += length
    return values


class Part(Protocol):
    """Some columns that stand together in a frame.

    `cut` and `decode` are apart so that the pieces of many frames can be put together, each piece
    with its like, and decoded as if they had been one.
    """

    names: tuple[str, ...]
    n_pieces: int

    @property
    def row_bytes(self) -> int | None:
        """What a row takes, if all rows take as much."""
        ...

    def encode(self, batch: Batch) -> bytes: ...

    def cut(self, data: memoryview, at: int, n_rows: int, pieces: list[memoryview]) -> int:
        """Append the pieces that begin at `at`; return where they end."""
        ...

    def decode(self, pieces: Sequence[Bytes], n_rows: int) -> dict[str, Column]: ...


class NumberPart:
    """Scalar columns of one dtype, row by row: usually one block of the batch, taken in one call."""

    n_pieces = 1

    def __init__(self, names: tuple[str, ...], dtype: np.dtype[Any]) -> None:
        self.names = names
        self._stored = dtype.newbyteorder("<")
        self.row_bytes: int | None = dtype.itemsize * len(names)
        self._row_bytes = dtype.itemsize * len(names)

    def encode(self, batch: Batch) -> bytes:
        names = self.names
        column = batch.columns[names[0]] if len(names) == 1 else batch.block(names)
        if column is None:
            return batch.matrix(names, self._stored).tobytes()
        if column.dtype is not self._stored and column.dtype != self._stored:
            column = column.astype(self._stored)
        return column.tobytes()

    def cut(self, data: memoryview, at: int, n_rows: int, pieces: list[memoryview]) -> int:
        end = at + n_rows * self._row_bytes
        pieces.append(data[at:end])
        return end

    def block(self, pieces: Sequence[Bytes], n_rows: int) -> Column:
        """Return the columns side by side, shape (n_rows, len(names)), as a view of the piece."""
        return np.frombuffer(pieces[0], self._stored).reshape(n_rows, len(self.names))

    def decode(self, pieces: Sequence[Bytes], n_rows: int) -> dict[str, Column]:
        block = self.block(pieces, n_rows)
        return {name: block[:, position] for position, name in enumerate(self.names)}


class _Codes(dict[Any, int]):
    """Position of each category; what is none of them gets the code of the unknown."""

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__({name: code for code, name in enumerate(categories)})
        self.letter = "H" if len(categories) < 0xFFFE else "I"
        self.null = 0xFFFF if self.letter == "H" else 0xFFFF_FFFF
        self[None] = self.null

    def __missing__(self, name: Any) -> int:
        return self.null - 1


class _Element(Protocol):
    """How the elements of one column are stored once they stand in one dimension."""

    n_pieces: int

    @property
    def width(self) -> int | None:
        """What an element takes, if all take as much."""
        ...

    def pack(self, flat: Column) -> bytes: ...

    def cut(self, data: memoryview, at: int, count: int, pieces: list[memoryview]) -> int: ...

    def unpack(self, pieces: Sequence[Bytes]) -> Column: ...


def _objects(values: Sequence[Any]) -> Column:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


class _NumberElement:
    n_pieces = 1

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._stored = dtype.newbyteorder("<")
        self.width: int | None = dtype.itemsize

    def pack(self, flat: Column) -> bytes:
        return flat.astype(self._stored, copy=False).tobytes()

    def cut(self, data: memoryview, at: int, count: int, pieces: list[memoryview]) -> int:
        end = at + count * self._stored.itemsize
        pieces.append(data[at:end])
        return end

    def unpack(self, pieces: Sequence[Bytes]) -> Column:
        return np.frombuffer(pieces[0], self._stored)


class _TextElement:
    n_pieces = 2

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self.width: int | None = None

    def pack(self, flat: Column) -> bytes:
        return pack_texts(flat.tolist())

    def cut(self, data: memoryview, at: int, count: int, pieces: list[memoryview]) -> int:
        return cut_texts(data, at, count, pieces)

    def unpack(self, pieces: Sequence[Bytes]) -> Column:
        return _objects(unpack_texts(pieces[0], pieces[1], text=self._text))


class _CategoryElement:
    n_pieces = 1

    def __init__(self, categories: Sequence[str], *, group_only: bool) -> None:
        self._codes = _Codes(categories)
        self._width = 2 if self._codes.letter == "H" else 4
        self.width: int | None = self._width
        shown = [str(code) for code in range(len(categories))] if group_only else categories
        self._names = _objects([*shown, None])

    def pack(self, flat: Column) -> bytes:
        return pack(self._codes.letter, map(self._codes.__getitem__, flat.tolist()))

    def cut(self, data: memoryview, at: int, count: int, pieces: list[memoryview]) -> int:
        end = at + count * self._width
        pieces.append(data[at:end])
        return end

    def unpack(self, pieces: Sequence[Bytes]) -> Column:
        stored = np.frombuffer(pieces[0], f"<u{self._width}")
        named: Column = self._names[np.minimum(stored, len(self._names) - 1)]
        return named


def _element(column: StoredColumn) -> _Element:
    if column.type is DataType.CATEGORY:
        return _CategoryElement(column.categories, group_only=column.group_only)
    if column.type in (DataType.STRING, DataType.BYTES):
        return _TextElement(text=column.type is DataType.STRING)
    return _NumberElement(column.type.dtype)


class ElementPart:
    """One column whose rows all have one shape."""

    def __init__(self, column: StoredColumn) -> None:
        self.names: tuple[str, ...] = (column.name,)
        self._name = column.name
        self._shape = tuple(size or 0 for size in column.shape)
        self._per_row = math.prod(self._shape)
        self._element = _element(column)
        self.n_pieces = self._element.n_pieces
        width = self._element.width
        self.row_bytes = None if width is None else width * self._per_row

    def encode(self, batch: Batch) -> bytes:
        column = batch.columns[self._name]
        return self._element.pack(column.reshape(-1) if self._shape else column)

    def cut(self, data: memoryview, at: int, n_rows: int, pieces: list[memoryview]) -> int:
        return self._element.cut(data, at, n_rows * self._per_row, pieces)

    def decode(self, pieces: Sequence[Bytes], n_rows: int) -> dict[str, Column]:
        flat = self._element.unpack(pieces)
        return {self._name: flat.reshape((n_rows, *self._shape)) if self._shape else flat}


class RaggedPart:
    """One column of arrays whose sizes differ from row to row: the free sizes, then all elements."""

    def __init__(self, column: StoredColumn) -> None:
        self.names: tuple[str, ...] = (column.name,)
        self._name = column.name
        self._shape = column.shape
        self._free = [axis for axis, size in enumerate(column.shape) if size is None]
        self._dtype = column.type.dtype
        self._element = _element(column)
        self.n_pieces = 1 + self._element.n_pieces
        self.row_bytes: int | None = None

    def encode(self, batch: Batch) -> bytes:
        rows = [None if row is None else np.asarray(row, self._dtype) for row in batch.columns[self._name]]
        sizes: list[int] = []
        for row in rows:
            sizes.extend(_NULL if row is None else row.shape[axis] for axis in self._free)
        flat = [row.reshape(-1) for row in rows if row is not None]
        elements = np.concatenate(flat) if flat else np.empty(0, self._dtype)
        return pack("I", sizes) + self._element.pack(elements)

    def _shapes(self, sizes: Bytes) -> list[tuple[int, ...] | None]:
        free = np.frombuffer(sizes, "<u4").reshape(-1, len(self._free)).tolist()
        shapes: list[tuple[int, ...] | None] = []
        for row in free:
            shape = [size or 0 for size in self._shape]
            for axis, size in zip(self._free, row, strict=True):
                shape[axis] = size
            shapes.append(None if row[0] == _NULL else tuple(shape))
        return shapes

    def cut(self, data: memoryview, at: int, n_rows: int, pieces: list[memoryview]) -> int:
        body = at + 4 * n_rows * len(self._free)
        sizes = data[at:body]
        pieces.append(sizes)
        count = sum(math.prod(shape) for shape in self._shapes(sizes) if shape is not None)
        return self._element.cut(data, body, count, pieces)

    def decode(self, pieces: Sequence[Bytes], n_rows: int) -> dict[str, Column]:
        flat = self._element.unpack(pieces[1:])
        column = np.empty(n_rows, dtype=object)
        at = 0
        for position, shape in enumerate(self._shapes(pieces[0])):
            if shape is not None:
                end = at + math.prod(shape)
                column[position] = flat[at:end].reshape(shape)
                at = end
        return {self._name: column}


def _is_number(column: StoredColumn) -> bool:
    return column.type not in (DataType.STRING, DataType.BYTES, DataType.CATEGORY)


class ColumnCodec:
    """All columns of one side of a layout."""

    def __init__(self, columns: Sequence[StoredColumn]) -> None:
        self.names = tuple(column.name for column in columns)
        # as the contract's decoder makes its blocks, so that one is stored by one call
        groups: dict[tuple[np.dtype[Any], bool], list[str]] = {}
        others: list[Part] = []
        for column in columns:
            if None in column.shape:
                others.append(RaggedPart(column))
            elif column.shape or not _is_number(column):
                others.append(ElementPart(column))
            else:
                groups.setdefault((column.type.dtype, column.type.is_time), []).append(column.name)
        self._numbers = [NumberPart(tuple(names), dtype) for (dtype, _), names in groups.items()]
        self._parts: tuple[Part, ...] = (*self._numbers, *others)
        self._encoders = tuple(part.encode for part in self._parts)
        self.n_pieces = sum(part.n_pieces for part in self._parts)

    def widths(self, n_rows: int) -> list[int] | None:
        """Return what each piece of so many rows takes; None if that depends on the values."""
        sizes = [part.row_bytes for part in self._parts]
        return None if None in sizes else [n_rows * (size or 0) for size in sizes]

    def encode(self, batch: Batch) -> list[bytes]:
        """Return the rows' bytes, in pieces."""
        return [encode(batch) for encode in self._encoders]

    def cut(self, data: memoryview, n_rows: int) -> list[memoryview]:
        """Cut one frame's columns into `n_pieces` pieces.

        Raises:
            Corrupt: There are fewer or more bytes than the rows take.
        """
        pieces: list[memoryview] = []
        at = 0
        for part in self._parts:
            at = part.cut(data, at, n_rows, pieces)
        if at != len(data):
            raise Corrupt(f"The columns of a frame take {at} bytes, it has {len(data)}.")
        return pieces

    def decode(self, pieces: Sequence[Bytes], n_rows: int) -> Batch:
        """Return the rows, columns in the layout's order."""
        columns: dict[str, Column] = {}
        blocks: list[tuple[tuple[str, ...], Column]] = []
        at = 0
        for part in self._parts:
            own = pieces[at : at + part.n_pieces]
            at += part.n_pieces
            columns |= part.decode(own, n_rows)
            if isinstance(part, NumberPart) and len(part.names) > 1:
                blocks.append((part.names, part.block(own, n_rows)))
        return Batch({name: columns[name] for name in self.names}, n_rows, blocks=blocks)
