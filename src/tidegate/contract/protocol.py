"""A contract as the Open Inference Protocol names it: one tensor a field.

Source: Open Inference Protocol, version 2 (KServe, Triton): tensor data types, model metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""The dtype of each of the protocol's data types, as it stands on the wire: little-endian."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


class TensorMetadata(msgspec.Struct, frozen=True):
    """One tensor as a model's metadata lists it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def datatype_of(field: Field) -> str:
    """Return the protocol's data type of a field.

    Text, categories and bytes are BYTES; timestamps and durations INT64 microseconds.
    """
    return datatype_of_dtype(field.type.dtype)


def datatype_of_dtype(dtype: np.dtype[Any]) -> str:
    """Return the protocol's data type of a column's dtype.

    Raises:
        KeyError: The protocol has none.
    """
    return "BYTES" if dtype.kind in "OSU" else _NAMES[dtype.newbyteorder("<")]


def is_text(field: Field) -> bool:
    """Tell whether a field's BYTES are UTF-8 text rather than arbitrary bytes."""
    return field.type is not DataType.BYTES


def tensor_metadata(schema: Schema, *, batched: bool = True) -> list[TensorMetadata]:
    """Return the tensors that stand for a schema, in order.

    Args:
        schema: Input or output of a contract.
        batched: Whether there is a first dimension for rows. Without one a scalar has shape [1].
    """
    return [
        TensorMetadata(field.name, datatype_of(field), tensor_shape(field, batched=batched))
        for field in schema.fields
    ]


def tensor_shape(field: Field, *, batched: bool = True) -> tuple[int, ...]:
    """Return the shape of the tensor that stands for a field; -1 is a dimension of any size."""
    own = tuple(-1 if size is None else size for size in field.shape)
    return (-1, *own) if batched else own or (1,)
