"""What a field asks of a value, in words, for whoever has sent another one."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from tidegate.contract.field import DataType, Field
from tidegate.contract.limit import rounding_limit, type_limit
from tidegate.contract.wire import duration_of, timestamp_of

_SHOWN_CATEGORIES = 10
_SHOWN_CHARACTERS = 60


def requirement(field: Field) -> str:
    """Say what a value of `field` must be, as the end of a sentence: "an integer in [1, 365]"."""
    text = _element(field)
    if field.shape == (None,):
        text = f"a list, each element {text}"
    elif len(field.shape) == 1:
        text = f"a list of {field.shape[0]}, each element {text}"
    elif field.shape:
        shape = ", ".join("any" if size is None else str(size) for size in field.shape)
        text = f"nested lists of shape [{shape}], each element {text}"
    return f"{text}, or null" if field.optional else text


def received(field: Field, value: Any) -> str:
    """Say what came instead, cut short: " Got 0." Empty for a sensitive field."""
    if field.sensitive:
        return ""
    if isinstance(value, dict):
        return " Got an object."
    if isinstance(value, list):
        return f" Got a list of {len(value)}."
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        value = value[:_SHOWN_CHARACTERS] + "…"
    try:
        text = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, OverflowError, UnicodeError):
        text = "a value that JSON cannot carry"
    if isinstance(value, float) and text == "null":
        text = str(value)
    shown = text if len(text) <= _SHOWN_CHARACTERS + 10 else text[:_SHOWN_CHARACTERS] + "…"
    return f" Got {shown}{_beyond(field, value)}."


def _beyond(field: Field, value: Any) -> str:
    """Say that a number is too large for its type, where the requirement speaks of its range alone."""
    if not (field.has_range or field.type is DataType.INT64) or field.type.is_time:
        return ""
    if type(value) is not int and not (isinstance(value, float) and math.isfinite(value)):
        return ""
    low, high = rounding_limit(field.type.dtype) if field.type.is_float else type_limit(field.type)
    return "" if low <= value <= high else f", which {field.type.value} cannot hold"


def _element(field: Field) -> str:
    kind = field.type
    if kind is DataType.BOOL:
        return "true or false"
    if kind is DataType.CATEGORY:
        return _category(field)
    if kind is DataType.STRING:
        pattern = "" if field.pattern is None else f" matching {field.pattern!r}"
        return f"text{_length(field, 'characters')}{pattern}"
    if kind is DataType.BYTES:
        return f"base64 text{_length(field, 'bytes once decoded')}"
    if kind is DataType.TIMESTAMP:
        text = "an RFC 3339 timestamp with its offset (as '2013-10-01T05:15:00Z')"
        return f"{text} or integer microseconds since 1970 UTC{_range(field)}"
    if kind is DataType.DURATION:
        return "an ISO 8601 duration of days and below (as 'PT1H30M') or integer microseconds" + _range(field)
    return _number(field)


def _number(field: Field) -> str:
    kind = field.type
    if kind.is_float:
        fitting = "" if kind is DataType.FLOAT64 or field.has_range else f" that fits {kind.value}"
        return "a number" + fitting + _range(field)
    if field.has_range or kind is DataType.INT64:
        return "an integer" + _range(field)
    low, high = type_limit(kind)
    return f"an integer in [{low}, {high}]"


def _range(field: Field) -> str:
    low = field.ge if field.ge is not None else field.gt
    high = field.le if field.le is not None else field.lt
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'>=' if field.gt is None else '>'} {_bound(field, low)}"
    if low is None:
        return f" {'<=' if field.lt is None else '<'} {_bound(field, high)}"
    opening, closing = "[" if field.gt is None else "(", "]" if field.lt is None else ")"
    return f" in {opening}{_bound(field, low)}, {_bound(field, high)}{closing}"


def _bound(field: Field, bound: float | None) -> str:
    if bound is not None and field.type.is_time:
        moment: Any = timestamp_of if field.type is DataType.TIMESTAMP else duration_of
        return str(msgspec.to_builtins(moment(int(bound))))
    if isinstance(bound, float) and bound.is_integer() and abs(bound) < 1e15:
        return str(int(bound))
    return str(bound)


def _length(field: Field, unit: str) -> str:
    low, high = field.min_length or 0, field.max_length
    if high is None:
        return f" of at least {low} {unit}" if low else ""
    if low == high:
        return f" of {low} {unit}"
    return f" of {low} to {high} {unit}" if low else f" of at most {high} {unit}"


def _category(field: Field) -> str:
    shown = ", ".join(repr(value) for value in field.categories[:_SHOWN_CATEGORIES])
    more = len(field.categories) - _SHOWN_CATEGORIES
    return f"one of {shown}" + (f" and {more} more" if more > 0 else "")
