"""Bodies to rows to batches: the decoder that a schema compiles to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidegate.contract.batch import Batch
from tidegate.contract.diagnose import diagnose, diagnose_rows, parse
from tidegate.contract.encode import RowEncoder
from tidegate.contract.gather import Gatherer
from tidegate.contract.schema import Schema
from tidegate.contract.violation import ContractViolation, MalformedBody, TooManyRows, Violation
from tidegate.contract.wire import finish_of, list_type, missing_value, wire_type

__all__ = [
    "ContractViolation",
    "MalformedBody",
    "RowDecoder",
    "RowEncoder",
    "TooManyRows",
    "Violation",
]

_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)


class RowDecoder:
    """Decodes request bodies of one schema.

    A body is one row as an object, `{"rows": [...]}` or `{"columns": {name: [...], ...}}`. All
    that the schema asks is checked in C while the body is decoded; only a body that fails is looked
    at again, to say what is wrong with it.
    """

    def __init__(self, schema: Schema, *, max_rows: int = 1000) -> None:
        """Compile the decoder.

        Args:
            schema: What a row must be.
            max_rows: Most rows in one body.
        """
        self.schema = schema
        self.max_rows = max_rows
        wires = {field.name: wire_type(field) for field in schema.fields}
        self.row_type: type[Any] = msgspec.defstruct(
            "Row",
            [
                (field.name, wires[field.name], missing_value(field) if field.is_scalar else None)
                if field.optional
                else (field.name, wires[field.name])
                for field in schema.fields
            ],
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,  # rows hold no cycles, and a collector that need not track them is faster
            module=__name__,
        )
        lists = {
            name: list_type(wire, min_length=1, max_length=max_rows)
            for name, wire in {**wires, "rows": self.row_type}.items()
        }
        columns_type = msgspec.defstruct(
            "Columns",
            [
                (field.name, lists[field.name] | None, None)
                if field.optional
                else (field.name, lists[field.name])
                for field in schema.fields
            ],
            kw_only=True,
            forbid_unknown_fields=True,
            module=__name__,
        )
        self._wrapped_types: dict[str, Any] = {
            "rows": _wrapper("rows", lists["rows"]),
            "columns": _wrapper("columns", columns_type),
        }
        self._decode_row = msgspec.json.Decoder(self.row_type).decode
        self._decode_rows = msgspec.json.Decoder(self._wrapped_types["rows"]).decode
        self._decode_columns = msgspec.json.Decoder(self._wrapped_types["columns"]).decode
        finishes = {field.name: finish_of(field) for field in schema.fields}
        self._finishes = [(name, finish) for name, finish in finishes.items() if finish is not None]
        self.gather: Callable[[Sequence[Any]], Batch] = Gatherer(schema).gather
        """Puts rows (at least one, of any number of bodies) into columns; see `Gatherer`."""

    def decode(self, body: bytes) -> tuple[list[Any], bool]:
        """Decode a body.

        Returns:
            A struct a row, with times as int64 microseconds and defaults filled in, and whether
            the body was one row that stood by itself.

        Raises:
            MalformedBody: It is no JSON, or none of the three forms.
            TooManyRows: It has more than `max_rows` rows.
            ContractViolation: Rows miss the contract; the message names field and row.
        """
        try:
            if body.startswith(b'{"rows"'):
                rows, single = self._decode_rows(body).rows, False
            elif body.startswith(b'{"columns"'):
                rows, single = self._transpose(self._decode_columns(body).columns), False
            else:
                rows, single = [self._decode_row(body)], True
            self._finish(rows)
        except _DECODE_ERRORS as error:
            if body.startswith(b'{"rows"'):
                told = diagnose_rows(
                    body, self.schema, max_rows=self.max_rows, decode=self._decode_alone, refused=error
                )
                if told is not None:
                    raise told from None
            return self._decode_slowly(body)
        return rows, single

    def _decode_alone(self, row: msgspec.Raw) -> None:
        self._finish([self._decode_row(row)])

    def _finish(self, rows: list[Any]) -> None:
        for name, finish in self._finishes:
            for row in rows:
                setattr(row, name, finish(getattr(row, name)))

    def _transpose(self, columns: Any) -> list[Any]:
        given = {
            name: values for name, values in msgspec.structs.asdict(columns).items() if values is not None
        }
        if not given:
            raise ValueError("no column says how many rows there are")
        names = tuple(given)
        make = self.row_type
        return [make(**dict(zip(names, values, strict=True))) for values in zip(*given.values(), strict=True)]

    def _decode_slowly(self, body: bytes) -> tuple[list[Any], bool]:
        """Decode what the fast way refused, or say what is wrong with it.

        Some bodies are right and only unusual: white space before `"rows"`, an escaped name, a
        field that is given twice.
        """
        value, is_json = parse(body)
        form = next((name for name in self._wrapped_types if name in value), None)
        try:
            if is_json:
                rows = self._convert(value, form)
                self._finish(rows)
                return rows, form is None
        except _DECODE_ERRORS:
            pass  # and what it is, the diagnosis finds out
        raise diagnose(value, self.schema, max_rows=self.max_rows, accepts=self._accepts)

    def _accepts(self, row: Any) -> bool:
        try:
            self._finish([msgspec.convert(row, self.row_type)])
        except _DECODE_ERRORS:
            return False
        return True

    def _convert(self, value: dict[str, Any], form: str | None) -> list[Any]:
        if form is None:
            return [msgspec.convert(value, self.row_type)]
        wrapped = msgspec.convert(value, self._wrapped_types[form])
        return wrapped.rows if form == "rows" else self._transpose(wrapped.columns)


def _wrapper(name: str, content: Any) -> Any:
    return msgspec.defstruct(name.title(), [(name, content)], forbid_unknown_fields=True, module=__name__)
