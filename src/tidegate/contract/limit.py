"""The inclusive limits of a field: what its type and its declared range leave together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tidegate.contract.field import DataType, Field

TIMESTAMP_MIN_US = -62_135_596_800_000_000
TIMESTAMP_MAX_US = 253_402_300_799_999_999
"""Microseconds of the first and last instant that RFC 3339 and Python can write (years 1 to 9999)."""


class Limit(NamedTuple):
    """The least and the greatest value, both allowed; empty when `low > high`."""

    low: float
    high: float


def type_limit(kind: DataType) -> Limit:
    """Return what a numeric or time type can hold; infinities are never values.

    Raises:
        ValueError: The type has no order (text, bytes, bool).
    """
    if kind.is_float:
        top = float(np.finfo(kind.dtype).max)
        return Limit(-top, top)
    if kind is DataType.TIMESTAMP:
        return Limit(TIMESTAMP_MIN_US, TIMESTAMP_MAX_US)
    if kind.is_integer or kind is DataType.DURATION:
        span = np.iinfo(kind.dtype)
        return Limit(int(span.min), int(span.max))
    raise ValueError(f"type {kind.value} has no range")


def rounding_limit(dtype: np.dtype[Any]) -> Limit:
    """Return the numbers that a float type holds once they are rounded: a little more than its range.

    The greatest float32, in the digits that most languages print of it (3.4028235e38), is above itself.
    """
    info = np.finfo(dtype)
    top = float(info.max)
    if info.bits < 64:
        # from half a step above on, the nearest number with an even last digit is infinity
        half_step = (top - float(np.nextafter(info.max, dtype.type(0)))) / 2
        top = math.nextafter(top + half_step, 0.0)
    return Limit(-top, top)


def column_limit(field: Field) -> Limit:
    """Return the limits of a column's elements, in the column's own dtype.

    A bound of a float column is rounded to the column's precision, as the values are; an
    exclusive bound becomes the next number that the column can hold.
    """
    low, high = type_limit(field.type)
    if not field.type.is_float:
        lows = (low, field.ge, None if field.gt is None else field.gt + 1)
        highs = (high, field.le, None if field.lt is None else field.lt - 1)
        return Limit(
            max(bound for bound in lows if bound is not None),
            min(bound for bound in highs if bound is not None),
        )
    if field.ge is not None:
        low = max(low, _rounded(field.ge, field.type))
    if field.gt is not None:
        low = max(low, _next(field.gt, math.inf, field.type))
    if field.le is not None:
        high = min(high, _rounded(field.le, field.type))
    if field.lt is not None:
        high = min(high, _next(field.lt, -math.inf, field.type))
    return Limit(low + 0.0, high + 0.0)  # a zero without a sign


def wire_limit(field: Field) -> Limit:
    """Return the limits of a number in JSON, before it is rounded to the column's precision.

    Whatever passes them is within `column_limit` once rounded, and a bound as it was declared
    (0.1, which no float32 equals) passes.
    """
    low, high = column_limit(field)
    if field.type.is_float:
        least, most = type_limit(field.type)
        widest = rounding_limit(field.type.dtype)
        if low == least:
            low = widest.low if field.ge is None else min(low, max(widest.low, field.ge))
        elif field.ge is not None and _rounded(field.ge, field.type) == low:
            low = min(low, field.ge)
        if high == most:
            high = widest.high if field.le is None else max(high, min(widest.high, field.le))
        elif field.le is not None and _rounded(field.le, field.type) == high:
            high = max(high, field.le)
        return Limit(low + 0.0, high + 0.0)
    return Limit(low, high)


def _rounded(bound: float, kind: DataType) -> float:
    with np.errstate(over="ignore"):
        return float(kind.dtype.type(bound))


def _next(bound: float, towards: float, kind: DataType) -> float:
    scalar: Any = kind.dtype.type
    with np.errstate(over="ignore", under="ignore"):
        return float(np.nextafter(scalar(bound), scalar(towards)))
