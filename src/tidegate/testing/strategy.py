"""Hypothesis strategies for contracts, rows and batches.

The only module that imports hypothesis: it is for tests, and not installed with the package.
"""

from __future__ import annotations

import base64
import math
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
from hypothesis import assume

from tidegate.contract.batch import Batch
from tidegate.contract.check import RESERVED_NAMES, check_field
from tidegate.contract.decode import RowDecoder
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.limit import column_limit, type_limit
from tidegate.contract.pattern import python_pattern
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting

_PATTERNS = ("^[A-Z]{2,3}$", "[0-9]", "^a.*z$")
_ROW_ROLES = {
    Role.KEY: lambda kind: kind.is_text or kind.is_integer or kind is DataType.BYTES,
    Role.TIMESTAMP: lambda kind: kind is DataType.TIMESTAMP,
    Role.PROTECTED: lambda kind: kind in (DataType.CATEGORY, DataType.BOOL),
}


def names() -> st.SearchStrategy[str]:
    """Names that a field can have."""
    first = st.sampled_from(string.ascii_letters)
    rest = st.text(string.ascii_letters + string.digits + "_", max_size=6)
    return st.builds(lambda head, tail: head + tail + "1", first, rest).filter(
        lambda name: name not in RESERVED_NAMES
    )


def texts(*, max_size: int = 8) -> st.SearchStrategy[str]:
    """Any text that JSON and UTF-8 can carry."""
    return st.text(max_size=max_size)


@st.composite
def fields(
    draw: st.DrawFn,
    *,
    name: str | None = None,
    side: str = "input",
    scalar: bool | None = None,
    kinds: tuple[DataType, ...] = tuple(DataType),
) -> Field:
    """Fields in their normal form: any type, shape, range, length, default and sensitivity.

    Roles are left to `schemas`, which sees to it that they fit together.
    """
    kind = draw(st.sampled_from(kinds))
    is_scalar = draw(st.sampled_from([True, True, True, False])) if scalar is None else scalar
    dimension = st.one_of(st.none(), st.integers(1, 3))
    settings: dict[str, Any] = {
        "shape": () if is_scalar else tuple(draw(st.lists(dimension, min_size=1, max_size=3))),
        "unit": draw(st.sampled_from(["", "", "mile", "€/kWh"])),
        "doc": draw(st.one_of(st.just(""), texts(max_size=20))),
        "sensitive": draw(st.booleans()) and draw(st.booleans()),
        **draw(_constraints(kind)),
    }
    field = Field(name or draw(names()), kind, **settings)
    try:
        field = check_field(field, side=side)
    except InvalidSetting:
        assume(False)  # bounds without a value between them
        raise
    return check_field(draw(_made_optional(field)), side=side) if draw(st.booleans()) else field


@st.composite
def _constraints(draw: st.DrawFn, kind: DataType) -> dict[str, Any]:
    if kind is DataType.CATEGORY:
        return {"categories": tuple(draw(st.lists(texts(), min_size=1, max_size=5, unique=True)))}
    if kind is DataType.STRING and draw(st.booleans()):
        return {"pattern": draw(st.sampled_from(_PATTERNS))}
    if kind in (DataType.STRING, DataType.BYTES):
        low = draw(st.one_of(st.none(), st.integers(0, 3)))
        high = draw(st.one_of(st.none(), st.integers(low or 0, 8)))
        return {"min_length": low, "max_length": high}
    if kind is DataType.BOOL:
        return {}
    one, other = sorted([draw(_numbers(kind)), draw(_numbers(kind))])
    bounds: dict[str, Any] = {}
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["ge", "gt"]))] = one
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["le", "lt"]))] = other
    return bounds


def _numbers(kind: DataType) -> st.SearchStrategy[Any]:
    low, high = type_limit(kind)
    if kind.is_float:
        near = st.floats(-100, 100, width=16)
        return st.one_of(near, st.floats(low, high, width=8 * kind.dtype.itemsize))  # type: ignore[arg-type]  # 16, 32, 64
    near_integers = st.integers(max(int(low), -100), 100)
    return st.one_of(near_integers, st.integers(int(low), int(high)))


@st.composite
def _made_optional(draw: st.DrawFn, field: Field) -> Field:
    needs_default = None in field.shape or not (field.type.is_float or field.type.dtype == object)
    if needs_default or draw(st.booleans()):
        default = draw(_column_values(field))
        return msgspec.structs.replace(field, optional=True, default=default)
    return msgspec.structs.replace(field, optional=True)


