"""Slices: by the values of which fields a service's traffic is counted apart, as plain data."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract

MAX_FIELDS = 12
"""More are not counted apart as they come: each costs the counting of every record as much again."""
MAX_VALUES = 64
"""Values of one field that have a count of their own; all that come later are one."""
_N_PARTS = 10
_MAX_WHOLE = 32  # whole numbers of a declared range that are not worth putting together
_MAGNITUDES = tuple(step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5))


class Slice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field by whose values records are counted apart.

    Attributes:
        field: Name of an input.
        cuts: Of numbers: least number of each part but the first, ascending. They follow from the
            contract alone, so that counts of all workers and days add up.
        whole: Each part is one whole number.
    """

    field: str
    cuts: tuple[float, ...] = ()
    whole: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What each part of a number's range is called; the last one: missing."""
        if not self.cuts:
            return ()
        if self.whole:
            parts = [f"{number:g}" for number in (self.cuts[0] - 1, *self.cuts)]
        else:
            pairs = zip(self.cuts[:-1], self.cuts[1:], strict=True)
            inner = [f"{low:g} to {high:g}" for low, high in pairs]
            parts = [f"below {self.cuts[0]:g}", *inner, f"{self.cuts[-1]:g} and above"]
        return (*parts, "missing")


class Slicing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a service's records are counted apart.

    Attributes:
        fields: By what.
        judged: Output that is held against outcomes; "" for none.
        outcome: Name of the outcome that it is held against.
    """

    fields: tuple[Slice, ...] = ()
    judged: str = ""
    outcome: str = ""


def slicing_of(
    contract: Contract, declared: Iterable[str], *, judged: str = "", outcome: str = ""
) -> Slicing:
    """Return how records of a contract are counted apart.

    Args:
        contract: With all inputs that the journal stores.
        declared: Fields that were asked for; protected ones are counted apart anyway. Names that are
            no inputs, and inputs that cannot be counted apart, are left out.
        judged: Output that is held against outcomes; one that is no scalar is not.
        outcome: Name of that outcome.
    """
    protected = [field.name for field in contract.input.with_role(Role.PROTECTED)]
    fields = [
        field
        for name in dict.fromkeys([*declared, *protected])
        if (field := contract.input.by_name.get(name)) is not None and can_be_sliced(field)
    ]
    output = contract.output.by_name.get(judged)
    return Slicing(
        tuple(_slice(field) for field in fields[:MAX_FIELDS]),
        judged if output is not None and output.is_scalar else "",
        outcome,
    )


def can_be_sliced(field: Field) -> bool:
    """Whether records can be counted apart by a field: a scalar that is journalled, no time and no bytes."""
    if field.sensitive and Role.PROTECTED not in field.roles:
        return False
    return field.is_scalar and not field.type.is_time and field.type is not DataType.BYTES


def _slice(field: Field) -> Slice:
    if field.type.is_text or field.type is DataType.BOOL:
        return Slice(field.name)
    low = field.gt if field.ge is None else field.ge
    high = field.lt if field.le is None else field.le
    if low is None or high is None or not low < high:
        negative = () if low is not None and low >= 0 else tuple(-cut for cut in reversed(_MAGNITUDES))
        return Slice(field.name, (*negative, *(() if negative == () else (0.0,)), *_MAGNITUDES))
    if field.type.is_integer and high - low < _MAX_WHOLE:
        first, last = int(low) + (field.ge is None), int(high) - (field.le is None)
        return Slice(field.name, tuple(float(n) for n in range(first + 1, last + 1)), whole=True)
    cuts = np.linspace(low, high, _N_PARTS + 1)[1:-1]
    return Slice(field.name, tuple(float(f"{cut:.6g}") for cut in cuts))
