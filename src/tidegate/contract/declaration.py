"""What stands behind the `=` of a declared field: its constraints, roles and default."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tidegate.contract.field import Role
from tidegate.core.error import InvalidSetting


class Missing(enum.Enum):
    """Stands for a default that was not given; None is one that was."""

    MISSING = "missing"


MISSING = Missing.MISSING


class Declaration(msgspec.Struct, frozen=True):
    """What stands behind the `=` of a field until its class is complete.

    Attributes:
        settings: Arguments of the `Field` to be.
        shape: Shape of a vector; empty for a single value.
        item: Element type, where the annotation does not give it.
        default: What the field is when it is left out.
        kind: Which function made it, for messages.
    """

    settings: Mapping[str, Any]
    shape: tuple[int | None, ...] = ()
    item: Any = None
    default: Any = MISSING
    kind: str = "field"


def field(
    *,
    default: Any = MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    unit: str = "",
    doc: str = "",
    key: bool = False,
    protected: bool = False,
    sensitive: bool = False,
    role: Role | str | None = None,
    roles: tuple[Role | str, ...] = (),
) -> Any:
    """Declare a field whose type is its annotation's.

    Args:
        default: Makes the field optional; stands in when it is left out or null.
        ge: Least value; `gt` where it is itself excluded. In the field's unit.
        gt: See `ge`.
        le: Greatest value; `lt` where it is itself excluded. In the field's unit.
        lt: See `le`.
        min_length: Least number of characters (text) or bytes.
        max_length: Greatest number of characters (text) or bytes.
        pattern: Regular expression of which a text must contain a match.
        unit: For people, and for compatibility: changing it breaks callers.
        doc: One line for people.
        key: Traffic sticks to this field's value; outcomes may name it.
        protected: Fairness is judged by this field.
        sensitive: Never journalled, logged or echoed.
        role: `key`, `protected` or `timestamp`; the same as the flag of that name.
        roles: Several roles at once.
    """
    return Declaration(
        {
            "ge": ge,
            "gt": gt,
            "le": le,
            "lt": lt,
            "min_length": min_length,
            "max_length": max_length,
            "pattern": pattern,
            "unit": unit,
            "doc": doc,
            "sensitive": sensitive,
            "roles": _roles(role, roles, key=key, protected=protected),
        },
        default=default,
    )


def category(
    *values: str,
    default: Any = MISSING,
    unit: str = "",
    doc: str = "",
    key: bool = False,
    protected: bool = False,
    sensitive: bool = False,
    role: Role | str | None = None,
    roles: tuple[Role | str, ...] = (),
) -> Any:
    """Declare a text field that takes one of `values`; see `field` for the rest."""
    settings = {
        "categories": values,
        "unit": unit,
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(role, roles, key=key, protected=protected),
    }
    return Declaration(settings, default=default, kind="category")


def timestamp(
    *,
    default: Any = MISSING,
    ge: datetime | int | None = None,
    gt: datetime | int | None = None,
    le: datetime | int | None = None,
    lt: datetime | int | None = None,
    unit: str = "",
    doc: str = "",
    protected: bool = False,
    sensitive: bool = False,
    role: Role | str | None = None,
    roles: tuple[Role | str, ...] = (),
) -> Any:
    """Declare an instant (annotation `datetime`). Bounds are aware datetimes or microseconds UTC."""
    settings = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "unit": unit,
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(role, roles, protected=protected),
    }
    return Declaration(settings, default=default, item=datetime, kind="timestamp")


def duration(
    *,
    default: Any = MISSING,
    ge: timedelta | int | None = None,
    gt: timedelta | int | None = None,
    le: timedelta | int | None = None,
    lt: timedelta | int | None = None,
    unit: str = "",
    doc: str = "",
    protected: bool = False,
    sensitive: bool = False,
    role: Role | str | None = None,
    roles: tuple[Role | str, ...] = (),
) -> Any:
    """Declare a span of time (annotation `timedelta`). Bounds are timedeltas or microseconds."""
    settings = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "unit": unit,
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(role, roles, protected=protected),
    }
    return Declaration(settings, default=default, item=timedelta, kind="duration")


def vector(
    length: int | None = None,
    *,
    shape: tuple[int | None, ...] | None = None,
    item: Any = None,
    default: Any = MISSING,
    ge: Any = None,
    gt: Any = None,
    le: Any = None,
    lt: Any = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    categories: tuple[str, ...] = (),
    unit: str = "",
    doc: str = "",
    sensitive: bool = False,
) -> Any:
    """Declare several values of one type in a field (annotation `list[float]` or another element).

    Args:
        length: How many there are; None for any number.
        shape: Dimensions of a tensor, in place of `length`; None is a free dimension.
        item: Exact element type, such as `np.float32`, where the annotation is wider.
        default: Nested lists; makes the field optional.
        ge: Range of each element, as in `field`.
        gt: See `ge`.
        le: See `ge`.
        lt: See `ge`.
        min_length: Length of each text or bytes element.
        max_length: Length of each text or bytes element.
        pattern: Regular expression of which each text must contain a match.
        categories: The values that each text element may take.
        unit: As in `field`.
        doc: One line for people.
        sensitive: Never journalled, logged or echoed.
    """
    if shape is not None and length is not None:
        raise InvalidSetting("A vector takes a length or a shape, not both.")
    settings = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "min_length": min_length,
        "max_length": max_length,
        "pattern": pattern,
        "categories": categories,
        "unit": unit,
        "doc": doc,
        "sensitive": sensitive,
    }
    dimensions = (length,) if shape is None else tuple(shape)
    return Declaration(settings, shape=dimensions, item=item, default=default, kind="vector")


def _roles(
    role: Role | str | None,
    roles: tuple[Role | str, ...],
    *,
    key: bool = False,
    protected: bool = False,
) -> tuple[Role, ...]:
    named = {*roles, *([role] if role else [])}
    if key:
        named.add(Role.KEY)
    if protected:
        named.add(Role.PROTECTED)
    try:
        return tuple(Role(name) for name in sorted(named))
    except ValueError as error:
        raise InvalidSetting(
            f"There is no such role: {error}.", hint=f"Roles: {', '.join(role.value for role in Role)}."
        ) from error
