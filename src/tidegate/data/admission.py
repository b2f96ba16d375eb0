"""Rows that a contract's requests could hold, out of rows of any kind: a model is judged on no others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.contract.infer import columns_of
from tidegate.contract.requirement import requirement
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.contract.violation import ContractViolation
from tidegate.core.error import InvalidSetting
from tidegate.data.check import RowCheck, contract_checks, typed
from tidegate.data.report import Policy

Flags = npt.NDArray[np.bool_]


class Admission(NamedTuple):
    """The rows that a contract allows.

    Attributes:
        table: These rows, typed by the contract, in their order.
        kept: Which of the rows given they are.
        notes: How many were left out, by field, and what the field asks for.
    """

    table: pl.DataFrame
    kept: Flags
    notes: tuple[str, ...]


def admit_rows(table: pl.DataFrame, schema: Schema, *, name: str) -> Admission:
    """Return the rows that a schema allows; a field that has no column is not looked for.

    What is optional and missing has its default afterwards.

    Args:
        table: The rows; further columns pass as they are.
        schema: The fields.
        name: What the rows are called.

    Raises:
        ContractViolation: There are no rows, or none fits.
    """
    if not table.height:
        raise ContractViolation(f"{name} has no rows.", hint="Give at least one.", n_rows=0)
    bad: dict[str, Flags] = {}
    columns: list[pl.Series] = []
    for field in schema.fields:
        if field.name not in table.columns:
            continue
        column = _as_validated(field, table[field.name])
        if field.optional and column.null_count() == len(column):
            table = table.drop(field.name)  # as if it had been left out: it may be of any type
            continue
        wrong = _wrong(field, column)
        if wrong.any():
            bad[field.name] = wrong
        if not wrong.all():
            columns.append(_typed(field, column))
    left_out = np.logical_or.reduce([np.zeros(table.height, dtype=np.bool_), *bad.values()])
    notes = [
        f"{int(wrong.sum()):,} of {table.height:,} rows are left out: field {field!r} must be "
        f"{requirement(schema.by_name[field])}."
        for field, wrong in bad.items()
    ]
    if left_out.all():
        raise ContractViolation(
            f"No row of {name} is what the contract allows. {' '.join(notes)}",
            hint="`tidegate data check` shows such rows.",
            n_rows=table.height,
        )
    if len(bad) > 1:
        notes.append(f"{int(left_out.sum()):,} of {table.height:,} rows are left out in all.")
    kept = ~left_out
    return Admission(table.with_columns(columns).filter(pl.Series(kept)), kept, tuple(notes))


def _as_validated(field: Field, column: pl.Series) -> pl.Series:
    """Let 0 and 1 stand for false and true and the other way round, as `Validator` does."""
    if field.type is DataType.BOOL and column.dtype.is_integer() and column.is_in([0, 1]).all():
        return column.cast(pl.Boolean)
    if field.type.is_integer and column.dtype == pl.Boolean:
        return column.cast(pl.Int64)
    return column


def _wrong(field: Field, column: pl.Series) -> Flags:
    """Return which values a field does not allow."""
    alone = column.to_frame()
    checks = contract_checks(Schema((field,)), dict(alone.schema), Policy.QUARANTINE)
    if not all(isinstance(check, RowCheck) for check in checks):  # the column is of another type
        return np.ones(len(column), dtype=np.bool_)
    bad = [check.bad.fill_null(value=False) for check in checks if isinstance(check, RowCheck)]
    wrong = alone.select(pl.any_horizontal(bad)).to_series().to_numpy()
    return wrong if field.is_scalar else wrong | _wrong_vectors(field, column)


def _wrong_vectors(field: Field, column: pl.Series) -> Flags:
    judge = Validator(Schema((field,)))

    def fits(part: pl.Series) -> bool:
        try:
            return not judge.violations(judge.coerce(columns_of(part.to_frame())))
        except (ContractViolation, InvalidSetting):
            return False

    if fits(column):
        return np.zeros(len(column), dtype=np.bool_)
    return np.array([not fits(column[row : row + 1]) for row in range(len(column))], dtype=np.bool_)


def _typed(field: Field, column: pl.Series) -> pl.Series:
    """Return a column as its field's type, what is missing replaced by the default."""
    expression = typed(field, column.dtype)
    assert expression is not None  # else every value was wrong
    values = column.to_frame().select(expression).to_series()
    if field.is_scalar and field.default is not None:
        values = values.fill_null(pl.Series([field.default]).cast(values.dtype).item())
    return values
