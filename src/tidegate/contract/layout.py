"""What the journal keeps of a contract, in order: its columns without what is sensitive."""

from __future__ import annotations

import msgspec

from tidegate.contract.schema import Contract, DataType, Field, Role, Schema


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stored column.

    Attributes:
        name: The field's name.
        type: Element type. A category is stored as the position of its value.
        shape: Shape of one row's value; None is a free dimension.
        categories: The values of a category, in order.
    """

    name: str
    type: DataType
    shape: tuple[int | None, ...] = ()
    categories: tuple[str, ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """The stored columns of both sides.

    Attributes:
        inputs: Columns of a request row.
        outputs: Columns of an answer row.
        event_time: Name of the input column that says when the event happened; "" without one.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    event_time: str = ""


def _is_stored(field: Field) -> bool:
    if not field.sensitive:
        return True
    # fairness needs the group, not the value: a sensitive attribute is kept where all it can say is its group
    return Role.PROTECTED in field.roles and field.type in (DataType.CATEGORY, DataType.BOOL)


def _columns(schema: Schema) -> tuple[Column, ...]:
    return tuple(
        Column(field.name, field.type, field.shape, field.categories)
        for field in schema.fields
        if _is_stored(field)
    )


def journal_layout(contract: Contract) -> Layout:
    """Return what the journal keeps of `contract`."""
    times = [f.name for f in contract.input.with_role(Role.TIMESTAMP) if _is_stored(f)]
    return Layout(_columns(contract.input), _columns(contract.output), event_time=times[0] if times else "")
