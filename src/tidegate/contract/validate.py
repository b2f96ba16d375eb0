"""Columns against their schema: what a model gave back, what came as tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, Column
from tidegate.contract.convert import ColumnConverter, missing_column
from tidegate.contract.field import DataType, Field
from tidegate.contract.gather import block_groups
from tidegate.contract.limit import column_limit
from tidegate.contract.pattern import python_pattern
from tidegate.contract.requirement import received, requirement
from tidegate.contract.schema import Schema
from tidegate.contract.violation import MAX_REPORTED, ContractViolation, Violation

_FEW_ROWS = 8
"""Up to here Python's own numbers are compared faster than numpy starts."""

_MANY_COLUMNS = 4
"""From here a block is checked faster than its columns."""

BoolArray = npt.NDArray[np.bool_]


class Validator:
    """Checks and converts columns of one schema."""

    def __init__(self, schema: Schema) -> None:
        """Compile the checks of `schema`."""
        self.schema = schema
        self._checks = [_check_of(field) for field in schema.fields]
        self._accepts = [(check.field.name, check.accepts) for check in self._checks]
        self._blocks = [
            _BlockCheck([schema.by_name[name] for name in names])
            for names, dtype in block_groups(schema.fields)
            if len(names) >= _MANY_COLUMNS and np.dtype(dtype).kind in "fiu"
        ]
        self._dtypes = [
            (field.name, field.type.dtype) if field.is_scalar else (field.name, None)
            for field in schema.fields
        ]
        self._converters = {field.name: ColumnConverter(field) for field in schema.fields}
        self._plain = all(
            field.is_scalar and field.type.dtype != object and field.default is None
            for field in schema.fields
        )

    def violations(self, batch: Batch) -> list[Violation]:
        """Return what is wrong with the columns of `batch`, nothing where they fulfil the schema.

        Columns beyond the schema's are not looked at. At most ten violations are listed.
        """
        columns = batch.columns
        n_rows = batch.n_rows
        seen: frozenset[str] = frozenset()
        for block in self._blocks:
            if block.accepts(batch):
                seen |= block.names
        for name, accepts in self._accepts:
            if name in seen:
                continue
            column = columns.get(name)
            if column is None or not accepts(column, n_rows):
                return list(islice(self._explain(batch), MAX_REPORTED))
        return []

    def coerce(self, columns: Mapping[str, Column]) -> Batch:
        """Convert columns to the schema's dtypes and shapes, where nothing is lost by it.

        Integers fit smaller ones where their values do, and floats; floats fit narrower ones where
        none becomes infinite, never integers. Bytes become text where they are UTF-8. A single value
        may come as shape [n, 1]. What is optional may be absent. Ranges and other constraints are
        left to `violations`.

        Args:
            columns: By name; numpy arrays whose first axis is the row.

        Returns:
            A batch of exactly the schema's columns.

        Raises:
            ContractViolation: A column is unknown, missing, or does not convert; the message names it.
        """
        n_rows = _row_count(columns)
        if self._plain and len(columns) == len(self._dtypes):
            expected = (n_rows,)
            for name, dtype in self._dtypes:
                column = columns.get(name)
                if column is None or column.dtype != dtype or column.shape != expected:
                    break
            else:
                return Batch(columns, n_rows)
        return self._convert(columns, n_rows)

    def _convert(self, columns: Mapping[str, Column], n_rows: int) -> Batch:
        for name in columns:
            if name not in self.schema.by_name:
                raise ContractViolation(
                    f"Unknown field {name[:60]!r}.", hint=f"Fields: {', '.join(self.schema.names)}."
                )
        converted: dict[str, Column] = {}
        for field in self.schema.fields:
            column = columns.get(field.name)
            if column is not None:
                converted[field.name] = self._converters[field.name].convert(column, n_rows)
            elif field.optional:
                converted[field.name] = missing_column(field, n_rows)
            else:
                raise ContractViolation(
                    f"Field {field.name!r} is missing. It must be {requirement(field)}.", field=field.name
                )
        return Batch(converted, n_rows)

    def _explain(self, batch: Batch) -> Iterator[Violation]:
        for check in self._checks:
            name = check.field.name
            column = batch.columns.get(name)
            if column is None:
                yield Violation(name, None, f"Field {name!r} is missing.")
            elif not check.accepts(column, batch.n_rows):
                yield from check.explain(column, batch.n_rows)


