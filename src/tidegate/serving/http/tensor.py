"""Tensors on the wire: JSON or raw bytes to arrays, and back.

Datatypes and layouts are those of the Open Inference Protocol and its binary tensor extension:
little-endian, row-major; BOOL one byte; BYTES a 32-bit length and the bytes, for each element.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.limit import rounding_limit
from tidegate.contract.protocol import DATATYPES
from tidegate.core.error import TidegateError

Array = npt.NDArray[Any]

MAX_RANK = 16
MAX_SIZE = 2**31 - 1
"""Greatest size of one dimension."""

BASE64 = "base64"
"""Content type (`parameters.content_type`) of a BYTES tensor whose JSON strings are base64."""

_FEW_VALUES = 256
"""Up to here `struct` packs values faster than numpy converts them."""

_LARGE_BYTES = 1 << 16

_PACK_CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}

_LENGTH = struct.Struct("<I")


class TensorError(TidegateError):
    """A tensor is not what its name, shape and datatype say."""

    code = "invalid_tensor"


class InputParameters(msgspec.Struct, frozen=True):
    """Parameters of a sent tensor; others are ignored.

    Attributes:
        binary_data_size: Bytes of its data after the JSON; None where the data is in the JSON.
        content_type: `base64` where the strings of a BYTES tensor are that.
        shared_memory_region: Not supported; named to be refused.
    """

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    content_type: str | None = None
    shared_memory_region: str | None = None


_NO_DATA = msgspec.Raw(b"")


class InputTensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor of a request."""

    name: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]], msgspec.Meta(max_length=MAX_RANK)]
    datatype: str
    data: msgspec.Raw = _NO_DATA
    parameters: InputParameters | None = None


class OutputParameters(msgspec.Struct, omit_defaults=True):
    """Parameters of a returned tensor."""

    binary_data_size: int | None = None
    content_type: str = ""


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """A tensor of an answer."""

    name: str
    datatype: str
    shape: Sequence[int]
    parameters: OutputParameters | None = None
    data: list[Any] | None = None


def dtype_of(tensor: InputTensor) -> np.dtype[Any]:
    """Return the dtype of a sent tensor.

    Raises:
        TensorError: Its datatype is unknown or not taken.
    """
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        hint = f"Send one of: {', '.join(DATATYPES)}."
        if tensor.datatype == "BF16":
            hint = "Send the values as FP32: every BF16 number is one."
        raise TensorError(
            f"Tensor {_shown(tensor.name)} has the datatype {_shown(tensor.datatype)}, which is not taken.",
            hint=hint,
            tensor=tensor.name[:60],
        )
    return dtype


# --- JSON ---


