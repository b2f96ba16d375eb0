"""What a person declares, held against its annotations as soon as it is written.

A value of another type would else be told by whatever code meets it first, in Python's words and far
from the line that is wrong.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec

from tidegate.core.error import InvalidSetting

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "True or False",
    type(None): "None",
}
_MANY: dict[Any, str] = {float: "numbers", int: "whole numbers", str: "texts"}
_MOST = 60


class Declared(msgspec.Struct, frozen=True):
    """A declaration as plain data: whoever makes one is told at once of a value of another type."""

    def __post_init__(self) -> None:
        """Refuse values of other types.

        Raises:
            InvalidSetting: One has another; the message names it.
        """
        check_types(self)


def check_types(declared: object) -> None:
    """Pass if every attribute of a declaration is what its class says; for `__post_init__`.

    Raises:
        InvalidSetting: One is not; the message names it.
    """
    kind: Any = type(declared)
    for name, hint in _hints(kind).items():
        _check(kind.__name__, name, getattr(declared, name), hint)


def check_above(declared: object, least: float, *names: str, or_equal: bool = False) -> None:
    """Pass if attributes of a declaration that are given lie above `least`.

    Raises:
        InvalidSetting: One does not; the message names it.
    """
    for name in names:
        value = getattr(declared, name)
        if value is None or value > least or (or_equal and value == least):
            continue
        bound = f"{'at least' if or_equal else 'above'} {least:g}"
        raise InvalidSetting(f"tg.{type(declared).__name__}({name}=...) must be {bound}. Got {value!r}.")


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function by which people declare something refuse arguments of other types than it says."""
    name = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = _hints(function)
        names = function.__code__.co_varnames
        for argument, value in (*zip(names, args, strict=False), *kwargs.items()):
            if argument in hints:
                _check(name, argument, value, hints[argument])
        return function(*args, **kwargs)

    return call


@cache
def _hints(declared: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(declared)


def _check(owner: str, name: str, value: Any, hint: Any) -> None:
    if not _is(value, hint):
        shown = repr(value)
        shown = shown if len(shown) <= _MOST else shown[: _MOST - 3] + "..."
        raise InvalidSetting(
            f"tg.{owner}({name}=...) takes {_told(hint)}. Got {type(value).__name__}: {shown}.", field=name
        )


def _is(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin is type:
        return isinstance(value, type) and all(issubclass(value, each) for each in inner)
    if origin in (tuple, Sequence):  # a list does where a tuple is kept
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and all(_is(each, inner[0]) for each in value)
        )
    if origin in (dict, Mapping):
        return isinstance(value, origin) and all(
            _is(key, inner[0]) and _is(each, inner[1]) for key, each in value.items()
        )
    if hint is float:  # not those of numpy, which cannot be stored; nor infinity and NaN, which JSON lacks
        return type(value) in (int, float) and math.isfinite(value)
    if hint is int:
        return type(value) is int
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _told(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType, Literal):
        told = [repr(each) if origin is Literal else _told(each) for each in inner]
        return " or ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]
    if origin is type:
        return f"a class of {_told(inner[0])}"
    if origin in (tuple, Sequence):
        return f"a list of {_MANY.get(inner[0]) or _told(inner[0])}"
    if origin in (dict, Mapping):
        key, value = (_MANY.get(each) or _told(each) for each in inner)
        return f"a mapping of {key} to {value}"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))
