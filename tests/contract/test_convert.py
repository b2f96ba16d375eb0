import datetime as dt
import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidegate.contract.decode import ContractViolation
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.testing import strategy


def coerced(field, column):
    return Validator(Schema((field,))).coerce({field.name: column})[field.name]


def objects(*values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def field(kind, *shape, **settings):
    return Field("x", kind, shape=shape, **settings)


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_right_columns_stay_as_they_are(data, schema):
    batch = data.draw(strategy.batches(schema))

    again = Validator(schema).coerce(dict(batch.columns))

    assert list(again.columns) == list(schema.names)
    assert all(strategy.same(again[name], batch[name]) for name in schema.names)


@pytest.mark.parametrize(
    ("target", "given_", "expected"),
    [
        (field(DataType.INT32), np.array([1, -2]), np.array([1, -2], np.int32)),
        (field(DataType.UINT8), np.array([255], np.int64), np.array([255], np.uint8)),
        (field(DataType.INT64), np.array([True]), np.array([1])),
        (field(DataType.FLOAT64), np.array([0.5], np.float32), np.array([0.5])),
        (field(DataType.FLOAT32), np.array([0.1]), np.array([0.1], np.float32)),
        (field(DataType.FLOAT32), np.array([3]), np.array([3], np.float32)),
        (field(DataType.FLOAT32), np.array([np.inf, np.nan]), np.array([np.inf, np.nan], np.float32)),
        (field(DataType.BOOL), np.array([0, 1], np.uint8), np.array([False, True])),
        (field(DataType.STRING), objects(b"a", b"\xc3\xbc"), objects("a", "ü")),
        (field(DataType.STRING), np.array(["a", "b"]), objects("a", "b")),
        (field(DataType.STRING), np.array([b"a"]), objects("a")),
        (field(DataType.CATEGORY, categories=("a",)), objects(b"a"), objects("a")),
        (field(DataType.BYTES), objects("ü", b"\xff"), objects(b"\xc3\xbc", b"\xff")),
        (field(DataType.TIMESTAMP), np.array([5], np.int32), np.array([5])),
        (field(DataType.TIMESTAMP), np.array(["1970-01-02"], "M8[D]"), np.array([86_400_000_000])),
        (
            field(DataType.TIMESTAMP),
            objects(dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))),
            np.array([0]),
        ),
        (field(DataType.DURATION), np.array([2], "m8[s]"), np.array([2_000_000])),
        (field(DataType.FLOAT64), np.array([[1.0], [2.0]]), np.array([1.0, 2.0])),
        (field(DataType.FLOAT64, 1), np.array([1.0, 2.0]), np.array([[1.0], [2.0]])),
        (field(DataType.FLOAT64, 2), np.ones((1, 2), np.float32), np.ones((1, 2))),
    ],
)
def test_column_converts_where_nothing_is_lost(target, given_, expected):
    assert strategy.same(coerced(target, given_), expected)


@pytest.mark.parametrize(
    ("target", "given_", "problem"),
    [
        (field(DataType.INT8), np.array([1, 200]), "of row 1 has a value that does not fit int8"),
        (field(DataType.UINT8), np.array([-1]), "does not fit uint8"),
        (field(DataType.INT64), np.array([2**63], np.uint64), "does not fit int64"),
        (field(DataType.INT64), np.array([1.0]), "must be int64 (INT64). Got float64 (FP64)"),
        (field(DataType.FLOAT32), np.array([0.0, 1e39]), "of row 1 has a value that does not fit float32"),
        (field(DataType.FLOAT64), np.array([True]), "must be float64 (FP64). Got bool (BOOL)"),
        (field(DataType.FLOAT64), objects(1.0), "must be float64 (FP64). Got object (BYTES)"),
        (field(DataType.BOOL), np.array([0, 2]), "must be bool (BOOL). Got int64 (INT64)"),
        (field(DataType.STRING), objects("a", b"\xff"), "of row 1 must be valid UTF-8"),
        (field(DataType.STRING), objects("a", None), "of row 1 must be string (BYTES). Got null"),
        (field(DataType.STRING), np.array([1]), "must be text (BYTES). Got int64 (INT64)"),
        (field(DataType.BYTES), objects(3), "must be bytes (BYTES). Got int"),
        (
            field(DataType.FLOAT32),
            np.array([1, 2**24 + 1]),
            "of row 1 has an integer that float32 does not hold",
        ),
        (
            field(DataType.FLOAT64, 2),
            np.array([[1, 2**63 - 1]]),
            "of row 0 has an integer that float64 does not",
        ),
        (field(DataType.FLOAT16), np.array([65520]), "of row 0 has an integer that float16 does not hold"),
        (field(DataType.FLOAT16), np.array([2**16]), "has a value that does not fit float16"),
        (field(DataType.TIMESTAMP), np.array(["NaT"], "M8[us]"), "has a missing time"),
        (field(DataType.TIMESTAMP), np.array([1], "m8[s]"), "must be timestamp"),
        (field(DataType.TIMESTAMP), objects("2013-10-01"), "must be timestamps"),
        (field(DataType.FLOAT64), np.ones((2, 2)), "must have the shape [2]. Got [2, 2]"),
        (field(DataType.FLOAT64, 3), np.ones((2, 2)), "must have the shape [2, 3]. Got [2, 2]"),
        (field(DataType.FLOAT64, None), np.ones(2), "of row 0 must have the shape [any] in each row"),
        (field(DataType.FLOAT64, None, 2), np.ones((1, 4, 3)), "the shape [any, 2] in each row. Got [4, 3]"),
    ],
)
def test_column_that_would_lose_something_is_refused_by_name(target, given_, problem):
    with pytest.raises(ContractViolation) as caught:
        coerced(target, given_)

    assert problem in caught.value.message
    assert caught.value.context["field"] == "x"


