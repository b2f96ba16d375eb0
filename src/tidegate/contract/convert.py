"""A column from elsewhere in the dtype and shape its field asks for, or the reason why not."""

from __future__ import annotations

import datetime as dt
from typing import Any, NoReturn

import numpy as np

from tidegate.contract.batch import Column, missing_rows
from tidegate.contract.field import DataType, Field
from tidegate.contract.protocol import datatype_of, datatype_of_dtype
from tidegate.contract.violation import ContractViolation
from tidegate.contract.wire import missing_value

_AS_TENSOR = ", in a tensor INT64 microseconds (of a timestamp, since 1970 UTC)"


class ColumnConverter:
    """Brings columns into one field's dtype and shape."""

    __slots__ = ("_dtype", "_field", "_fills", "_free", "_shape", "_widens_from")

    def __init__(self, field: Field) -> None:
        """Compile the conversion to `field`."""
        self._field = field
        self._free = None in field.shape
        self._shape = field.shape
        self._dtype = field.type.dtype
        has_holes = field.type.is_float or self._dtype.hasobject
        self._fills = has_holes and not self._free and field.optional and field.default is not None
        floats = [np.dtype(name) for name in ("float16", "float32", "float64")]
        self._widens_from = (
            frozenset(dtype for dtype in floats if dtype.itemsize <= self._dtype.itemsize)
            if field.type.is_float
            else frozenset((self._dtype,)) - {np.dtype(object)}
        )

    def convert(self, column: Column, n_rows: int) -> Column:
        """Return `column` in the field's dtype and shape; itself where it has them already.

        A row without a value, NaN or None, gets the field's default, as a null in JSON does.

        Raises:
            ContractViolation: Something would be lost, or the shape is another.
        """
        array = self._convert(column, n_rows)
        return _filled(self._field, array) if self._fills else array

    def _convert(self, column: Column, n_rows: int) -> Column:
        array = np.asarray(column)
        if self._free:
            return _convert_each(self._field, array, n_rows)
        array = self._fixed_shape(array, n_rows)
        if array.dtype in self._widens_from:  # what most models give: float32 for float64
            return array.astype(self._dtype, copy=False)
        return _convert_elements(self._field, array)

    def _fixed_shape(self, array: Column, n_rows: int) -> Column:
        expected = (n_rows, *self._shape)
        if array.shape == expected:
            return array
        # [n, 1] is how tensor clients send a column, and [n] how models give a vector of one.
        if array.shape in ((n_rows,), (n_rows, 1)) and expected in ((n_rows,), (n_rows, 1)):
            return array.reshape(expected)
        return _refuse(self._field, f"must have the shape {list(expected)}. Got {list(array.shape)}")


def missing_column(field: Field, n_rows: int) -> Column:
    """Return the column of an optional field that was left out: its default, NaN or None."""
    value = missing_value(field)
    dtype = field.type.dtype
    out: Column
    if None in field.shape:
        out = np.empty(n_rows, dtype=object)
        for row in range(n_rows):
            element = np.array(value, dtype=dtype)
            out[row] = element if element.size else element.reshape([size or 0 for size in field.shape])
        return out
    out = np.empty((n_rows, *[size or 0 for size in field.shape]), dtype=dtype)
    out[...] = np.array(value, dtype=dtype) if field.shape else value
    return out


