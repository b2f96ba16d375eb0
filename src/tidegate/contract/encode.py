"""Columns to answer rows that msgspec writes as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tidegate.contract.batch import Batch, Column, missing_rows
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.contract.wire import duration_of, timestamp_of


class RowEncoder:
    """Turns a batch into one struct a row: NaN becomes null, bytes base64, times text."""

    def __init__(self, schema: Schema) -> None:
        """Compile the encoder of the rows of `schema`."""
        self.row_type: type[Any] = msgspec.defstruct(
            "Row", [(name, Any) for name in schema.names], gc=False, module=__name__
        )
        self._columns = [(field.name, _lister(field)) for field in schema.fields]

    def rows(self, batch: Batch) -> list[Any]:
        """Return a struct a row, in order; `msgspec.json.encode` takes each or all of them.

        Args:
            batch: Valid columns of the schema; see `Validator`.
        """
        columns = batch.columns
        return list(map(self.row_type, *[values(columns[name]) for name, values in self._columns]))


def _lister(field: Field) -> Callable[[Column], list[Any]]:
    """Return what makes a list of JSON values of a column."""
    if field.type.is_time:
        convert = timestamp_of if field.type is DataType.TIMESTAMP else duration_of
        return lambda column: _deep(convert, _plain(column))
    if None in field.shape:
        return _plain
    if field.shape and field.optional and field.default is None:
        return _holed
    return lambda column: column.tolist()


def _plain(column: Column) -> list[Any]:
    return [element.tolist() if hasattr(element, "tolist") else element for element in column]


def _holed(column: Column) -> list[Any]:
    """Return vectors, with null in place of those that are nothing but NaN or None."""
    holes = missing_rows(column).tolist()
    return [None if hole else value for hole, value in zip(holes, column.tolist(), strict=True)]


def _deep(convert: Callable[[int], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_deep(convert, element) for element in value]
    return convert(value)