def read_json(tensor: InputTensor) -> Array:
    """Return the array of a tensor whose data is in the JSON, flat in row-major order or nested.

    Null stands for NaN in a float tensor and for a missing element in a BYTES tensor.

    Raises:
        TensorError: The data does not fit the shape or the datatype, or there is none.
    """
    dtype = dtype_of(tensor)
    shape = tensor.shape
    if len(tensor.data) > _LARGE_BYTES and dtype.kind != "O":
        _check_count(tensor)
    try:
        values = _decoder(tensor.datatype, 1)(tensor.data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        values = _read_unusual(tensor, error)
    if len(values) != math.prod(shape):
        raise _wrong_count(tensor, len(values), math.prod(shape))
    if tensor.datatype == "BYTES" and tensor.parameters and tensor.parameters.content_type == BASE64:
        values = _from_base64(tensor, values)
    code = _PACK_CODES.get(tensor.datatype)
    if code is not None and len(values) <= _FEW_VALUES:
        try:
            return np.ndarray(shape, dtype, struct.pack(f"<{len(values)}{code}", *values))
        except (struct.error, OverflowError, ValueError):
            pass  # null, or a value out of range: numpy takes the one and names the other
    try:
        return np.array(values, dtype).reshape(shape)
    except OverflowError as error:  # its text would show the value, which may be a sensitive one
        raise _misfit(tensor, "a value is out of range") from error
    except ValueError as error:
        raise _misfit(tensor, "the shape is impossible") from error


def _check_count(tensor: InputTensor) -> None:
    """Refuse numbers that are too many or too few before each becomes an object, many times its text."""
    found = bytes(tensor.data).count(b",") + 1  # as many in nested lists as in a flat one
    expected = math.prod(tensor.shape)
    if found != expected:
        raise _wrong_count(tensor, found, expected)


def _read_unusual(tensor: InputTensor, error: Exception) -> list[Any]:
    """Read what is not a flat list: nested lists, numbers for booleans; else say what is wrong."""
    if not tensor.data:
        raise TensorError(
            f"Tensor {_shown(tensor.name)} has no data.",
            hint="Send 'data', or binary data and its 'binary_data_size'.",
            tensor=tensor.name[:60],
        )
    start = bytes(memoryview(tensor.data)[:64]).split(maxsplit=1)
    is_nested = b"".join(start)[:2] == b"[["
    depth = max(len(tensor.shape), 1) if is_nested else 1
    for datatype in ("BOOL", "UINT8") if tensor.datatype == "BOOL" else (tensor.datatype,):
        try:
            values = _decoder(datatype, depth)(tensor.data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
            error = problem if is_nested else error
            continue
        flat = _flatten(tensor, values) if depth > 1 else values
        if datatype != tensor.datatype and any(value not in (0, 1) for value in flat):
            raise _misfit(tensor, "a boolean is true, false, 1 or 0")
        return flat
    raise _misfit(tensor, str(error)) from error


def _flatten(tensor: InputTensor, nested: list[Any]) -> list[Any]:
    """Return the elements of nested lists, whose lengths have to be the shape."""
    level: list[Any] = [nested]
    for axis, size in enumerate(tensor.shape):
        for values in level:
            if len(values) != size:
                raise TensorError(
                    f"Tensor {_shown(tensor.name)} has a list of {len(values)} on axis {axis}, its shape "
                    f"{tensor.shape} asks for {size}.",
                    tensor=tensor.name[:60],
                )
        level = list(chain.from_iterable(level))
    return level


def _from_base64(tensor: InputTensor, values: list[str | None]) -> list[bytes | None]:
    try:
        return [None if value is None else base64.b64decode(value, validate=True) for value in values]
    except (binascii.Error, ValueError) as error:
        raise _misfit(tensor, f"not base64: {error}") from error


@lru_cache(maxsize=len(DATATYPES) * MAX_RANK)
def _decoder(datatype: str, depth: int) -> Callable[[msgspec.Raw], list[Any]]:
    """Return what decodes lists of lists ... of elements, checked in C against the datatype's range."""
    dtype = DATATYPES[datatype]
    kind: Any
    if dtype.kind == "b":
        kind = bool
    elif dtype.kind == "f":
        low, high = rounding_limit(dtype)
        kind = Annotated[float, msgspec.Meta(ge=low, le=high)] | None
    elif dtype.kind in "iu":
        kind = int  # numpy refuses what the dtype cannot hold; msgspec takes no bound beyond int64
    else:
        kind = str | None
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind).decode


def write_json(name: str, datatype: str, array: Array) -> OutputTensor:
    """Return a tensor with its data as JSON values, flat in row-major order.

    NaN becomes null. BYTES become strings; where one of them is not UTF-8, all become base64, and
    the parameter `content_type` says so.
    """
    values = array.ravel().tolist()
    if datatype != "BYTES":
        return OutputTensor(name, datatype, array.shape, None, values)
    try:
        texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        encoded = [None if value is None else base64.b64encode(_bytes(value)).decode() for value in values]
        return OutputTensor(name, datatype, array.shape, OutputParameters(content_type=BASE64), encoded)
    return OutputTensor(name, datatype, array.shape, None, texts)


# --- raw bytes ---


def read_binary(tensor: InputTensor, blob: memoryview) -> Array:
    """Return the array of a tensor whose data is `blob`, without a copy where it is aligned.

    Raises:
        TensorError: The bytes do not fit the shape or the datatype.
    """
    dtype = dtype_of(tensor)
    count = math.prod(tensor.shape)
    if dtype.kind == "O":
        return _read_elements(tensor, blob, count)
    if len(blob) != count * dtype.itemsize:
        raise TensorError(
            f"Tensor {_shown(tensor.name)} has {len(blob)} bytes of binary data, {tensor.datatype} of shape "
            f"{tensor.shape} has {count * dtype.itemsize}.",
            tensor=tensor.name[:60],
        )
    if dtype.kind == "b":
        flags = np.frombuffer(blob, np.uint8)
        if flags.size and flags.max() > 1:
            raise _misfit(tensor, "the byte of a boolean is 1 or 0")
        return _reshape(tensor, flags.view(np.bool_))
    array = np.frombuffer(blob, dtype)
    if not array.flags.aligned:  # the JSON before it has any length; a model may need aligned memory
        array = array.copy()
    return _reshape(tensor, array)


def _read_elements(tensor: InputTensor, blob: memoryview, count: int) -> Array:
    if count * _LENGTH.size > len(blob):
        raise _torn(tensor)
    out = np.empty(count, dtype=object)
    data = bytes(blob)
    at, end = 0, len(data)
    for position in range(count):
        start = at + _LENGTH.size
        if start > end:
            raise _torn(tensor)
        at = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if at > end:
            raise _torn(tensor)
        out[position] = data[start:at]
    if at != end:
        raise TensorError(
            f"Tensor {_shown(tensor.name)} has {end - at} bytes of binary data after its {count} elements.",
            tensor=tensor.name[:60],
        )
    return _reshape(tensor, out)


def write_binary(name: str, datatype: str, array: Array) -> tuple[OutputTensor, bytes]:
    """Return a tensor without data, and its data as bytes. A missing element of BYTES is empty."""
    if datatype == "BYTES":
        pieces: list[bytes] = []
        for value in array.ravel().tolist():
            element = _bytes(value)
            pieces += (_LENGTH.pack(len(element)), element)
        data = b"".join(pieces)
    else:
        data = array.astype(DATATYPES[datatype], copy=False).tobytes()
    return OutputTensor(name, datatype, array.shape, OutputParameters(len(data))), data


def _reshape(tensor: InputTensor, array: Array) -> Array:
    try:
        return array.reshape(tensor.shape)
    except ValueError as error:  # an empty tensor of absurd dimensions
        raise _misfit(tensor, "the shape is impossible") from error


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value if isinstance(value, bytes) else str(value).encode()


def _wrong_count(tensor: InputTensor, found: int, expected: int) -> TensorError:
    return TensorError(
        f"Tensor {_shown(tensor.name)} has {found} elements, its shape {tensor.shape} asks for {expected}.",
        tensor=tensor.name[:60],
    )


def _torn(tensor: InputTensor) -> TensorError:
    return TensorError(
        f"The binary data of tensor {_shown(tensor.name)} ends within an element.",
        hint="Each element of BYTES is its length, 4 bytes little-endian, and as many bytes.",
        tensor=tensor.name[:60],
    )


def _misfit(tensor: InputTensor, problem: str) -> TensorError:
    return TensorError(
        f"The data of tensor {_shown(tensor.name)} is not {tensor.datatype} {tensor.shape}: {problem}.",
        tensor=tensor.name[:60],
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