def keeps_all(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Tell whether whatever one type holds is the same in another: numpy rounds int64 to float64."""
    if source.kind in "iu" and target.kind == "f":
        return 8 * source.itemsize <= _digits(target)
    return np.can_cast(source, target)


def _filled(field: Field, array: Column) -> Column:
    """Return a column with the default in each row that has no value; itself where none is missing."""
    hole = missing_rows(array)
    if not hole.any():
        return array
    filled = array.copy()
    filled[hole] = missing_column(field, 1)
    return filled


def _convert_each(field: Field, array: Column, n_rows: int) -> Column:
    """Convert a column whose rows have each a shape of their own."""
    if array.ndim == 0 or len(array) != n_rows:
        _refuse(field, f"must have {n_rows} rows. Got shape {list(array.shape)}")
    out = np.empty(n_rows, dtype=object)
    for row in range(n_rows):
        value = np.asarray(array[row])
        fits = value.ndim == len(field.shape) and all(
            size is None or size == got for size, got in zip(field.shape, value.shape, strict=True)
        )
        if not fits:
            _refuse(field, f"must have the shape {_shown(field)} in each row. Got {list(value.shape)}", row)
        is_empty = value.size == 0  # and has no type: numpy calls it float
        out[row] = value.astype(field.type.dtype) if is_empty else _convert_elements(field, value)
    return out


def _convert_elements(field: Field, array: Column) -> Column:
    kind = field.type
    if kind.dtype == object:
        return _to_objects(field, array)
    if array.dtype == kind.dtype:
        return array
    if kind.is_float and array.dtype.kind in "fiu":
        return _to_float(field, array)
    if kind.is_time and array.dtype.kind == ("M" if kind is DataType.TIMESTAMP else "m"):
        return _to_microseconds(field, array)
    if kind.is_time and array.dtype == object:
        return _to_microseconds(field, _to_numpy_times(field, array))
    if (kind.is_integer or kind.is_time) and array.dtype.kind in "iub":
        return _to_integer(field, array)
    if kind is DataType.BOOL and array.dtype.kind in "iu" and bool(((array == 0) | (array == 1)).all()):
        return array.astype(np.bool_)
    as_tensor = _AS_TENSOR if kind.is_time else f" ({datatype_of(field)})"
    return _refuse(field, f"must be {kind.value}{as_tensor}. Got {_named(array.dtype)}")


def _named(dtype: np.dtype[Any]) -> str:
    """Return a dtype in numpy's word and in the one that whoever sent a tensor knows."""
    try:
        return f"{dtype} ({datatype_of_dtype(dtype)})"
    except KeyError:
        return str(dtype)


def _to_float(field: Field, array: Column) -> Column:
    with np.errstate(over="ignore"):
        out = array.astype(field.type.dtype)
    if array.dtype.kind in "iu" and not keeps_all(array.dtype, out.dtype):
        lost = _rounded(array, _digits(out.dtype))
        if lost.any():
            kind = field.type.value
            _refuse(field, f"has an integer that {kind} does not hold exactly", _first_row(lost))
    if out.dtype.itemsize < 8 and array.dtype.itemsize > out.dtype.itemsize:
        lost = np.isinf(out) & np.isfinite(array)
        if lost.any():
            _refuse(field, f"has a value that does not fit {field.type.value}", _first_row(lost))
    return out


def _digits(dtype: np.dtype[Any]) -> int:
    """Return how many binary digits of an integer a float type holds."""
    return int(np.finfo(dtype).nmant) + 1


def _rounded(array: Column, n_digits: int) -> Any:
    """Return where an integer has more than so many binary digits, zeros at its end apart."""
    wide = array.astype(np.uint64)
    size = np.where(array < 0, -wide, wide)  # modulo 2**64 a number and its negative are what they should be
    last_bit = np.maximum(size & -size, 1)
    return size // last_bit >= 1 << n_digits


def _to_integer(field: Field, array: Column) -> Column:
    dtype = field.type.dtype
    if array.dtype.kind != "b" and not np.can_cast(array.dtype, dtype):
        span = np.iinfo(dtype)
        lost = (array < span.min) | (array > span.max)
        if lost.any():
            _refuse(field, f"has a value that does not fit {dtype}", _first_row(lost))
    return array.astype(dtype)


def _to_microseconds(field: Field, array: Column) -> Column:
    if np.isnat(array).any():
        _refuse(field, "has a missing time", _first_row(np.isnat(array)))
    unit = "datetime64[us]" if array.dtype.kind == "M" else "timedelta64[us]"
    return array.astype(unit).astype(np.int64)


def _to_numpy_times(field: Field, array: Column) -> Column:
    """Return Python's own times (aware, or UTC by convention) as numpy's."""
    is_timestamp = field.type is DataType.TIMESTAMP
    kinds = (dt.datetime, np.datetime64) if is_timestamp else (dt.timedelta, np.timedelta64)
    values = array.ravel().tolist()
    if not all(isinstance(value, kinds) for value in values):
        _refuse(field, f"must be {field.type.value}s{_AS_TENSOR}")
    plain = [
        value.astimezone(dt.UTC).replace(tzinfo=None)
        if isinstance(value, dt.datetime) and value.tzinfo is not None
        else value
        for value in values
    ]
    return np.array(plain, dtype="M8[us]" if is_timestamp else "m8[us]").reshape(array.shape)


def _to_objects(field: Field, array: Column) -> Column:
    if array.dtype.kind not in "OUS":
        kind = "bytes" if field.type is DataType.BYTES else "text"
        _refuse(field, f"must be {kind} (BYTES). Got {_named(array.dtype)}")
    wanted = bytes if field.type is DataType.BYTES else str
    values = array.ravel().tolist()
    if array.dtype == object and all(type(value) is wanted for value in values):
        return array
    out = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        out[position] = value if type(value) is wanted else _to_object(field, value, position, array)
    return out.reshape(array.shape)


def _to_object(field: Field, value: Any, position: int, array: Column) -> Any:
    row = position * len(array) // array.size
    if value is None and field.optional:
        return None
    try:
        if field.type is DataType.BYTES:
            if isinstance(value, str):
                return value.encode()
            if isinstance(value, bytes | bytearray | memoryview):
                return bytes(value)
        elif isinstance(value, bytes):
            return value.decode()
        elif isinstance(value, str):
            return str(value)
    except UnicodeError:
        _refuse(field, "must be valid UTF-8", row)
    got = "null" if value is None else type(value).__name__
    return _refuse(field, f"must be {field.type.value} (BYTES). Got {got}", row)


def _first_row(marked: Any) -> int:
    return int(np.flatnonzero(marked.reshape(len(marked), -1).any(axis=1))[0])


def _shown(field: Field) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in field.shape) + "]"


def _refuse(field: Field, problem: str, row: int | None = None) -> NoReturn:
    where = "" if row is None else f" of row {row}"
    raise ContractViolation(f"Field {field.name!r}{where} {problem}.", field=field.name, row=row)
