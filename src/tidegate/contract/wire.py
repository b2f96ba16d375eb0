"""How a field's value looks in JSON: the type msgspec checks, and what it cannot check itself.

Times come as text (RFC 3339 with an offset; ISO 8601 durations of days, hours, minutes and seconds)
or as integer microseconds; bytes as base64; vectors as nested lists; NaN and infinities do not exist.
An integer may stand for a float, never a float for an integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from tidegate.contract.field import DataType, Field
from tidegate.contract.limit import type_limit, wire_limit
from tidegate.contract.pattern import python_pattern

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_annotated: Any = Annotated  # of types that are made at run time, which a type checker cannot follow
_Moment = Annotated[datetime, Meta(tz=True)]
_INT64 = type_limit(DataType.INT64)

Finish = Callable[[Any], Any]
"""Turns what msgspec decoded into what a column takes, or raises ValueError."""


def wire_type(field: Field) -> Any:
    """Return the type annotation by which msgspec decodes a value of `field`."""
    annotation = _element_type(field)
    for size in reversed(field.shape):
        annotation = list_type(annotation, min_length=size, max_length=size)
    return annotation | None if field.optional else annotation


def list_type(element: Any, *, min_length: int | None, max_length: int | None) -> Any:
    """Return the annotation of a list of `element`, of a length within both bounds."""
    plain = GenericAlias(list, (element,))
    return _constrained(plain, min_length=min_length, max_length=max_length)


def finish_of(field: Field) -> Finish | None:
    """Return what has to be done to a decoded value of `field`, None where it is nothing.

    Times become int64 microseconds, null becomes the default; what msgspec cannot check is checked.
    """
    finish = _finish_value(field)
    if not field.optional:
        return finish
    default = missing_value(field)
    if finish is None and field.is_scalar and field.default is None:
        return None  # None stands for itself, or is what numpy reads as NaN

    def finish_optional(value: Any) -> Any:
        if value is None:
            return default
        return value if finish is None else finish(value)

    return finish_optional


def missing_value(field: Field) -> Any:
    """Return what stands in a row for an optional value that was left out."""
    if field.default is not None:
        return field.default
    hole: Any = math.nan if field.type.is_float else None
    for size in reversed(field.shape):
        hole = [hole] * (size or 0)
    return hole


def timestamp_us(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970 UTC."""
    span = moment - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def read_timestamps(texts: Sequence[str | None]) -> list[datetime | None]:
    """Return times as a request's decoder reads them, None of a text that it would refuse.

    Args:
        texts: RFC 3339 with date, time and offset; None stays None.
    """
    with suppress(msgspec.ValidationError):
        return msgspec.convert(texts, list[_Moment | None])
    return [None if text is None else _read_timestamp(text) for text in texts]


def _read_timestamp(text: str) -> datetime | None:
    try:
        return msgspec.convert(text, _Moment)
    except msgspec.ValidationError:
        return None


def timestamp_of(value_us: int) -> datetime:
    """Return microseconds since 1970 UTC as an aware datetime."""
    return _EPOCH + timedelta(microseconds=value_us)


def duration_us(span: timedelta) -> int:
    """Return a time span as microseconds."""
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def duration_of(value_us: int) -> timedelta:
    """Return microseconds as a time span."""
    return timedelta(microseconds=value_us)


def _element_type(field: Field) -> Any:
    kind = field.type
    if kind is DataType.BOOL:
        return bool
    if kind is DataType.CATEGORY:
        return Literal[field.categories]
    if kind is DataType.STRING:
        pattern = None if field.pattern is None else python_pattern(field.pattern)
        return _constrained(str, min_length=field.min_length, max_length=field.max_length, pattern=pattern)
    if kind is DataType.BYTES:
        return _constrained(bytes, min_length=field.min_length, max_length=field.max_length)
    low, high = wire_limit(field)
    if kind is DataType.FLOAT64:
        # JSON has no infinities, so a bound that was not declared need not be checked.
        bounds = {"ge": field.ge, "gt": field.gt, "le": field.le, "lt": field.lt}
        return _constrained(float, **bounds)
    if kind.is_float:
        return _constrained(float, ge=low, le=high)
    # msgspec takes no bound outside int64; `_check_range` sees to the rest.
    integer = _constrained(int, ge=min(low, _INT64.high), le=high if high <= _INT64.high else None)
    if kind is DataType.TIMESTAMP:
        return _Moment | integer
    return timedelta | integer if kind is DataType.DURATION else integer


def _constrained(base: Any, **constraints: Any) -> Any:
    given = {name: value for name, value in constraints.items() if value is not None}
    return _annotated[base, Meta(**given)] if given else base


def _finish_value(field: Field) -> Finish | None:
    element = _finish_element(field)
    finish = element
    if element is not None:
        for _ in field.shape:
            finish = _each(finish or element)
    if len(field.shape) > 1 and None in field.shape:
        return _rectangular(field, finish)
    return finish


def _finish_element(field: Field) -> Finish | None:
    if field.type.is_time:
        limit = wire_limit(field)
        microseconds = timestamp_us if field.type is DataType.TIMESTAMP else duration_us

        def finish_time(value: Any) -> int:
            number = value if type(value) is int else microseconds(value)
            if not limit.low <= number <= limit.high:
                raise ValueError("out of range")
            return number

        return finish_time
    if field.type is DataType.UINT64:
        return _check_range(field)
    return None


def _check_range(field: Field) -> Finish:
    low, high = wire_limit(field)

    def finish_integer(value: Any) -> Any:
        if not low <= value <= high:
            raise ValueError("out of range")
        return value

    return finish_integer


def _each(finish: Finish) -> Finish:
    def finish_list(values: Any) -> Any:
        return [finish(value) for value in values]

    return finish_list


def _rectangular(field: Field, finish: Finish | None) -> Finish:
    def finish_tensor(value: Any) -> Any:
        done = value if finish is None else finish(value)
        array = np.array(done, dtype=field.type.dtype)
        if array.ndim != len(field.shape) and array.size:
            raise ValueError("ragged")
        if any(isinstance(element, list) for element in array.ravel().tolist()):
            raise ValueError("ragged")
        return done

    return finish_tensor
