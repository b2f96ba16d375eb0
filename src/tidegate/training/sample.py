"""Rows and the answers to them, kept to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.contract.batch import Column

N_SAMPLE_ROWS = 2_000
"""Rows whose answers a run keeps: each branch of a model is likely met, and the file stays small."""


class StoredColumn(msgspec.Struct, frozen=True, array_like=True):
    """One column.

    Attributes:
        dtype: As numpy writes it, byte order included; `O` for objects.
        shape: Rows first.
        data: The values' bytes in C order; for objects the values themselves.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class Sample(msgspec.Struct, frozen=True):
    """Rows of a trainer's sample, and what its model answered.

    Attributes:
        inputs: Input columns by name.
        outputs: Output columns by name.
    """

    inputs: dict[str, StoredColumn]
    outputs: dict[str, StoredColumn]

    def to_bytes(self) -> bytes:
        """Return the stored form, MessagePack: equal samples give equal bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sample:
        """Read the stored form.

        Raises:
            msgspec.MsgspecError: It is something else.
        """
        return msgspec.msgpack.decode(data, type=cls)


def store_columns(columns: Mapping[str, Column]) -> dict[str, StoredColumn]:
    """Return columns in their stored form, in order of their names."""
    stored = {}
    for name in sorted(columns):
        column = np.ascontiguousarray(columns[name])
        if column.dtype == object:
            plain = [_plain(value) for value in column.tolist()]
            stored[name] = StoredColumn("O", column.shape, plain)
        else:
            little = column.astype(column.dtype.newbyteorder("<"), copy=False)
            stored[name] = StoredColumn(little.dtype.str, column.shape, little.tobytes())
    return stored


def load_columns(stored: Mapping[str, StoredColumn]) -> dict[str, Column]:
    """Return what `store_columns` was given."""
    columns: dict[str, Column] = {}
    for name, column in stored.items():
        if isinstance(column.data, bytes):
            columns[name] = np.frombuffer(column.data, np.dtype(column.dtype)).reshape(column.shape)
        else:
            values = np.empty(len(column.data), object)
            values[:] = column.data
            columns[name] = values
    return columns


def differing_rows(one: StoredColumn, other: StoredColumn) -> int | None:
    """Return how many rows differ in any bit; None if the columns are not of one kind and length."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return None
    if isinstance(one.data, bytes) and isinstance(other.data, bytes):
        width = len(one.data) // one.shape[0] if one.shape[0] else 0
        if not width:
            return 0
        mine, theirs = (np.frombuffer(data, np.uint8).reshape(-1, width) for data in (one.data, other.data))
        return int((mine != theirs).any(axis=1).sum())
    return sum(bool(a != b) for a, b in zip(one.data, other.data, strict=True))


def _plain(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)  # a ragged vector stands as an array in an object column
    return to_list() if callable(to_list) else value
