"""Checks: what rules and contracts amount to, as expressions over the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.contract.pattern import python_pattern
from tidegate.contract.requirement import requirement
from tidegate.contract.schema import Schema
from tidegate.contract.wire import read_timestamps
from tidegate.data.report import Policy

Columns = Mapping[str, pl.DataType]
"""The columns of a table and their types."""


ROW = "\x00row"
"""Column of a table under validation that keeps each row as it came."""


class RowCheck(NamedTuple):
    """Judges each row.

    Attributes:
        rule: Name of the rule.
        column: Whose values are judged.
        policy: What follows for an offending row.
        bad: True for an offending row; null counts as false.
        message: What was expected.
        allowance: Share of rows that may offend before it is a finding.
    """

    rule: str
    column: str
    policy: Policy
    bad: pl.Expr
    message: str
    allowance: float = 0.0


class TableCheck(NamedTuple):
    """Judges a column or the table as a whole.

    Attributes:
        rule: Name of the rule.
        column: Which; empty for the table.
        policy: Reject or warn.
        figure: Aggregates to one value.
        judge: Says what is wrong with that value and the number of rows, or None.
    """

    rule: str
    column: str
    policy: Policy
    figure: pl.Expr
    judge: Callable[[Any, int], str | None]


Check = RowCheck | TableCheck


def absent(rule: str, column: str, policy: Policy) -> TableCheck:
    """Return the check that always finds that a column is not there."""
    firm = Policy.REJECT if policy == Policy.QUARANTINE else policy
    return TableCheck(rule, column, firm, pl.len(), lambda _, __: f"There is no column {column!r}.")


_TYPES: dict[DataType, pl.DataType] = {
    **{kind: getattr(pl, kind.value.title().replace("Ui", "UI"))() for kind in DataType if kind.is_integer},
    DataType.BOOL: pl.Boolean(),
    DataType.FLOAT16: pl.Float32(),
    DataType.FLOAT32: pl.Float32(),
    DataType.FLOAT64: pl.Float64(),
    DataType.STRING: pl.String(),
    DataType.CATEGORY: pl.String(),
    DataType.BYTES: pl.Binary(),
    DataType.TIMESTAMP: pl.Datetime("us", "UTC"),
    DataType.DURATION: pl.Duration("us"),
}


def typed(field: Field, found: pl.DataType) -> pl.Expr | None:
    """Return a column as its field's type, null where it does not convert; None where it never does."""
    column, target = pl.col(field.name), _TYPES[field.type]
    if not field.is_scalar:
        return column if found.is_nested() else None
    if found in (target, pl.Null):
        return column.cast(target)
    if field.type is DataType.TIMESTAMP:
        return _moment(column, found)
    if found == pl.String:
        return _read(column, field.type)
    if field.type is DataType.DURATION:
        return column.cast(target) if found == pl.Duration or found.is_integer() else None
    if field.type.is_text:
        return column.cast(target) if found in (pl.Categorical, pl.Enum) else None
    return _number(column, field.type, found) if found.is_numeric() else None


def _read(column: pl.Expr, kind: DataType) -> pl.Expr | None:
    if kind is DataType.BOOL:
        words = column.str.to_lowercase()
        return pl.when(words == "true").then(statement=True).when(words == "false").then(statement=False)
    return None if kind is DataType.DURATION else column.cast(_TYPES[kind], strict=False)


def _number(column: pl.Expr, kind: DataType, found: pl.DataType) -> pl.Expr | None:
    if not (kind.is_float or kind.is_integer):
        return None
    value = column.cast(_TYPES[kind], strict=False)
    if found.is_float() and kind.is_integer:
        return pl.when(value.cast(pl.Float64) == column).then(value)
    return value


