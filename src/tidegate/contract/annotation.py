"""An annotation and what stands behind its `=`, put together to a field."""

from __future__ import annotations

import enum
import types
import typing
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np

from tidegate.contract.check import check_field
from tidegate.contract.declaration import MISSING, Declaration
from tidegate.contract.field import DataType, Field
from tidegate.contract.wire import timestamp_us
from tidegate.core.error import InvalidSetting

_MICROSECOND = timedelta(microseconds=1)

_PLAIN_TYPES: dict[Any, DataType] = {
    bool: DataType.BOOL,
    int: DataType.INT64,
    float: DataType.FLOAT64,
    str: DataType.STRING,
    bytes: DataType.BYTES,
    datetime: DataType.TIMESTAMP,
    timedelta: DataType.DURATION,
    np.bool_: DataType.BOOL,
    np.datetime64: DataType.TIMESTAMP,
    np.timedelta64: DataType.DURATION,
    **{np.dtype(kind.value).type: kind for kind in DataType if kind.is_float or kind.is_integer},
}


def field_of(side: str, name: str, annotation: Any, value: Any) -> Field:
    """Return the field that a class attribute declares.

    Args:
        side: `input` or `output`.
        name: The attribute's name.
        annotation: Its annotation, evaluated.
        value: What it is set to; MISSING for nothing.

    Raises:
        InvalidSetting: The two contradict each other or are no field; the message names it.
    """
    if isinstance(annotation, Declaration):  # `embedding: tg.vector(20)`
        annotation, value = None, annotation
    declared = value if isinstance(value, Declaration) else Declaration({}, default=value)
    base, nullable = _without_none(annotation)
    kind, categories, depth = _type_of(side, name, base, declared)
    settings = dict(declared.settings)
    if declared.kind == "category" or categories or settings.get("categories"):
        if kind is not DataType.STRING:
            _refuse(
                name,
                side,
                f"is a category but annotated as {_named(base)}",
                "Categories are text: use `str`.",
            )
        kind = DataType.CATEGORY
        settings["categories"] = tuple(settings.get("categories") or categories)
    if settings.get("categories") and not all(isinstance(value, str) for value in settings["categories"]):
        _refuse(
            name, side, "has a category that is not text", 'List the values, as in tg.category("AA", "UA").'
        )
    shape = declared.shape or (None,) * depth
    if depth and len(shape) != depth:
        _refuse(
            name, side, f"has {len(shape)} dimensions but is annotated with {depth}", "Make the two agree."
        )
    for bound in ("ge", "gt", "le", "lt"):
        if bound in settings:
            settings[bound] = _in_microseconds(side, name, settings[bound])
    default = None if declared.default is MISSING else declared.default
    if default is not None:
        default = _plain_default(side, name, kind, default)
    elif declared.default is None and not nullable:
        _refuse(
            name, side, "has the default None but is never None", f"Annotate it as `{_named(base)} | None`."
        )
    optional = nullable or default is not None
    return check_field(
        Field(name, kind, shape=shape, optional=optional, default=default, **settings), side=side
    )


def _type_of(
    side: str, name: str, annotation: Any, declared: Declaration
) -> tuple[DataType, tuple[str, ...], int]:
    """Return element type, categories that the annotation lists, and depth of nested lists."""
    depth = 0
    while typing.get_origin(annotation) is list:
        (annotation,) = typing.get_args(annotation)
        depth += 1
    if depth and declared.kind not in ("vector", "field"):
        _refuse(name, side, f"is a list declared as {declared.kind}", "Declare it with tg.vector().")
    if not depth and declared.shape and annotation is not None:
        _refuse(name, side, f"is a vector annotated as {_named(annotation)}", "Annotate it as `list[...]`.")
    if typing.get_origin(annotation) is Literal:
        return DataType.STRING, typing.get_args(annotation), depth
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum) and issubclass(annotation, str):
        return DataType.STRING, tuple(member.value for member in annotation), depth
    wide = None if annotation is None else _PLAIN_TYPES.get(annotation)
    if wide is None and annotation is not None:
        _refuse(
            name,
            side,
            f"is annotated as {_named(annotation)}, which is no type of a field",
            "Use bool, int, float, str, bytes, datetime, timedelta, a numpy scalar type, or a list of one.",
        )
    exact = _PLAIN_TYPES.get(declared.item) if declared.item is not None else None
    if declared.item is not None and exact is None:
        _refuse(name, side, f"has elements of {_named(declared.item)}, which is no type of a field")
    if wide is not None and exact is not None and _family(wide) != _family(exact):
        _refuse(name, side, f"is annotated as {_named(annotation)} but declared as {exact.value}")
    return exact or wide or DataType.FLOAT64, (), depth


def _family(kind: DataType) -> str:
    return "float" if kind.is_float else "integer" if kind.is_integer else kind.value


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    rest = [member for member in typing.get_args(annotation) if member is not types.NoneType]
    nullable = len(rest) < len(typing.get_args(annotation))
    return (rest[0] if len(rest) == 1 else annotation), nullable


def _in_microseconds(side: str, name: str, value: Any) -> Any:
    """Return a time as the schema has it; other values as they are."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            _refuse(name, side, f"has the naive time {value!s}", "Give it a time zone, as in tzinfo=UTC.")
        return timestamp_us(value)
    return value // _MICROSECOND if isinstance(value, timedelta) else value


def _plain_default(side: str, name: str, kind: DataType, value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if kind is DataType.BYTES and isinstance(value, str):
        _refuse(name, side, f"has the default {value!r}, which is not bytes", "Write it as b'...'.")
    if isinstance(value, list | tuple):
        return [_plain_default(side, name, kind, element) for element in value]
    if isinstance(value, enum.Enum):
        return value.value
    return _in_microseconds(side, name, value)


def _named(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _refuse(name: str, side: str, problem: str, hint: str = "") -> typing.NoReturn:
    raise InvalidSetting(f"The {side} field {name!r} {problem}.", hint=hint, field=name, side=side)
