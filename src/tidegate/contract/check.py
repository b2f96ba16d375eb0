"""What makes a list of fields impossible, said before anything is compiled from it."""

from __future__ import annotations

import base64
import binascii
import keyword
import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.limit import column_limit, type_limit, wire_limit
from tidegate.contract.pattern import python_pattern
from tidegate.core.error import InvalidSetting

RESERVED_NAMES = frozenset({"rows", "columns"})
"""What the native face wraps a batch in; a field of that name could not be told from it."""

MAX_CATEGORIES = 65_534
"""A category is journalled as a 16-bit code; the last code means none."""

_MAX_NAME_LENGTH = 128
_MAX_DIMENSIONS = 8
_KEY_TYPES = frozenset({DataType.STRING, DataType.CATEGORY, DataType.BYTES}) | {
    kind for kind in DataType if kind.is_integer
}
_BOUNDS = ("ge", "gt", "le", "lt")


def check_fields(side: str, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Return `fields` in their normal form.

    Args:
        side: `input` or `output`; roles belong to inputs only.
        fields: What was declared, in order.

    Raises:
        InvalidSetting: The fields cannot stand together, or one is impossible in itself; the
            message names it.
    """
    if not fields:
        raise InvalidSetting(f"The {side} has no fields.", hint="Declare at least one field.", side=side)
    checked = tuple(check_field(field, side=side) for field in fields)
    seen: set[str] = set()
    for field in checked:
        if field.name in seen:
            _refuse(field, side, "is declared twice")
        seen.add(field.name)
    for role in (Role.KEY, Role.TIMESTAMP):
        holders = [field for field in checked if role in field.roles]
        if len(holders) > 1:
            others = ", ".join(repr(field.name) for field in holders)
            _refuse(holders[1], side, f"cannot be a second {role.value} (there are {others})")
    return checked


def check_field(field: Field, *, side: str = "input") -> Field:
    """Return `field` in its normal form: bounds and default of the field's own type, roles in order.

    Raises:
        InvalidSetting: It is impossible; the message names it.
    """

    def refuse(problem: str, hint: str = "") -> NoReturn:
        _refuse(field, side, problem, hint)

    _check_name(field.name, refuse)
    _check_shape(field, refuse)
    bounds = _normal_bounds(field, refuse)
    _check_text(field, refuse)
    _check_categories(field, refuse)
    _check_roles(field, side, refuse)
    roles = tuple(role for role in Role if role in field.roles)
    field = msgspec.structs.replace(field, roles=roles, **bounds)
    if field.has_range:
        low, high = column_limit(field)
        if low > high:
            refuse("has an empty range", "No value of its type lies within its bounds.")
    return _with_normal_default(field, refuse)


def _refuse(field: Field, side: str, problem: str, hint: str = "") -> NoReturn:
    raise InvalidSetting(
        f"The {side} field {field.name!r} {problem}.", hint=hint, field=field.name, side=side
    )


Refuse = Callable[..., NoReturn]


def _check_name(name: str, refuse: Refuse) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        refuse("has a name that cannot be used", "Use letters, digits and '_', starting with a letter.")
    if unicodedata.normalize("NFKC", name) != name:
        refuse(
            "has a name that Python would spell otherwise", f"Use {unicodedata.normalize('NFKC', name)!r}."
        )
    if len(name) > _MAX_NAME_LENGTH:
        refuse(f"has a name of {len(name)} characters", f"Use at most {_MAX_NAME_LENGTH}.")
    if name in RESERVED_NAMES:
        refuse("has a reserved name", "A request's body uses 'rows' and 'columns' itself.")


def _check_shape(field: Field, refuse: Refuse) -> None:
    if len(field.shape) > _MAX_DIMENSIONS:
        refuse(f"has {len(field.shape)} dimensions", f"At most {_MAX_DIMENSIONS} are possible.")
    if any(size is not None and size < 1 for size in field.shape):
        refuse(f"has the shape {list(field.shape)}", "A dimension is at least 1, or None where it is free.")


def _normal_bounds(field: Field, refuse: Refuse) -> dict[str, float | None]:
    given = {name: getattr(field, name) for name in _BOUNDS if getattr(field, name) is not None}
    if not given:
        return {}
    try:
        type_limit(field.type)
    except ValueError:
        refuse(f"has a range, which {field.type.value} values do not have")
    if {"ge", "gt"} <= given.keys() or {"le", "lt"} <= given.keys():
        refuse("has two bounds on one side", "Give one of ge and gt, and one of le and lt.")
    normal: dict[str, float | None] = {}
    for name, bound in given.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            refuse(
                f"has the bound {name}={bound!r}", "A bound is a finite number; leave it out where none is."
            )
        if field.type.is_float:
            normal[name] = float(bound)
        elif bound != int(bound):
            refuse(f"has the bound {name}={bound!r}", "The bounds of whole numbers are whole numbers.")
        else:
            normal[name] = int(bound)
    return normal


def _check_text(field: Field, refuse: Refuse) -> None:
    has_length = field.min_length is not None or field.max_length is not None
    if has_length and field.type not in (DataType.STRING, DataType.BYTES):
        refuse(
            f"has a text length, which {field.type.value} values do not have",
            "A vector's length is its shape.",
        )
    low = 0 if field.min_length is None else field.min_length
    if low < 0 or (field.max_length is not None and field.max_length < low):
        refuse(f"has an impossible length: at least {low}, at most {field.max_length}")
    if field.pattern is not None:
        if field.type is not DataType.STRING:
            refuse(f"has a pattern, which only text has, not {field.type.value}")
        try:
            re.compile(python_pattern(field.pattern))
        except re.error as error:
            refuse(f"has the pattern {field.pattern!r}, which is no regular expression: {error}")


def _check_categories(field: Field, refuse: Refuse) -> None:
    if field.type is not DataType.CATEGORY:
        if field.categories:
            refuse(f"has categories, which {field.type.value} values do not have")
        return
    if not field.categories:
        refuse(
            "is a category without values",
            'List them, as in tg.category("AA", "UA"), or declare plain text with tg.field().',
        )
    if len(field.categories) > MAX_CATEGORIES:
        refuse(f"has {len(field.categories)} categories", f"At most {MAX_CATEGORIES}; use plain text beyond.")
    if len(set(field.categories)) != len(field.categories):
        twice = next(value for value in field.categories if field.categories.count(value) > 1)
        refuse(f"lists the category {twice!r} twice")
    for value in field.categories:
        if not _is_unicode(value):
            refuse(f"has the category {value!r}, which is not valid Unicode text")


def _check_roles(field: Field, side: str, refuse: Refuse) -> None:
    if field.roles and side != "input":
        refuse("has a role, which only input fields have")
    if field.roles and not field.is_scalar:
        refuse("has a role, which only a single value can have, not a vector")
    if Role.KEY in field.roles:
        if field.type not in _KEY_TYPES:
            refuse(
                f"cannot be the key, being {field.type.value}",
                "A key is text, a category, bytes or an integer.",
            )
        if field.optional:
            refuse("cannot be the key, being optional")
    if Role.TIMESTAMP in field.roles and field.type is not DataType.TIMESTAMP:
        refuse(f"cannot be the timestamp, being {field.type.value}", "Declare it as a datetime.")
    if (
        Role.PROTECTED in field.roles
        and field.sensitive
        and field.type not in (DataType.CATEGORY, DataType.BOOL)
    ):
        refuse(
            f"is protected and sensitive, but {field.type.value}",
            "Such a field is journalled by its group only: declare the groups with tg.category().",
        )


def _with_normal_default(field: Field, refuse: Refuse) -> Field:
    default = field.default
    if isinstance(default, float) and math.isnan(default) and field.type.is_float:
        default = None  # what a missing float becomes anyway
    if default is None:
        if field.optional and None in field.shape:
            refuse("is an optional vector of free length without a default", "Give one, such as default=[].")
        if field.optional and not (field.type.is_float or field.type.dtype == object):
            refuse(
                f"is optional without a default, and {field.type.value} has no value for 'missing'",
                "Give it a default.",
            )
        return msgspec.structs.replace(field, default=None)
    if not field.optional:
        refuse("has a default but is not optional")
    return msgspec.structs.replace(field, default=_normal_value(field, default, field.shape, refuse))


def _normal_value(field: Field, value: Any, shape: tuple[int | None, ...], refuse: Refuse) -> Any:
    """Return a default (or one element of it) as the field's type has it."""
    if shape:
        if not isinstance(value, list | tuple) or (shape[0] is not None and len(value) != shape[0]):
            refuse(f"has a default that is not of shape {list(field.shape)}")
        return [_normal_value(field, element, shape[1:], refuse) for element in value]
    kind = field.type
    if kind.is_float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is DataType.BYTES and isinstance(value, str):
        value = _decoded(value, refuse)  # the JSON form of a contract
    expected: type = bool if kind is DataType.BOOL else int
    if kind.dtype == object:
        expected = bytes if kind is DataType.BYTES else str
    elif kind.is_float:
        expected = float
    if type(value) is not expected:
        refuse(f"has the default {value!r}, which is not {kind.value}")
    if not is_allowed(field, value):
        refuse(f"has the default {value!r}, which its own constraints exclude")
    return value


def is_allowed(field: Field, value: Any) -> bool:
    """Tell whether a scalar value, in its normal form, is one that a field takes."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        low, high = wire_limit(field)
        return low <= value <= high
    if field.type is DataType.CATEGORY:
        return value in field.categories
    if isinstance(value, str) and not _is_unicode(value):
        return False
    if field.pattern is not None and re.search(python_pattern(field.pattern), value) is None:
        return False
    return (field.min_length or 0) <= len(value) and (
        field.max_length is None or len(value) <= field.max_length
    )


def _decoded(text: str, refuse: Refuse) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        refuse(f"has the default {text!r}, which is not base64")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
