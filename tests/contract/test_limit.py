import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.field import DataType, Field
from tidegate.contract.limit import column_limit, type_limit, wire_limit
from tidegate.testing import strategy

FLOATS = tuple(kind for kind in DataType if kind.is_float)


@pytest.mark.parametrize("kind", [kind for kind in DataType if kind.is_integer])
def test_type_limit_of_integers_is_their_width(kind):
    assert type_limit(kind) == (np.iinfo(kind.value).min, np.iinfo(kind.value).max)


@pytest.mark.parametrize("kind", [DataType.BOOL, DataType.STRING, DataType.CATEGORY, DataType.BYTES])
def test_type_without_order_has_no_limit(kind):
    with pytest.raises(ValueError, match="no range"):
        type_limit(kind)


def test_exclusive_bounds_become_the_next_value():
    assert column_limit(Field("n", DataType.INT8, gt=0, lt=9)) == (1, 8)
    assert column_limit(Field("x", DataType.FLOAT64, gt=0.0)).low == 5e-324
    assert column_limit(Field("x", DataType.FLOAT32, lt=1.0)).high == float(
        np.nextafter(np.float32(1), np.float32(0))
    )


def test_a_bound_of_zero_has_no_sign():
    field = Field("x", DataType.FLOAT16, ge=0.0, le=-1e-12)

    assert math.copysign(1, column_limit(field).high) == 1
    assert math.copysign(1, wire_limit(field).high) == 1


@pytest.mark.parametrize("kind", FLOATS)
def test_a_number_beyond_the_range_is_sent_if_it_is_rounded_into_it(kind):
    top = column_limit(Field("x", kind)).high
    low, high = wire_limit(Field("x", kind))

    assert (float(kind.dtype.type(high)), low) == (top, -high)
    with np.errstate(over="ignore"):
        assert np.isinf(kind.dtype.type(math.nextafter(high, math.inf)))


def test_a_bound_beyond_the_range_leaves_what_is_rounded_into_it():
    least, most = wire_limit(Field("x", DataType.FLOAT32))

    assert wire_limit(Field("x", DataType.FLOAT32, gt=-1e39, le=1e39)) == (least, most)
    assert wire_limit(Field("x", DataType.FLOAT32, le=3.4028235e38)).high == 3.4028235e38


def test_large_integer_bounds_are_exact():
    assert column_limit(Field("n", DataType.INT64, gt=2**62, le=2**62 + 1)) == (2**62 + 1, 2**62 + 1)


@settings(max_examples=60)
@given(st.data(), strategy.fields(scalar=True, kinds=FLOATS))
def test_number_within_the_wire_limit_is_within_the_column_limit_once_rounded(data, field):
    wire, column = wire_limit(field), column_limit(field)
    sent = data.draw(st.floats(wire.low, wire.high))

    assert column.low <= float(field.type.dtype.type(sent)) <= column.high


@settings(max_examples=60)
@given(st.data(), strategy.fields(scalar=True, kinds=FLOATS))
def test_number_within_the_column_limit_is_within_the_wire_limit(data, field):
    wire, column = wire_limit(field), column_limit(field)
    width = 8 * field.type.dtype.itemsize
    held = data.draw(st.floats(column.low, column.high, width=width))

    assert wire.low <= held <= wire.high
