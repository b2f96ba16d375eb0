"""Declaring a contract as two classes, the way a person writes it."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any, ClassVar

import msgspec

from tidegate.contract.annotation import field_of
from tidegate.contract.check import check_fields
from tidegate.contract.declaration import (
    MISSING,
    Declaration,
    category,
    duration,
    field,
    timestamp,
    vector,
)
from tidegate.contract.field import Role
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting

__all__ = [
    "Input",
    "Output",
    "category",
    "check_contract",
    "contract_of",
    "duration",
    "field",
    "schema_of",
    "timestamp",
    "vector",
]


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
            fields[name] = field_of(cls.__side__, name, annotation, vars(cls).get(name, MISSING))
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