def elements(field: Field) -> st.SearchStrategy[Any]:
    """One element of a field as a column holds it: text, bytes, a number, microseconds."""
    kind = field.type
    if kind is DataType.BOOL:
        return st.booleans()
    if kind is DataType.CATEGORY:
        return st.sampled_from(field.categories)
    if kind is DataType.STRING and field.pattern is not None:
        return st.from_regex(python_pattern(field.pattern)).filter(lambda text: "\n" not in text)
    if kind is DataType.STRING:
        return st.text(
            min_size=field.min_length or 0,
            max_size=8 if field.max_length is None else field.max_length,
        )
    if kind is DataType.BYTES:
        return st.binary(
            min_size=field.min_length or 0, max_size=8 if field.max_length is None else field.max_length
        )
    low, high = column_limit(field)
    if kind.is_float:
        width: Any = 8 * kind.dtype.itemsize
        return st.floats(low + 0.0, high + 0.0, width=width)  # adding 0 makes -0.0, below 0.0 here, 0.0
    return st.integers(int(low), int(high))


def _column_values(field: Field) -> st.SearchStrategy[Any]:
    """One row's value of a field, vectors as nested lists of one length a dimension."""
    if field.is_scalar:
        return elements(field)
    return _sizes(field).flatmap(lambda sizes: _nested(elements(field), sizes))


def _sizes(field: Field) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(0, 3) if size is None else st.just(size) for size in field.shape))


def _nested(element: st.SearchStrategy[Any], sizes: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if not sizes:
        return element
    return st.lists(_nested(element, sizes[1:]), min_size=sizes[0], max_size=sizes[0])


def values(field: Field) -> st.SearchStrategy[Any]:
    """One value of a field as plain JSON data, in any of the forms that the decoder takes."""
    sent = _column_values(field).flatmap(lambda value: _sent(field, value))
    return st.one_of(sent, st.none()) if field.optional else sent


def _sent(field: Field, value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, list):
        return st.tuples(*(_sent(field, element) for element in value)).map(list)
    if isinstance(value, bytes):
        return st.just(base64.b64encode(value).decode())
    if field.type is DataType.TIMESTAMP:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
        return st.sampled_from([value, moment.isoformat()])
    return st.just(value)


@st.composite
def schemas(draw: st.DrawFn, *, side: str = "input", max_fields: int = 5) -> Schema:
    """Schemas of a few fields; those of inputs with roles."""
    named = draw(st.lists(names(), min_size=1, max_size=max_fields, unique=True))
    drawn = [draw(fields(name=name, side=side)) for name in named]
    if side == "input":
        for role, suits in _ROW_ROLES.items():
            drawn = _with_role(draw(st.integers(0, max_fields)), role, suits, drawn)
    return Schema(tuple(drawn))


def _with_role(at: int, role: Role, suits: Any, drawn: list[Field]) -> list[Field]:
    """Give `role` to the field at a drawn position, if there is one and it can have it."""
    given = list(drawn)
    if at < len(drawn):
        field = drawn[at]
        if field.is_scalar and suits(field.type) and not (role is Role.KEY and field.optional):
            given[at] = check_field(msgspec.structs.replace(field, roles=(*field.roles, role)))
    return given


def contracts(*, max_fields: int = 5) -> st.SearchStrategy[Contract]:
    """Contracts in their normal form."""
    return st.builds(
        Contract,
        schemas(side="input", max_fields=max_fields),
        schemas(side="output", max_fields=3),
        st.booleans(),
    )


@st.composite
def rows(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    """Rows that fulfil a schema, as plain JSON data; optional fields may be left out."""
    row = {}
    for field in schema.fields:
        if not field.optional or draw(st.booleans()):
            row[field.name] = draw(values(field))
    return row


@st.composite
def batches(draw: st.DrawFn, schema: Schema, *, max_rows: int = 4) -> Batch:
    """Batches that fulfil a schema, as the decoder makes them."""
    drawn = draw(st.lists(rows(schema), min_size=1, max_size=max_rows))
    decoder = RowDecoder(schema, max_rows=max_rows)
    decoded, _ = decoder.decode(msgspec.json.encode({"rows": drawn}))
    return decoder.gather(decoded)


def json_values() -> st.SearchStrategy[Any]:
    """Any plain JSON data, of a few levels."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        texts(),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts(), inner, max_size=4)),
        max_leaves=12,
    )


def same(one: Any, other: Any) -> bool:
    """Tell whether two columns, or two values of one, are equal, NaN and NaN included."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return all(same(left, right) for left, right in zip(one.ravel(), other.ravel(), strict=True))
    if isinstance(one, float | np.floating) and isinstance(other, float | np.floating):
        return (math.isnan(one) and math.isnan(other)) or bool(one == other)
    return bool(one == other)
