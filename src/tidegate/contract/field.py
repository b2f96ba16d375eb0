"""The field: one named value of a row, as plain data."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import numpy as np


class DataType(StrEnum):
    """What one element of a field is."""

    BOOL = "bool"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    CATEGORY = "category"
    BYTES = "bytes"
    TIMESTAMP = "timestamp"
    DURATION = "duration"

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        return self in _INTEGERS

    @property
    def is_text(self) -> bool:
        return self is DataType.STRING or self is DataType.CATEGORY

    @property
    def is_time(self) -> bool:
        return self is DataType.TIMESTAMP or self is DataType.DURATION

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a column: object for text and bytes, int64 microseconds for times."""
        return _DTYPES[self]


_FLOATS = frozenset({DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64})
_INTEGERS = frozenset(kind for kind in DataType if kind.value.lstrip("u").startswith("int"))
_DTYPES: dict[DataType, np.dtype[Any]] = {
    **{kind: np.dtype(kind.value) for kind in _FLOATS | _INTEGERS},
    DataType.BOOL: np.dtype(np.bool_),
    DataType.STRING: np.dtype(object),
    DataType.CATEGORY: np.dtype(object),
    DataType.BYTES: np.dtype(object),
    DataType.TIMESTAMP: np.dtype(np.int64),
    DataType.DURATION: np.dtype(np.int64),
}


class Role(StrEnum):
    """What a field is to the system, beside being an input or an output."""

    KEY = "key"  # whom traffic sticks to, and whom outcomes may name
    PROTECTED = "protected"  # an attribute by which fairness is judged
    TIMESTAMP = "timestamp"  # when the event happened, as against when it arrived


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One named value of a row.

    Attributes:
        name: Python identifier; the wire name on every face.
        type: Element type.
        shape: Shape of one row's value: `()` for a scalar, `(20,)` for a vector, `(None,)` for a
            vector of any length, `(3, 224, 224)` for a tensor. None is a free dimension.
        optional: The caller may leave it out (or send null).
        default: What stands in when it is left out. Without one, a float is NaN and a text,
            category or bytes value is None; other types need a default to be optional, and so does
            a vector of free length. Times in microseconds, vectors as nested lists.
        ge, gt, le, lt: Range of each element, in the field's unit. Timestamps and durations in
            microseconds.
        min_length, max_length: Number of characters or bytes of each element.
        pattern: Regular expression that a text must contain a match of (anchor it to match whole); `$` is
            the end of the text and a digit one of 0 to 9, as in a JSON Schema.
        categories: The values a category may take, in order; their position is the journal's code.
        unit: For people and for compatibility: a changed unit is a breaking change.
        roles: What the field is to the system.
        sensitive: Never leaves the worker: not journalled, logged, measured or echoed in errors.
        doc: One line for people.
    """

    name: str
    type: DataType
    shape: tuple[int | None, ...] = ()
    optional: bool = False
    default: Any = None
    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    categories: tuple[str, ...] = ()
    unit: str = ""
    roles: tuple[Role, ...] = ()
    sensitive: bool = False
    doc: str = ""

    @property
    def is_scalar(self) -> bool:
        return not self.shape

    @property
    def has_range(self) -> bool:
        return not (self.ge is None and self.gt is None and self.le is None and self.lt is None)
