"""What is wrong with a value, a row or a body, and the errors that say so."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidegate.core.error import TidegateError

MAX_REPORTED = 10
"""How many violations one error lists; a caller needs a few to see the pattern."""


class Violation(msgspec.Struct, frozen=True):
    """One way in which data misses its contract.

    Attributes:
        field: The field it concerns; None where it is a whole row.
        row: The row, counted from 0; None where there is but one, or it concerns all.
        message: A sentence for a person, without any value of a sensitive field.
    """

    field: str | None
    row: int | None
    message: str


class ContractViolation(TidegateError):
    """Data does not fulfil its contract. `context["errors"]` lists field, row and message of each."""

    code = "contract_violation"

    @classmethod
    def of(cls, violations: Sequence[Violation], *, hint: str = "") -> ContractViolation:
        """Make the error that reports `violations` (at least one; the first few are listed)."""
        first = violations[0]
        more = len(violations) - 1
        message = first.message
        if more:
            message += f" And {more} more." if more < MAX_REPORTED - 1 else " And more."
        errors = [_located(v, message=v.message) for v in violations[:MAX_REPORTED]]
        return cls(message, hint=hint, errors=errors, **_located(first))


def _located(violation: Violation, **more: object) -> dict[str, object]:
    where = {"field": violation.field, "row": violation.row}
    return {**{name: value for name, value in where.items() if value is not None}, **more}


class TooManyRows(ContractViolation):
    """A request carries more rows than one request may."""

    code = "too_many_rows"


class MalformedBody(TidegateError):
    """A body is not JSON, or not of any form that carries rows."""

    code = "malformed_body"
