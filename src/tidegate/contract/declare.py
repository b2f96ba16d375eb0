"""Declaring a contract as two classes, the way a person writes it."""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from tidegate.contract.check import check_field, check_fields
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


class _Missing(enum.Enum):
    MISSING = "missing"


_MISSING = _Missing.MISSING


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
    default: Any = _MISSING
    kind: str = "field"


def field(
    *,
    default: Any = _MISSING,
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
    default: Any = _MISSING,
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
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(role, roles, key=key, protected=protected),
    }
    return Declaration(settings, default=default, kind="category")


def timestamp(
    *,
    default: Any = _MISSING,
    ge: datetime | int | None = None,
    gt: datetime | int | None = None,
    le: datetime | int | None = None,
    lt: datetime | int | None = None,
    doc: str = "",
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
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(role, roles),
    }
    return Declaration(settings, default=default, item=datetime, kind="timestamp")


def duration(
    *,
    default: Any = _MISSING,
    ge: timedelta | int | None = None,
    gt: timedelta | int | None = None,
    le: timedelta | int | None = None,
    lt: timedelta | int | None = None,
    doc: str = "",
    sensitive: bool = False,
    protected: bool = False,
) -> Any:
    """Declare a span of time (annotation `timedelta`). Bounds are timedeltas or microseconds."""
    settings = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "doc": doc,
        "sensitive": sensitive,
        "roles": _roles(None, (), protected=protected),
    }
    return Declaration(settings, default=default, item=timedelta, kind="duration")


def vector(
    length: int | None = None,
    *,
    shape: tuple[int | None, ...] | None = None,
    item: Any = None,
    default: Any = _MISSING,
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


class _Side:
    """What Input and Output share: a class statement becomes a schema as soon as it is complete."""

    __schema__: ClassVar[Schema]
    __side__: ClassVar[str] = "input"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Annotations may be text (from __future__ import annotations) and may name what only the
        # function around the class knows.
        frame = sys._getframe(1)
        annotations = inspect.get_annotations(
            cls, globals=frame.f_globals, locals={**frame.f_locals, **vars(cls)}, eval_str=True
        )
        inherited = getattr(cls, "__schema__", None)
        fields = {field.name: field for field in inherited.fields} if inherited else {}
        annotation: Any
        for name, annotation in annotations.items():
            if typing.get_origin(annotation) is ClassVar:
                continue
            fields[name] = _field_of(cls.__side__, name, annotation, vars(cls).get(name, _MISSING))
        for name, value in vars(cls).items():
            if isinstance(value, Declaration) and name not in annotations:
                raise InvalidSetting(
                    f"The {cls.__side__} field {name!r} has no type.",
                    hint=f"Write its annotation, as in `{name}: float = ...`.",
                    field=name,
                )
        if fields:
            cls.__schema__ = Schema(check_fields(cls.__side__, tuple(fields.values())))


class Input(_Side):
    """Base of the class that declares what a service takes."""

    __side__ = "input"


class Output(_Side):
    """Base of the class that declares what a service answers."""

    __side__ = "output"


def schema_of(declared: type[Input] | type[Output]) -> Schema:
    """Return the schema that a class declares.

    Raises:
        InvalidSetting: It is no subclass of Input or Output, or declares no field.
    """
    given: Any = declared  # from a person, so of any type
    if not (isinstance(given, type) and issubclass(given, _Side)):
        raise InvalidSetting(f"{declared!r} declares no schema.", hint="Subclass tg.Input or tg.Output.")
    schema = getattr(declared, "__schema__", None)
    if schema is None:
        raise InvalidSetting(
            f"{declared.__name__} has no fields.", hint="Declare at least one, as in `x: float`."
        )
    return typing.cast("Schema", schema)


def contract_of(
    input: type[Input] | Schema,
    output: type[Output] | Schema,
    *,
    key: str | None = None,
    batched: bool = True,
) -> Contract:
    """Return the contract between an input and an output.

    Args:
        input: Class or schema of a request's row.
        output: Class or schema of an answer's row.
        key: Input field that gets the role of key, where none has it in its declaration.
        batched: Whether rows of several requests may share one call of the model.

    Raises:
        InvalidSetting: The two cannot stand together, or `key` names no input field.
    """
    taken = input if isinstance(input, Schema) else schema_of(input)
    given = output if isinstance(output, Schema) else schema_of(output)
    if key is not None:
        taken = _with_key(taken, key)
    return Contract(taken, given, batched).checked()


def check_contract(contract: Contract) -> Contract:
    """Return `contract` in its normal form.

    Raises:
        InvalidSetting: Something in it is impossible; the message names the field.
    """
    return contract.checked()


def _with_key(schema: Schema, key: str) -> Schema:
    if key not in schema.by_name:
        raise InvalidSetting(
            f"The key {key!r} is no input field.", hint=f"Input fields: {', '.join(schema.names)}.", field=key
        )
    return Schema(
        tuple(
            msgspec.structs.replace(field, roles=(Role.KEY, *field.roles))
            if field.name == key and Role.KEY not in field.roles
            else field
            for field in schema.fields
        )
    )


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


def _field_of(side: str, name: str, annotation: Any, value: Any) -> Field:
    """Put an annotation and what stands behind its `=` together."""
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
    default = None if declared.default is _MISSING else declared.default
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
        return (value - _EPOCH) // _MICROSECOND
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
