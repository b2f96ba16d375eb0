"""Why a body was refused, in words: the slow second look at what the fast decoder would not take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from tidegate.contract.field import Field
from tidegate.contract.requirement import received, requirement
from tidegate.contract.schema import Schema
from tidegate.contract.violation import (
    MAX_REPORTED,
    ContractViolation,
    MalformedBody,
    TooManyRows,
    Violation,
)
from tidegate.contract.wire import finish_of, list_type, wire_type
from tidegate.core.error import TidegateError

_FORMS = 'Send one row as an object, {"rows": [...]} or {"columns": {...}}.'
_SHOWN_NAME = 60
_LENIENT_BYTES = 1 << 18
"""Longer bodies are not read a second time by Python's parser, which takes seconds over megabytes."""


class Unwritable:
    """A number that no column takes, as it stood in the body."""

    def __init__(self, text: str) -> None:
        self.text = text


Fault = Callable[[Any], str | None]
"""Says where in a value the fault is ("" for the value as a whole), None where there is none."""


def parse(body: bytes) -> tuple[dict[str, Any], bool]:
    """Read a body without a schema.

    Returns:
        The object, and whether it is JSON: numbers that JSON does not have (NaN, Infinity, 1e999)
        are read as `Unwritable`, so that the field that holds one can be named.

    Raises:
        MalformedBody: It is not an object, not UTF-8, or nested beyond reason.
    """
    is_json = True
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise MalformedBody("The body is not valid UTF-8.") from None
    except RecursionError:
        raise MalformedBody("The body is nested too deeply.", hint=_FORMS) from None
    except msgspec.MsgspecError as error:
        value, is_json = _parse_leniently(body, error), False
    if not isinstance(value, dict):
        raise MalformedBody(f"The body must be a JSON object, not {_kind(value)}.", hint=_FORMS)
    return value, is_json