@given(
    hnp.arrays(
        st.sampled_from([np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64]),
        st.integers(1, 4),
        fill=st.nothing(),
    ),
    st.sampled_from([DataType.FLOAT16, DataType.FLOAT32, DataType.FLOAT64]),
)
@example(np.array([-(2**31)], np.int32), DataType.FLOAT32)
@example(np.array([-(2**63), 2**62], np.int64), DataType.FLOAT32)
@example(np.array([2**24 + 2], np.uint32), DataType.FLOAT32)
def test_integers_become_floats_only_where_they_stay_what_they_are(column, kind):
    with np.errstate(over="ignore"):
        floats = [float(value) for value in column.astype(kind.dtype)]
    exact = all(
        math.isfinite(got) and int(got) == int(value) for got, value in zip(floats, column, strict=True)
    )
    try:
        converted = coerced(field(kind), column)
    except ContractViolation:
        assert not exact
    else:
        assert exact
        assert converted.tolist() == floats


def test_an_empty_vector_is_of_any_type():
    converted = coerced(field(DataType.STRING, None), objects(np.array(["a"], object), np.array([])))

    assert [row.tolist() for row in converted] == [["a"], []]
    assert converted[1].dtype == object


def test_free_vectors_come_as_a_matrix_or_row_by_row():
    target = field(DataType.FLOAT64, None)

    matrix = coerced(target, np.ones((2, 3), np.float32))
    rows = coerced(target, objects(np.ones(1, np.float32), np.ones(2)))

    assert [(row.dtype, row.shape) for row in matrix] == [(np.float64, (3,))] * 2
    assert [(row.dtype, row.shape) for row in rows] == [(np.float64, (1,)), (np.float64, (2,))]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (field(DataType.FLOAT32, optional=True), np.full(2, np.nan, np.float32)),
        (field(DataType.FLOAT64, 2, optional=True), np.full((2, 2), np.nan)),
        (field(DataType.INT8, optional=True, default=3), np.full(2, 3, np.int8)),
        (field(DataType.STRING, optional=True), objects(None, None)),
        (field(DataType.BYTES, optional=True, default=b"a"), objects(b"a", b"a")),
        (field(DataType.INT8, 2, optional=True, default=[1, 2]), np.array([[1, 2], [1, 2]], np.int8)),
        (field(DataType.INT8, None, optional=True, default=[]), objects(*[np.zeros(0, np.int8)] * 2)),
    ],
)
def test_missing_optional_column_is_filled(target, expected):
    other = Field("y", DataType.FLOAT64)

    batch = Validator(Schema((target, other))).coerce({"y": np.zeros(2)})

    assert strategy.same(batch["x"], expected)


def test_unknown_missing_and_empty_columns_are_refused():
    validator = Validator(Schema((Field("x", DataType.FLOAT64), Field("y", DataType.FLOAT64))))

    with pytest.raises(ContractViolation, match="Unknown field 'z'"):
        validator.coerce({"x": np.zeros(1), "y": np.zeros(1), "z": np.zeros(1)})
    with pytest.raises(ContractViolation, match="'y' is missing"):
        validator.coerce({"x": np.zeros(1)})
    with pytest.raises(ContractViolation, match="no rows"):
        validator.coerce({"x": np.zeros(0), "y": np.zeros(0)})
    with pytest.raises(ContractViolation, match="no rows"):
        validator.coerce({})
    with pytest.raises(ContractViolation, match=r"'y' must have the shape \[2\]"):
        validator.coerce({"x": np.zeros(2), "y": np.zeros(3)})


def test_right_columns_are_not_copied():
    column = np.zeros(3)

    assert coerced(field(DataType.FLOAT64), column) is column


@pytest.mark.parametrize(
    ("target", "column", "expected"),
    [
        (field(DataType.FLOAT32, default=0.5), np.array([1, np.nan]), [1.0, 0.5]),
        (field(DataType.STRING, default="ab"), objects(None, b"x"), ["ab", "x"]),
        (field(DataType.FLOAT64, 2, default=[1.0, 2.0]), np.array([[np.nan] * 2, [3, 4]]), [[1, 2], [3, 4]]),
        (field(DataType.FLOAT64), np.array([np.nan, 2]), [None, 2]),
    ],
)
def test_a_row_without_a_value_gets_the_default_as_a_null_in_json_does(target, column, expected):
    target = msgspec.structs.replace(target, optional=True)

    found = coerced(target, column)

    assert [None if value != value else value for value in found.tolist()] == expected  # noqa: PLR0124 - NaN
