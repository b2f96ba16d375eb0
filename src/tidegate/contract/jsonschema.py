"""A schema as JSON Schema, 2020-12: what a row looks like to those who have no Tidegate.

Source: JSON Schema, draft 2020-12, Core and Validation.
"""

from __future__ import annotations

import base64
from typing import Any

from tidegate.contract.field import DataType, Field
from tidegate.contract.limit import wire_limit
from tidegate.contract.requirement import requirement
from tidegate.contract.schema import Schema

JsonSchema = dict[str, Any]

_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_ANSWERED_DURATION = r"^-?P(?:[0-9]+D)?(?:T[0-9]+(?:\.[0-9]+)?S)?$"
_WHOLE = "[0-9]{1,8}"
"""Of a unit: with eight digits each, all units together are within 64 bits of microseconds."""
_LAST = rf"{_WHOLE}(?:\.[0-9]{{1,9}})?"
_TIME = rf"T(?:{_LAST}H|(?:{_WHOLE}H)?{_LAST}M|(?:{_WHOLE}H)?(?:{_WHOLE}M)?{_LAST}S)"
_DURATION = rf"^[-+]?P(?:{_LAST}D|(?:{_WHOLE}D)?{_TIME})$"
"""At least one unit, and a fraction of the last one only, as the decoder takes them."""
_SHAPES = {DataType.INT32: "int32", DataType.INT64: "int64", DataType.FLOAT32: "float"}


def row_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of one row sent: whatever it allows and more is decoded.

    A range of a time is not in it, for JSON Schema cannot compare times that are written as text.
    """
    return {
        "type": "object",
        "properties": {field.name: value_schema(field) for field in schema.fields},
        "required": [field.name for field in schema.fields if not field.optional],
        "additionalProperties": False,
    }


def columns_schema(schema: Schema, *, max_rows: int | None = None) -> JsonSchema:
    """Return the JSON Schema of rows sent as columns, a list a field."""
    length = {"minItems": 1, **({} if max_rows is None else {"maxItems": max_rows})}
    return {
        "type": "object",
        "properties": {
            field.name: {"type": "array", "items": value_schema(field), **length} for field in schema.fields
        },
        "required": [field.name for field in schema.fields if not field.optional],
        "additionalProperties": False,
    }


def answer_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of one row answered: every field is there, times are text."""
    return {
        "type": "object",
        "properties": {field.name: value_schema(field, answered=True) for field in schema.fields},
        "required": list(schema.names),
        "additionalProperties": False,
    }


def value_schema(field: Field, *, answered: bool = False) -> JsonSchema:
    """Return the JSON Schema of one value of `field`."""
    schema = _element(field, answered=answered)
    for size in reversed(field.shape):
        fixed = {} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **fixed}
    if field.optional:
        schema = _nullable(schema)
    return {**schema, **_annotations(field, answered=answered)}


def _element(field: Field, *, answered: bool) -> JsonSchema:
    kind = field.type
    if kind is DataType.BOOL:
        return {"type": "boolean"}
    if kind is DataType.CATEGORY:
        return {"type": "string", "enum": list(field.categories)}
    if kind is DataType.STRING:
        given = {"minLength": field.min_length, "maxLength": field.max_length, "pattern": field.pattern}
        return {"type": "string", **{name: value for name, value in given.items() if value is not None}}
    if kind is DataType.BYTES:
        return _bytes(field)
    if kind.is_time:
        return _time(field, answered=answered)
    return _number(field)


def _bytes(field: Field) -> JsonSchema:
    schema: JsonSchema = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}
    if field.min_length is not None:
        schema["minLength"] = _base64_length(field.min_length)
    if field.max_length is not None:
        schema["maxLength"] = _base64_length(field.max_length)
    return schema


def _base64_length(n_bytes: int) -> int:
    return len(base64.b64encode(bytes(n_bytes))) if n_bytes < 1 << 20 else 4 * -(-n_bytes // 3)


def _time(field: Field, *, answered: bool) -> JsonSchema:
    text: JsonSchema = {"type": "string", "format": "date-time"}
    if field.type is DataType.DURATION:
        # An answer has a sign and a fraction, which the format "duration" (RFC 3339) does not know; a
        # request knows no weeks, months and years.
        text = {"type": "string", "pattern": _ANSWERED_DURATION if answered else _DURATION}
    if answered:
        return text
    low, high = wire_limit(field)
    number = {"type": "integer", "minimum": int(low), "maximum": int(high), "description": "microseconds"}
    return number if field.has_range else {"anyOf": [text, number]}


def _number(field: Field) -> JsonSchema:
    kind = field.type
    schema: JsonSchema = {"type": "number" if kind.is_float else "integer"}
    if kind in _SHAPES:
        schema["format"] = _SHAPES[kind]
    named = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    for bound, keyword in named.items():
        value = getattr(field, bound)
        if value is not None:
            schema[keyword] = value
    if kind is not DataType.FLOAT64:
        low, high = wire_limit(field)
        if field.ge is None and field.gt is None:
            schema["minimum"] = low
        if field.le is None and field.lt is None:
            schema["maximum"] = high
    return schema


def _nullable(schema: JsonSchema) -> JsonSchema:
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _annotations(field: Field, *, answered: bool) -> JsonSchema:
    about = [field.doc, f"Unit: {field.unit}." if field.unit else ""]
    notes: JsonSchema = {"description": " ".join(part for part in about if part)}
    if not notes["description"]:
        notes["description"] = f"Must be {requirement(field)}."
    if field.default is not None and not answered:
        notes["default"] = _json_default(field.default)
    if field.unit:
        notes["x-unit"] = field.unit
    return notes


def _json_default(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_default(element) for element in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
