"""A pattern means in Python what it means to whoever reads the published schema."""

import re

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.decode import ContractViolation, RowDecoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.jsonschema import value_schema
from tidegate.contract.pattern import python_pattern
from tidegate.contract.schema import Schema

PATTERNS = ["^[0-9+ ]*$", r"^\d$", "^a$|b", r"^\$[$]$", "[]$]$", r"^(a|\\)$", "a$"]


@settings(max_examples=150)
@given(st.sampled_from(PATTERNS), st.text("a$]\\1٣ \n+", max_size=4))
def test_a_text_passes_where_the_published_schema_lets_it(pattern, text):
    schema = {"type": "string", "pattern": pattern.replace("[]$]", r"[\]$]")}

    assert (re.search(python_pattern(pattern), text) is not None) == jsonschema_rs.is_valid(schema, text)


def test_a_line_feed_at_the_end_is_no_match_on_the_wire():
    decoder = RowDecoder(Schema((Field("x", DataType.STRING, pattern="^[0-9+ ]*$"),)))

    rows, _ = decoder.decode(msgspec.json.encode({"x": "12"}))
    with pytest.raises(ContractViolation, match="matching"):
        decoder.decode(msgspec.json.encode({"x": "12\n"}))

    assert rows[0].x == "12"


def test_flags_of_pythons_own_are_left_to_mean_what_they_mean():
    assert python_pattern("(?im)^a$") == "(?im)^a$"


@pytest.mark.parametrize("span_us", [0, 500_000, -1_000_000, 86_400_000_000, 90_061_000_001])
def test_a_duration_in_an_answer_is_one_of_the_published_schema(span_us):
    from tidegate.contract.wire import duration_of

    schema = value_schema(Field("d", DataType.DURATION), answered=True)

    assert jsonschema_rs.is_valid(schema, msgspec.to_builtins(duration_of(span_us)), validate_formats=True)
