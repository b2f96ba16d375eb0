"""How far apart two versions' answers may be and still mean the same."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.contract.field import DataType
from tidegate.contract.schema import Schema

SHARE_OF_RANGE = 0.05
"""A twentieth of its range is a difference few decisions turn on; a service that knows better says so."""


def tolerances(outputs: Schema, declared: Mapping[str, float]) -> dict[str, float]:
    """Return the tolerance of each numeric output that has one, absolute, in the field's unit.

    Fields without a declared tolerance have `SHARE_OF_RANGE` of their range; those without a range are
    left out.

    Args:
        outputs: The output schema.
        declared: Output field -> tolerance.
    """
    found = {}
    for field in outputs.fields:
        if field.type.is_text or field.type in (DataType.BOOL, DataType.BYTES):
            continue
        low = field.ge if field.ge is not None else field.gt
        high = field.le if field.le is not None else field.lt
        if field.name in declared:
            found[field.name] = float(declared[field.name])
        elif low is not None and high is not None:
            found[field.name] = SHARE_OF_RANGE * (high - low)
    return found
