import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidegate.contract.protocol import DATATYPES
from tidegate.serving.http.tensor import (
    InputParameters,
    InputTensor,
    TensorError,
    read_binary,
    read_json,
    write_binary,
    write_json,
)

NUMBERS = sorted(set(DATATYPES) - {"BYTES"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def arrays(datatype: str, *, finite: bool) -> st.SearchStrategy[Any]:
    dtype = DATATYPES[datatype]
    if datatype == "BYTES":
        return SHAPES.flatmap(
            lambda shape: st.lists(
                st.binary(max_size=20), min_size=math.prod(shape), max_size=math.prod(shape)
            ).map(lambda values: as_objects(values, shape))
        )
    elements: dict[str, Any] = {"allow_nan": not finite, "allow_infinity": not finite}
    return hnp.arrays(dtype, SHAPES, elements=elements if dtype.kind == "f" else None)


def as_objects(values: list[Any], shape: tuple[int, ...]) -> Any:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out.reshape(shape)


def sent(datatype: str, shape: Any, data: Any = None, **parameters: Any) -> InputTensor:
    raw = msgspec.Raw(b"") if data is None else msgspec.Raw(msgspec.json.encode(data))
    return InputTensor("x", list(shape), datatype, raw, InputParameters(**parameters) if parameters else None)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@settings(max_examples=15)
@given(data=st.data())
def test_binary_data_comes_back_as_it_was(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=False))

    described, blob = write_binary("x", datatype, array)
    back = read_binary(sent(datatype, described.shape), memoryview(blob))

    assert described.parameters is not None
    assert described.parameters.binary_data_size == len(blob)
    assert back.shape == array.shape
    if datatype == "BYTES":
        assert back.tolist() == array.tolist()
    else:
        assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("nested", [False, True])
@settings(max_examples=15)
@given(data=st.data())
def test_json_data_comes_back_as_it_was(datatype: str, nested: bool, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))

    tensor = write_json("x", datatype, array)
    is_base64 = tensor.parameters is not None
    values = np.array(tensor.data, object).reshape(array.shape).tolist() if nested else tensor.data
    if nested and array.ndim == 0:
        values = tensor.data
    parameters = {"content_type": "base64"} if is_base64 else {}
    back = read_json(sent(datatype, tensor.shape, values, **parameters))

    assert back.shape == array.shape
    if datatype == "BYTES":
        assert [v.encode() if isinstance(v, str) else v for v in back.ravel()] == array.ravel().tolist()
    else:
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_null_is_nan_both_ways(datatype: str) -> None:
    array = read_json(sent(datatype, [3], [1.5, None, 2]))

    assert array.dtype == DATATYPES[datatype]
    assert np.array_equal(array, [1.5, np.nan, 2], equal_nan=True)
    assert msgspec.json.encode(write_json("x", datatype, array).data) == b"[1.5,null,2.0]"


@pytest.mark.parametrize("datatype", NUMBERS)
@settings(max_examples=15)
@given(shape=SHAPES, size=st.integers(0, 3000))
def test_binary_data_of_another_length_is_refused(datatype: str, shape: Any, size: int) -> None:
    expected = math.prod(shape) * DATATYPES[datatype].itemsize
    tensor = sent(datatype, shape)

    if size == expected:
        assert read_binary(tensor, memoryview(bytes(size))).shape == shape
    else:
        with pytest.raises(TensorError, match=f"has {size} bytes"):
            read_binary(tensor, memoryview(bytes(size)))


@given(
    elements=st.lists(st.binary(max_size=12), min_size=1, max_size=6),
    cut=st.integers(1, 60),
    more=st.binary(min_size=1, max_size=8),
)
def test_torn_or_overlong_bytes_are_refused(elements: list[bytes], cut: int, more: bytes) -> None:
    whole = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    tensor = sent("BYTES", [len(elements)])

    with pytest.raises(TensorError):
        read_binary(tensor, memoryview(whole[: max(0, len(whole) - cut)]))
    with pytest.raises(TensorError):
        read_binary(tensor, memoryview(whole + more))
    assert read_binary(tensor, memoryview(whole)).tolist() == elements


@given(st.binary(max_size=64), st.lists(st.integers(0, 2**31 - 1), max_size=4))
def test_arbitrary_bytes_make_a_tensor_or_an_error(blob: bytes, shape: list[int]) -> None:
    for datatype in DATATYPES:
        try:
            array = read_binary(sent(datatype, shape), memoryview(blob))
        except TensorError:
            continue
        assert list(array.shape) == shape


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(JSON, st.lists(st.integers(0, 4), max_size=3), st.sampled_from(sorted(DATATYPES)))
def test_arbitrary_json_makes_a_tensor_or_an_error(data: Any, shape: list[int], datatype: str) -> None:
    try:
        array = read_json(sent(datatype, shape, data))
    except TensorError:
        return
    assert list(array.shape) == shape
    assert array.dtype == DATATYPES[datatype]