class _BlockCheck:
    """Columns that stand in one block, checked together where they do."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._names = tuple(field.name for field in fields)
        self.names = frozenset(self._names)
        self._dtype = fields[0].type.dtype
        limits = [column_limit(field) for field in fields]
        self._low = np.array([limit.low for limit in limits], dtype=self._dtype)
        self._high = np.array([limit.high for limit in limits], dtype=self._dtype)

    def accepts(self, batch: Batch) -> bool:
        """Tell whether the block is there and right; where it is not, its columns say why."""
        block = batch.block(self._names)
        if block is None or block.dtype != self._dtype or block.shape != (batch.n_rows, len(self._names)):
            return False
        return bool(((block >= self._low) & (block <= self._high)).all())


def _row_count(columns: Mapping[str, Column]) -> int:
    for column in columns.values():
        n_rows = len(column) if column.ndim else 0
        if n_rows:
            return n_rows
        break
    raise ContractViolation("There are no rows.", hint="Send at least one.", n_rows=0)


def _check_of(field: Field) -> _Check:
    if field.type.dtype == object:
        return _ObjectCheck(field)
    return _NumberCheck(field)


class _Check:
    """One field's column: dtype and shape here, elements in the subclasses."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self._free = None in field.shape
        self._dtype = np.dtype(object) if self._free else field.type.dtype

    def accepts(self, column: Column, n_rows: int) -> bool:
        """Tell whether a column is right."""
        return self._misfit(column, n_rows) is None and not self._bad_rows(column).any()

    def explain(self, column: Column, n_rows: int) -> Iterator[Violation]:
        """Say what is wrong with a column that was not accepted."""
        field = self.field
        misfit = self._misfit(column, n_rows)
        if misfit is not None:
            yield Violation(field.name, None, f"Field {field.name!r} {misfit}.")
            return
        expected = requirement(field)
        for row in np.flatnonzero(self._bad_rows(column))[:MAX_REPORTED].tolist():
            shown = self._shown(column[row])
            yield Violation(field.name, row, f"Field {field.name!r} of row {row} must be {expected}.{shown}")

    def _shown(self, value: Any) -> str:
        """Say what a row holds; of a vector, which element is wrong."""
        if isinstance(value, np.ndarray) and value.dtype == self.field.type.dtype and value.ndim:
            wrong = np.argwhere(self._bad(value))
            if len(wrong):
                place = "".join(f"[{index}]" for index in wrong[0].tolist())
                return f" The fault is at {place}.{received(self.field, value.item(*wrong[0]))}"
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        return received(self.field, plain)

    def _misfit(self, column: Column, n_rows: int) -> str | None:
        """Say how dtype or shape are wrong, None where they are right."""
        if column.dtype != self._dtype:
            return f"must have dtype {self._dtype}, not {column.dtype}"
        expected = (n_rows,) if self._free else (n_rows, *self.field.shape)
        if column.shape != expected:
            return f"must have shape {list(expected)}, not {list(column.shape)}"
        return None

    def _bad_rows(self, column: Column) -> BoolArray:
        """Return which rows of a column of the right dtype and shape hold a wrong element."""
        if self._free:
            return np.fromiter((not self._fits(value) for value in column), np.bool_, len(column))
        bad = self._bad(column)
        return bad if bad.ndim == 1 else np.any(bad.reshape(len(bad), -1), axis=1)

    def _fits(self, value: Any) -> bool:
        """Tell whether one row's value of free shape is right."""
        shape = self.field.shape
        return (
            isinstance(value, np.ndarray)
            and value.dtype == self.field.type.dtype
            and value.ndim == len(shape)
            and all(size is None or size == got for size, got in zip(shape, value.shape, strict=True))
            and not self._bad(value).any()
        )

    def _bad(self, values: Column) -> BoolArray:
        """Return which elements are wrong, in the shape of `values`."""
        raise NotImplementedError


class _NumberCheck(_Check):
    """Numbers, times and booleans."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._is_bool = field.type is DataType.BOOL
        if not self._is_bool:
            self._low, self._high = column_limit(field)
        self._fast = field.is_scalar and not self._is_bool
        self._holes = field.optional and field.type.is_float
        self._least: Callable[..., Any] = np.fmin.reduce if self._holes else np.minimum.reduce
        self._most: Callable[..., Any] = np.fmax.reduce if self._holes else np.maximum.reduce

    def accepts(self, column: Column, n_rows: int) -> bool:
        if not self._fast or column.dtype != self._dtype or column.shape != (n_rows,):
            return super().accepts(column, n_rows)
        low, high = self._low, self._high
        if n_rows > _FEW_ROWS:
            # NaN compares false; where it is allowed, fmin and fmax pass over it unless all are NaN.
            if self._least(column) >= low and self._most(column) <= high:
                return True
            return self._holes and not self._bad(column).any()
        for value in column.tolist():
            if not low <= value <= high and not (self._holes and math.isnan(value)):
                return False
        return True

    def _bad(self, values: Column) -> BoolArray:
        if self._is_bool:
            return np.zeros(values.shape, np.bool_)
        bad = ~((values >= self._low) & (values <= self._high))
        return bad & ~np.isnan(values) if self._holes else bad


class _ObjectCheck(_Check):
    """Text, categories and bytes."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._allowed = _allowed(field)

    def _bad(self, values: Column) -> BoolArray:
        allowed = self._allowed
        wrong = (not allowed(value) for value in values.ravel().tolist())
        return np.fromiter(wrong, np.bool_, values.size).reshape(values.shape)


def _allowed(field: Field) -> Callable[[Any], bool]:
    """Return the test of one element of an object column."""
    if field.type is DataType.CATEGORY:
        known: frozenset[str | None] = frozenset(field.categories)
        if field.optional:
            known |= {None}
        return lambda value: (value is None or type(value) is str) and value in known
    kind = bytes if field.type is DataType.BYTES else str
    low, high = field.min_length or 0, field.max_length
    search = re.compile(python_pattern(field.pattern)).search if field.pattern is not None else None

    def allowed(value: Any) -> bool:
        if value is None:
            return field.optional
        if type(value) is not kind or len(value) < low or (high is not None and len(value) > high):
            return False
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # lone surrogates, which no answer can carry
                return False
        return search is None or search(value) is not None

    return allowed