class _RawRows(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[msgspec.Raw]


_read_raw_rows = msgspec.json.Decoder(_RawRows).decode
_WRONG_ROW = re.compile(r"\$\.rows\[(\d+)\]")


def diagnose_rows(
    body: bytes, schema: Schema, *, max_rows: int, decode: Callable[[msgspec.Raw], Any], refused: Exception
) -> TidegateError | None:
    """Return what is wrong with single rows of a long body, without reading the right ones once more.

    Of ten thousand rows one may be wrong: to build values of all of them for its sake would hold up
    everybody else who is served by this loop.

    Args:
        body: The body, in the form `{"rows": [...]}`.
        schema: What its rows must be.
        max_rows: Most rows in one body.
        decode: Decodes one row, or raises.
        refused: What the fast decoder said, which may name the first wrong row.

    Returns:
        The error; None where the fault is none of single rows, or only looks like one.
    """
    try:
        rows = _read_raw_rows(body).rows
        _check_count(len(rows), max_rows)
        place = _WRONG_ROW.search(str(refused))
        faults = _faults(schema)
        found: list[Violation] = []
        for position in range(int(place[1]) if place else 0, len(rows)):
            try:
                decode(rows[position])
            except (msgspec.MsgspecError, ValueError, RecursionError):
                value = msgspec.json.decode(rows[position])
                # of two values of one field the last one counts: perhaps there is no fault
                found += _in_any(value, faults, schema, position)
                if len(found) >= MAX_REPORTED:
                    break
    except (msgspec.MsgspecError, ValueError, RecursionError, TooManyRows, ContractViolation):
        return None
    return _violated(found[:MAX_REPORTED], schema) if found else None


def diagnose(
    value: Mapping[str, Any], schema: Schema, *, max_rows: int, accepts: Callable[[Any], bool]
) -> TidegateError:
    """Return the error that says what is wrong with a body that could not be decoded.

    Args:
        value: The body, read by `parse`.
        schema: What its rows must be.
        max_rows: Most rows in one body.
        accepts: Tells whether one row is right, faster than it is found out here why not: of ten
            thousand rows all but the last may be.
    """
    try:
        if "rows" in value:
            rows = _wrapped(value, "rows", list)
            _check_count(len(rows), max_rows)
            violations = _in_rows(rows, accepts, schema)
        elif "columns" in value:
            violations = _in_columns(_wrapped(value, "columns", dict), schema, max_rows)
        else:
            violations = _in_row(value, _faults(schema), schema, None)
        found = list(islice(violations, MAX_REPORTED))
    except TidegateError as error:
        return error
    if not found:
        return MalformedBody("The body cannot be read as rows of this contract.", hint=_FORMS)
    return _violated(found, schema)


def _violated(found: list[Violation], schema: Schema) -> ContractViolation:
    unknown = any(v.field is not None and v.field not in schema.by_name for v in found)
    return ContractViolation.of(found, hint=f"Fields: {', '.join(schema.names)}." if unknown else "")


def names_no_number(body: bytes) -> bool:
    """Tell whether a body that is not JSON may hold what many libraries write for it: NaN, Infinity."""
    return b"NaN" in body or b"Infinity" in body


def _parse_leniently(body: bytes, error: msgspec.MsgspecError) -> Any:
    has_literal = names_no_number(body)
    if (has_literal or "out of range" in str(error)) and len(body) <= _LENIENT_BYTES:
        try:
            return json.loads(body, parse_constant=Unwritable, parse_float=_finite)
        except (ValueError, RecursionError):
            pass  # it is malformed in another way too
    hint = "JSON has no NaN and no Infinity." if has_literal else ""
    raise MalformedBody(f"The body is not JSON: {_reason(error)}.", hint=hint) from None


def _finite(text: str) -> object:
    value = float(text)
    return value if math.isfinite(value) else Unwritable(text)


def _reason(error: msgspec.MsgspecError) -> str:
    return str(error).removeprefix("JSON is malformed: ").split(" - at ")[0][:200]


def _wrapped(value: Mapping[str, Any], name: str, kind: type) -> Any:
    for other in value:
        if other != name:
            raise ContractViolation(f"Unknown field {_short(other)} beside {name!r}.", hint=_FORMS)
    if not isinstance(value[name], kind):
        expected = "a list of objects" if kind is list else "an object of lists"
        raise MalformedBody(f"{name!r} must be {expected}, not {_kind(value[name])}.", hint=_FORMS)
    return value[name]


def _in_rows(rows: list[Any], accepts: Callable[[Any], bool], schema: Schema) -> Iterator[Violation]:
    faults = _faults(schema)
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not accepts(row):
            yield from _in_any(row, faults, schema, position)


def _in_any(
    row: Any, faults: Mapping[str, Fault], schema: Schema, position: int | None
) -> Iterator[Violation]:
    if isinstance(row, dict):
        yield from _in_row(row, faults, schema, position)
    else:
        yield Violation(None, position, f"Row {position} must be an object, not {_kind(row)}.")


def _in_row(
    row: Mapping[str, Any], faults: Mapping[str, Fault], schema: Schema, position: int | None
) -> Iterator[Violation]:
    where = "" if position is None else f" of row {position}"
    for field in schema.fields:
        if field.name in row:
            yield from _in_value(field, row[field.name], faults[field.name], position)
        elif not field.optional:
            message = f"Field {field.name!r}{where} is missing. It must be {requirement(field)}."
            yield Violation(field.name, position, message)
    for name in row:
        if name not in schema.by_name:
            yield Violation(name[:_SHOWN_NAME], position, f"Unknown field {_short(name)}{where}.")


def _in_value(field: Field, value: Any, fault: Fault, position: int | None) -> Iterator[Violation]:
    at = fault(value)
    if at is not None:
        where = "" if position is None else f" of row {position}"
        place = f" The fault is at {at}." if at else ""
        shown = _received(field, value)
        message = f"Field {field.name!r}{where} must be {requirement(field)}.{shown}{place}"
        yield Violation(field.name, position, message)


def _received(field: Field, value: Any) -> str:
    if isinstance(value, Unwritable):
        return "" if field.sensitive else f" Got {value.text[:_SHOWN_NAME]}."
    return received(field, value)


def _in_columns(columns: Mapping[str, Any], schema: Schema, max_rows: int) -> Iterator[Violation]:
    for name in columns:
        if name not in schema.by_name:
            yield Violation(name[:_SHOWN_NAME], None, f"Unknown column {_short(name)}.")
    counts: dict[str, int] = {}
    faults = _faults(schema)
    for field in schema.fields:
        values = columns.get(field.name)
        if values is None:
            if not field.optional:
                message = f"Column {field.name!r} is missing. Each value must be {requirement(field)}."
                yield Violation(field.name, None, message)
        elif not isinstance(values, list):
            yield Violation(field.name, None, f"Column {field.name!r} must be a list, not {_kind(values)}.")
        else:
            _check_count(len(values), max_rows)
            counts[field.name] = len(values)
            if not _is_right(field, values):
                for position, value in enumerate(values):
                    yield from _in_value(field, value, faults[field.name], position)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in islice(counts.items(), MAX_REPORTED))
        yield Violation(None, None, f"Columns must have as many values as each other. Got {listed}.")


def _is_right(field: Field, values: list[Any]) -> bool:
    """Tell whether all values of a column are right, without looking at each in turn."""
    finish = finish_of(field)
    try:
        decoded = msgspec.convert(values, list_type(wire_type(field), min_length=None, max_length=None))
        if finish is not None:
            for value in decoded:
                finish(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _check_count(n_rows: int, max_rows: int) -> None:
    if n_rows == 0:
        raise ContractViolation("There are no rows.", hint="Send at least one.", n_rows=0)
    if n_rows > max_rows:
        raise TooManyRows(
            f"A request takes at most {max_rows} rows. Got {n_rows}.",
            hint="Send them in several requests.",
            n_rows=n_rows,
            max_rows=max_rows,
        )


def _faults(schema: Schema) -> dict[str, Fault]:
    return {field.name: _fault(field) for field in schema.fields}


def _fault(field: Field) -> Fault:
    """Return the check of one value: the fast decoder's own rules, on one field at a time."""
    kind = wire_type(field)
    finish = finish_of(field)

    def fault(value: Any) -> str | None:
        try:
            decoded = msgspec.convert(value, kind)
            if finish is not None:
                finish(decoded)
        except msgspec.MsgspecError as error:
            _, found, path = str(error).rpartition(" - at `$")
            return path.rstrip("`") if found else ""
        except (ValueError, RecursionError):
            return ""
        return None

    return fault


def _short(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "…")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), "a number")