def _moment(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    if isinstance(found, pl.Datetime):
        micro = column.dt.cast_time_unit("us")
        return micro.dt.convert_time_zone("UTC") if found.time_zone else micro.dt.replace_time_zone("UTC")
    if found == pl.String:
        # as a request is read: polars would take the first text's form for that of all
        return column.map_batches(_read_times, return_dtype=_TYPES[DataType.TIMESTAMP], is_elementwise=True)
    if found == pl.Date or found.is_integer():
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return None


def _read_times(texts: pl.Series) -> pl.Series:
    return pl.Series(texts.name, read_timestamps(texts.to_list()), dtype=_TYPES[DataType.TIMESTAMP])


def contract_checks(schema: Schema, columns: Columns, policy: Policy) -> list[Check]:
    """Return what a schema asks of a table: each field's presence, type, values and range."""
    checks: list[Check] = []
    for field in schema.fields:
        found = columns.get(field.name)
        if found is None:
            if not field.optional:
                checks.append(absent("column", field.name, policy))
            continue
        value = typed(field, found)
        if value is None:
            checks.append(_untyped(field, found))
        else:
            checks += _value_checks(field, value, policy)
    return checks


def _untyped(field: Field, found: pl.DataType) -> TableCheck:
    message = f"Must be {requirement(field)}. The column is {found}."
    return TableCheck("type", field.name, Policy.REJECT, pl.len(), lambda _, __: message)


def _value_checks(field: Field, value: pl.Expr, policy: Policy) -> list[Check]:
    name, raw = field.name, pl.col(field.name)
    message = f"Must be {requirement(field)}."
    checks: list[Check] = [RowCheck("type", name, policy, raw.is_not_null() & value.is_null(), message)]
    if not field.is_scalar:
        return checks
    gone = raw.is_null() | value.is_nan() if field.type.is_float else raw.is_null()
    if not field.optional:
        checks.append(RowCheck("missing", name, policy, gone, f"{message} It is missing."))
    bad = _outside(field, value)
    if bad is not None:
        checks.append(RowCheck("range", name, policy, bad & ~gone, message))
    if field.type is DataType.CATEGORY and field.categories:
        known = pl.lit(pl.Series(field.categories, dtype=pl.String)).implode()
        checks.append(RowCheck("category", name, policy, ~value.is_in(known), message))
    if field.pattern is not None or field.min_length or field.max_length is not None:
        checks.append(RowCheck("text", name, policy, _misshapen(field, value), message))
    return checks


def _outside(field: Field, value: pl.Expr) -> pl.Expr | None:
    if field.type is DataType.TIMESTAMP:
        value = value.dt.epoch("us")
    elif field.type is DataType.DURATION:
        value = value.dt.total_microseconds()
    bounds = []
    if field.ge is not None:
        bounds.append(value < field.ge)
    if field.gt is not None:
        bounds.append(value <= field.gt)
    if field.le is not None:
        bounds.append(value > field.le)
    if field.lt is not None:
        bounds.append(value >= field.lt)
    if field.type.is_float:
        bounds.append(value.is_infinite())
    return pl.any_horizontal(bounds) if bounds else None


def _misshapen(field: Field, value: pl.Expr) -> pl.Expr:
    length = value.bin.size() if field.type is DataType.BYTES else value.str.len_chars()
    bad = length < (field.min_length or 0)
    if field.max_length is not None:
        bad |= length > field.max_length
    if field.pattern is not None:
        import re

        # The contract's patterns are Python's, which polars' engine does not know all of.
        search = re.compile(python_pattern(field.pattern)).search
        bad |= ~value.map_elements(lambda text: search(text) is not None, return_dtype=pl.Boolean)
    return bad


def filled_checks(columns: Columns, promised: frozenset[str]) -> list[Check]:
    """Return the checks that no column is empty; for those of the contract that is a fault."""

    def judge(n_present: int, n_rows: int) -> str | None:
        return "Every value is missing." if n_rows and not n_present else None

    checks: list[Check] = []
    for name, found in columns.items():
        value = pl.col(ROW).struct.field(name)
        present = value.fill_nan(None).count() if found.is_float() else value.count()
        policy = Policy.REJECT if name in promised else Policy.WARN
        checks.append(TableCheck("filled", name, policy, present, judge))
    return checks
