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
    """The stored columns of both sides."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]


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
    return Layout(_columns(contract.input), _columns(contract.output))
