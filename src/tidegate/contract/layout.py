"""What of a contract's rows the journal stores, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stored column: all that a reader needs to know of its field, without the contract.

    Attributes:
        name: The field's name.
        type: Element type. Numbers and booleans are stored as they are, times as int64
            microseconds, a category as its position in `categories`.
        shape: Shape of one row's value; None is a free dimension.
        categories: The values that the stored codes stand for, in order.
        group_only: The field is sensitive, and stored as its group's code for the sake of fairness
            alone: a reader gives the code, never the value.
    """

    name: str
    type: DataType
    shape: tuple[int | None, ...] = ()
    categories: tuple[str, ...] = ()
    group_only: bool = False


class Layout(msgspec.Struct, frozen=True):
    """The stored columns of a contract, in the order of its fields.

    Attributes:
        inputs: Columns of a request's row.
        outputs: Columns of an answer's row.
        event_time: Name of the input column that says when the event happened; "" without one.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    event_time: str = ""


def journal_layout(contract: Contract) -> Layout:
    """Return the layout of a contract's records: all but the sensitive fields.

    Of sensitive fields, only a protected category or boolean is in it, as a group.
    """
    times = [field.name for field in contract.input.with_role(Role.TIMESTAMP) if not field.sensitive]
    return Layout(
        _columns(contract.input.fields),
        _columns(contract.output.fields),
        event_time=times[0] if times else "",
    )


def _columns(fields: Iterable[Field]) -> tuple[Column, ...]:
    return tuple(
        Column(field.name, field.type, field.shape, field.categories, group_only=field.sensitive)
        for field in fields
        if not field.sensitive or Role.PROTECTED in field.roles
    )