@given(st.binary(max_size=40), st.sampled_from(sorted(DATATYPES)))
def test_data_that_is_not_json_is_refused(data: bytes, datatype: str) -> None:
    tensor = InputTensor("x", [2], datatype, msgspec.Raw(b"[" + data))

    try:
        array = read_json(tensor)
    except TensorError:
        return
    assert array.shape == (2,)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("INT8", [128]),
        ("INT32", [2**31]),
        ("UINT64", [2**64]),
        ("INT64", [-(2**63) - 1]),
        ("FP16", [65520]),
        ("FP32", [3.4028236e38]),
    ],
)
@pytest.mark.parametrize("times", [1, 300])
def test_value_out_of_range_is_refused_without_being_shown(
    datatype: str, values: list[Any], times: int
) -> None:
    with pytest.raises(TensorError) as caught:
        read_json(sent(datatype, [times], values * times))

    if datatype not in ("FP16", "FP32"):
        assert str(values[0]) not in str(caught.value)


@pytest.mark.parametrize(("datatype", "top"), [("FP16", 65519.99), ("FP32", 3.4028235e38)])
@pytest.mark.parametrize("times", [1, 300])
def test_value_that_is_rounded_into_the_range_is_taken(datatype: str, top: float, times: int) -> None:
    array = read_json(sent(datatype, [2 * times + 1], [top, -top] * times + [None]))

    greatest = np.finfo(DATATYPES[datatype]).max
    assert np.array_equal(array, [greatest, -greatest] * times + [np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ([2], [1.0], "has 1 elements, its shape [2] asks for 2"),
        ([2], [[1.0, 2.0]], "got `array`"),
        ([2, 2], [[1.0, 2.0], [3.0]], "has a list of 1 on axis 1"),
        ([2, 2], [[1.0, 2.0]], "has a list of 1 on axis 0"),
        ([1, 1], [["a"]], "got `str`"),
        ([1], ["1.5"], "got `str`"),
        ([1], [True], "got `bool`"),
        ([1], {"a": 1}, "got `object`"),
    ],
)
def test_data_against_its_shape_is_refused_in_words(shape: list[int], data: Any, words: str) -> None:
    with pytest.raises(TensorError) as caught:
        read_json(sent("FP32", shape, data))

    assert words in caught.value.message


@pytest.mark.parametrize("nested", [False, True])
def test_large_data_is_counted_before_it_is_decoded(nested: bool) -> None:
    values: list[Any] = list(range(30_000))
    data = [values[start : start + 3] for start in range(0, 30_000, 3)] if nested else values

    assert read_json(sent("INT32", [10_000, 3], data)).ravel().tolist() == values
    for shape in ([10_000, 2], [9_999, 3], [10_001, 3]):
        with pytest.raises(TensorError, match="has 30000 elements"):
            read_json(sent("INT32", shape, data))


def test_deep_nesting_is_refused() -> None:
    tensor = InputTensor("x", [1], "FP32", msgspec.Raw(b"[" * 100_000))

    with pytest.raises(TensorError):
        read_json(tensor)


def test_missing_data_is_refused() -> None:
    with pytest.raises(TensorError, match="has no data"):
        read_json(sent("FP32", [1]))


def test_booleans_come_as_numbers_too() -> None:
    assert read_json(sent("BOOL", [2, 2], [[1, 0], [0, 1]])).tolist() == [[True, False], [False, True]]
    with pytest.raises(TensorError, match="true, false, 1 or 0"):
        read_json(sent("BOOL", [2], [1, 2]))
    with pytest.raises(TensorError, match="1 or 0"):
        read_binary(sent("BOOL", [2]), memoryview(b"\x01\x02"))


def test_bf16_and_unknown_datatypes_are_refused_in_words() -> None:
    with pytest.raises(TensorError, match="FP32: every BF16"):
        read_json(sent("BF16", [1], [1.0]))
    with pytest.raises(TensorError, match="Send one of: BOOL"):
        read_binary(sent("FP128", [1]), memoryview(bytes(16)))


def test_array_from_bytes_is_aligned_wherever_they_begin() -> None:
    whole = bytes(1) + np.arange(4, dtype="<f8").tobytes()

    array = read_binary(sent("FP64", [4]), memoryview(whole)[1:])

    assert array.flags.aligned
    assert array.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_base64_that_is_none_is_refused() -> None:
    with pytest.raises(TensorError, match="not base64"):
        read_json(sent("BYTES", [1], ["%%%"], content_type="base64"))
