import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.decode import ContractViolation, MalformedBody, RowDecoder, TooManyRows
from tidegate.contract.encode import RowEncoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.core.error import TidegateError
from tidegate.testing import strategy

NIGHTS = Field("minimum_nights", DataType.INT64, ge=1, le=365)
PRICE = Field("price", DataType.FLOAT64)
FORMS = ("rows", "columns")


def decoder_of(*fields, max_rows=1000):
    return RowDecoder(Schema(fields), max_rows=max_rows)


def decode_one(field, value):
    """Decode a body of one field and return what stands in its row."""
    rows, _ = decoder_of(field).decode(json.dumps({field.name: value}).encode())
    return getattr(rows[0], field.name)


def refusal(decoder, body):
    with pytest.raises(TidegateError) as caught:
        decoder.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def test_one_object_is_one_row_that_stands_alone():
    rows, single = decoder_of(PRICE, NIGHTS).decode(b'{"price": 2, "minimum_nights": 3}')

    assert single
    assert [(row.price, row.minimum_nights) for row in rows] == [(2.0, 3)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"rows":[{"price":1},{"price":2}]}',
        b' \n{ "rows" : [{"price":1},{"price":2}] } ',
        b'{"columns":{"price":[1,2]}}',
        b'{ "columns":{"price":[1,2]}}',
        rb'{"\u0072ows":[{"price":1},{"price":2}]}',
    ],
)
def test_several_rows_come_as_rows_or_columns(body):
    rows, single = decoder_of(PRICE).decode(body)

    assert not single
    assert [row.price for row in rows] == [1.0, 2.0]


def test_last_of_two_values_of_a_field_counts():
    rows, _ = decoder_of(NIGHTS).decode(b'{"minimum_nights": 0, "minimum_nights": 7}')

    assert rows[0].minimum_nights == 7


def test_refusal_names_field_row_range_and_value():
    error = refusal(decoder_of(NIGHTS), {"rows": [{"minimum_nights": n} for n in (1, 2, 3, 0)]})

    assert isinstance(error, ContractViolation)
    assert error.message == "Field 'minimum_nights' of row 3 must be an integer in [1, 365]. Got 0."
    assert error.context["errors"] == [{"field": "minimum_nights", "row": 3, "message": error.message}]


def test_refusal_of_a_lone_object_names_no_row():
    error = refusal(decoder_of(NIGHTS), {"minimum_nights": 0})

    assert error.message == "Field 'minimum_nights' must be an integer in [1, 365]. Got 0."
    assert "row" not in error.context


def test_refusal_of_a_column_names_field_and_row():
    error = refusal(decoder_of(NIGHTS), {"columns": {"minimum_nights": [1, 366]}})

    assert error.message == "Field 'minimum_nights' of row 1 must be an integer in [1, 365]. Got 366."


def test_refusal_lists_at_most_ten_violations():
    error = refusal(decoder_of(NIGHTS), {"rows": [{"minimum_nights": 0}] * 50})

    assert len(error.context["errors"]) == 10
    assert error.message.endswith("Got 0. And more.")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Field 'price' is missing. It must be a number."),
        ({"price": 1, "prize": 2}, "Unknown field 'prize'."),
        ({"rows": [{"price": 1}, {}]}, "Field 'price' of row 1 is missing. It must be a number."),
        ({"rows": [{"price": 1}, 7]}, "Row 1 must be an object, not a number."),
        ({"rows": [{"price": 1}], "x": 1}, "Unknown field 'x' beside 'rows'."),
        ({"columns": {"x": [1], "price": [1]}}, "Unknown column 'x'."),
        ({"columns": {}}, "Column 'price' is missing. Each value must be a number."),
        ({"columns": {"price": 1}}, "Column 'price' must be a list, not a number."),
        ({"rows": []}, "There are no rows."),
        ({"columns": {"price": []}}, "There are no rows."),
        ({"price": None}, "Field 'price' must be a number. Got null."),
        ({"price": {"a": 1}}, "Field 'price' must be a number. Got an object."),
        ({"price": [1]}, "Field 'price' must be a number. Got a list of 1."),
    ],
)
def test_refusal_says_what_is_wrong(body, message):
    error = refusal(decoder_of(PRICE), body)

    assert isinstance(error, ContractViolation)
    assert error.message == message


def test_unknown_field_is_refused_with_the_known_ones():
    assert refusal(decoder_of(PRICE, NIGHTS), {"prize": 2}).hint == "Fields: price, minimum_nights."


def test_columns_of_different_lengths_are_refused():
    error = refusal(decoder_of(PRICE, NIGHTS), {"columns": {"price": [1, 2], "minimum_nights": [1]}})

    assert error.message.endswith("Got 'price' 2, 'minimum_nights' 1.")


@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_allowed_are_refused(form):
    values = [1.0] * 4
    body = {"rows": [{"price": v} for v in values]} if form == "rows" else {"columns": {"price": values}}
    error = refusal(decoder_of(PRICE, max_rows=3), {form: body[form]})

    assert isinstance(error, TooManyRows)
    assert error.context == {"n_rows": 4, "max_rows": 3}


@pytest.mark.parametrize("form", FORMS)
def test_as_many_rows_as_allowed_are_taken(form):
    values = [1.0] * 3
    body = {"rows": [{"price": v} for v in values]} if form == "rows" else {"columns": {"price": values}}
    rows, _ = decoder_of(PRICE, max_rows=3).decode(json.dumps(body).encode())

    assert len(rows) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"price": 1} x', "not JSON"),
        (b'{"price": 01}', "not JSON"),
        (b"[1]", "must be a JSON object, not a list"),
        (b"null", "not null"),
        (b"true", "not true or false"),
        (b'"text"', "not text"),
        (b'{"rows": 3}', "'rows' must be a list of objects, not a number"),
        (b'{"columns": []}', "'columns' must be an object of lists, not a list"),
        (b'{"price": "\xff"}', "not valid UTF-8"),
        (rb'{"price": "\ud800"}', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"price":' * 100_000, "nested too deeply"),
        (b'{"rows":' + b"[" * 100_000, "nested too deeply"),
        (b'{"price": NaN' + b"[" * 100_000, "not JSON"),
    ],
)
def test_malformed_body_is_refused(body, message):
    error = refusal(decoder_of(PRICE), body)

    assert isinstance(error, MalformedBody)
    assert message in error.message


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_json_does_not_have_is_refused_by_field(literal):
    error = refusal(decoder_of(NIGHTS, PRICE), f'{{"minimum_nights": 1, "price": {literal}}}'.encode())

    assert isinstance(error, ContractViolation)
    assert error.context["field"] == "price"


def test_number_that_json_does_not_have_is_refused_in_a_long_body_too():
    body = b'{"rows":[' + b'{"price": 1},' * 30_000 + b'{"price": NaN}]}'
    error = refusal(decoder_of(PRICE, max_rows=40_000), body)

    assert isinstance(error, MalformedBody)
    assert error.hint == "JSON has no NaN and no Infinity."


def test_one_wrong_row_of_many_is_found():
    rows = [{"price": 1.0}] * 5_000 + [{"price": "x"}]
    decoder = decoder_of(PRICE, max_rows=10_000)

    assert refusal(decoder, {"rows": rows}).context["row"] == 5_000
    assert refusal(decoder, {"columns": {"price": [1.0] * 5_000 + ["x"]}}).context["row"] == 5_000


WRONG_ROWS = [
    '{"price":"x"}',
    "{}",
    '{"price":1,"more":2}',
    "5",
    "null",
    '{"price":null}',
    r'{"price":"\ud800"}',
]
UNUSUAL_ROWS = ['{"price":"x","price":1}', '{ "price" : 1 }', r'{"pric\u0065":1}']


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*WRONG_ROWS, *UNUSUAL_ROWS, '{"price":1.5}']), min_size=1, max_size=15))
def test_wrong_rows_are_told_alike_whichever_way_they_are_found(rows):
    listed = ",".join(rows).encode()
    answers = []
    for body in (b'{"rows": [' + listed + b"]}", b'{ "rows":[' + listed + b"]}"):  # known at once, and not
        try:
            answers.append([row.price for row in decoder_of(PRICE).decode(body)[0]])
        except TidegateError as error:
            answers.append((error.code, error.message, error.hint, error.context))

    assert answers[0] == answers[1]


def test_number_of_thousands_of_digits_is_refused():
    assert isinstance(refusal(decoder_of(PRICE), b'{"price": ' + b"1" * 5000 + b"}"), TidegateError)


@pytest.mark.parametrize("kind", [kind for kind in DataType if kind.is_integer])
def test_integer_is_bounded_by_its_width(kind):
    span = np.iinfo(kind.value)
    field = Field("n", kind)

    assert decode_one(field, int(span.min)) == span.min
    assert decode_one(field, int(span.max)) == span.max
    for outside in (int(span.min) - 1, int(span.max) + 1):
        assert f"Got {outside}" in refusal(decoder_of(field), {"n": outside}).message


@pytest.mark.parametrize("value", [1.0, 1.5, True, "1", None])
def test_integer_is_nothing_else(value):
    assert "must be an integer" in refusal(decoder_of(Field("n", DataType.INT64)), {"n": value}).message


@pytest.mark.parametrize(("kind", "outside"), [(DataType.FLOAT32, 1e39), (DataType.FLOAT16, 1e5)])
def test_float_that_would_become_infinite_is_refused(kind, outside):
    field = Field("x", kind)

    assert f"fits {kind.value}" in refusal(decoder_of(field), {"x": outside}).message
    assert refusal(decoder_of(field), {"x": -outside})
    assert decode_one(field, 1) == 1.0


def test_exclusive_bound_of_a_narrow_float_holds_after_rounding():
    field = Field("x", DataType.FLOAT32, gt=0.0, lt=1.0)
    decoder = decoder_of(field)

    for outside in (0.0, 1e-60, 1.0, 1 - 1e-12):
        assert refusal(decoder, {"x": outside})
    assert decode_one(field, 1e-40) > 0


def test_declared_bound_of_a_narrow_float_is_taken():
    assert decode_one(Field("x", DataType.FLOAT32, ge=0.1, le=0.7), 0.1) == 0.1
    assert decode_one(Field("x", DataType.FLOAT32, ge=0.1, le=0.7), float(np.float32(0.7))) <= 0.7


@pytest.mark.parametrize(
    ("settings", "good", "bad"),
    [
        ({"ge": 0.0, "lt": 1.0}, [0, 0.999], [-1e-9, 1]),
        ({"gt": 0.0, "le": 1.0}, [1e-300, 1], [0, 1.0000001]),
    ],
)
def test_range_of_a_float_is_kept(settings, good, bad):
    field = Field("x", DataType.FLOAT64, **settings)

    assert [decode_one(field, value) for value in good] == good
    assert all(refusal(decoder_of(field), {"x": value}) for value in bad)


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (0, 0),
        (-1, -1),
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("2013-10-01T07:15:00.25+02:00", 1_380_604_500_250_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
def test_timestamp_is_text_with_offset_or_microseconds(value, microseconds):
    assert decode_one(Field("at", DataType.TIMESTAMP), value) == microseconds


@pytest.mark.parametrize(
    "value",
    [
        "2013-10-01T05:15:00",
        "2013-10-01",
        "soon",
        1.5,
        True,
        253_402_300_800_000_000,
        "0001-01-01T00:00:00+10:00",
    ],
)
def test_other_timestamp_is_refused(value):
    error = refusal(decoder_of(Field("at", DataType.TIMESTAMP)), {"at": value})

    assert "must be an RFC 3339 timestamp with its offset" in error.message


def test_range_of_a_timestamp_holds_in_both_forms():
    field = Field("at", DataType.TIMESTAMP, ge=0)

    for before in (-1, "1969-12-31T23:59:59Z"):
        assert refusal(decoder_of(field), {"at": before})


@pytest.mark.parametrize(
    ("value", "microseconds"), [("PT1M0.5S", 60_500_000), ("-P1D", -86_400_000_000), (7, 7)]
)
def test_duration_is_iso_text_or_microseconds(value, microseconds):
    assert decode_one(Field("wait", DataType.DURATION), value) == microseconds


@pytest.mark.parametrize("value", ["P1M", "1h", 0.5, "P999999999D"])
def test_other_duration_is_refused(value):
    assert (
        "ISO 8601 duration" in refusal(decoder_of(Field("wait", DataType.DURATION)), {"wait": value}).message
    )


def test_bytes_are_base64():
    field = Field("b", DataType.BYTES, max_length=2)

    assert decode_one(field, "AP8=") == b"\x00\xff"
    assert "of at most 2 bytes" in refusal(decoder_of(field), {"b": "AAAA"}).message
    assert refusal(decoder_of(field), {"b": "$"})


def test_text_is_held_to_length_and_pattern():
    field = Field("code", DataType.STRING, min_length=2, max_length=3, pattern="^[A-Z]+$")

    assert decode_one(field, "JFK") == "JFK"
    for bad in ("J", "JFKX", "jfk"):
        assert (
            "text of 2 to 3 characters matching '^[A-Z]+$'"
            in refusal(decoder_of(field), {"code": bad}).message
        )


def test_category_is_one_of_its_values():
    field = Field("origin", DataType.CATEGORY, categories=("EWR", "JFK"))

    assert decode_one(field, "JFK") == "JFK"
    assert refusal(decoder_of(field), {"origin": "LGA"}).message == (
        "Field 'origin' must be one of 'EWR', 'JFK'. Got \"LGA\"."
    )


def test_vector_refusal_says_which_element():
    decoder = decoder_of(Field("v", DataType.FLOAT64, shape=(2, 2)))
    error = refusal(decoder, {"v": [[1, 2], [3, "x"]]})

    assert error.message.endswith("The fault is at [1][1].")
    assert refusal(decoder, {"v": [[1, 2], [3]]})


def test_ragged_tensor_of_free_shape_is_refused():
    decoder = decoder_of(Field("v", DataType.FLOAT64, shape=(None, None)))

    assert decoder.decode(b'{"v": [[1, 2], [3, 4]]}')
    assert refusal(decoder, {"v": [[1, 2], [3]]}).context["field"] == "v"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Field("x", DataType.FLOAT64, optional=True, default=2.5), 2.5),
        (Field("x", DataType.INT8, optional=True, default=3), 3),
        (Field("x", DataType.BOOL, optional=True, default=True), True),
        (Field("x", DataType.STRING, optional=True), None),
        (Field("x", DataType.STRING, optional=True, default="a"), "a"),
        (Field("x", DataType.TIMESTAMP, optional=True, default=5), 5),
        (Field("x", DataType.FLOAT64, shape=(None,), optional=True, default=[1.0]), [1.0]),
    ],
)
@pytest.mark.parametrize("row", ["{}", '{"x": null}'])
def test_missing_value_becomes_the_default(field, expected, row):
    decoder = decoder_of(field)
    bodies = [row, f'{{"rows":[{row}]}}']
    columns = [decoder.gather(decoder.decode(body.encode())[0])["x"] for body in bodies]

    for column in columns:
        value = column.tolist()[0]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("row", [b"{}", b'{"x": null}'])
def test_missing_float_becomes_nan(shape, row):
    decoder = decoder_of(Field("x", DataType.FLOAT32, shape=shape, optional=True))
    column = decoder.gather(decoder.decode(row)[0])["x"]

    assert column.shape == (1, *shape)
    assert np.isnan(column).all()


def test_value_of_a_sensitive_field_is_never_echoed():
    secret = Field("ssn", DataType.STRING, max_length=3, sensitive=True)
    error = refusal(decoder_of(secret), {"ssn": "078-05-1120"})

    assert "078" not in str(error)
    assert "078" not in str(error.context)


def test_long_value_is_echoed_cut_short():
    error = refusal(decoder_of(PRICE), {"price": "x" * 10_000, "y" * 10_000: 1})

    assert len(str(error.context)) < 1_000


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_every_form_of_right_rows_gives_the_same_batch(data, schema):
    drawn = data.draw(st.lists(strategy.rows(schema), min_size=1, max_size=3))
    decoder = RowDecoder(schema)
    columns = {field.name: [row.get(field.name) for row in drawn] for field in schema.fields}

    one_by_one = [decoder.decode(msgspec.json.encode(row))[0][0] for row in drawn]
    as_rows, _ = decoder.decode(msgspec.json.encode({"rows": drawn}))
    as_columns, _ = decoder.decode(msgspec.json.encode({"columns": columns}))

    first = decoder.gather(one_by_one)
    for other in (decoder.gather(as_rows), decoder.gather(as_columns)):
        assert all(strategy.same(first[name], other[name]) for name in schema.names)


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_answer_rows_decode_to_the_batch_they_were_made_of(data, schema):
    batch = data.draw(strategy.batches(schema))
    encoded = msgspec.json.encode({"rows": RowEncoder(schema).rows(batch)})
    decoder = RowDecoder(schema)

    again = decoder.gather(decoder.decode(encoded)[0])

    assert all(strategy.same(again[name], batch[name]) for name in schema.names)


@settings(max_examples=40)
@given(st.data(), strategy.schemas(max_fields=3))
def test_whatever_is_decoded_fulfils_the_schema(data, schema):
    """Nearly right rows: each field holds what it should or any JSON."""
    decoder = RowDecoder(schema)
    row = data.draw(strategy.rows(schema))
    for name in list(row):
        if data.draw(st.booleans()):
            row[name] = data.draw(strategy.json_values())

    try:
        rows, _ = decoder.decode(msgspec.json.encode(row))
    except (ContractViolation, MalformedBody):
        return
    assert Validator(schema).violations(decoder.gather(rows)) == []


@settings(max_examples=40)
@given(strategy.json_values(), strategy.schemas(max_fields=2))
def test_any_json_is_decoded_or_refused(value, schema):
    with contextlib.suppress(ContractViolation, MalformedBody):
        rows, _ = RowDecoder(schema, max_rows=3).decode(msgspec.json.encode(value))
        assert 1 <= len(rows) <= 3


@settings(max_examples=40)
@given(st.data(), strategy.schemas(max_fields=3))
def test_damaged_body_is_decoded_or_refused(data, schema):
    body = bytearray(msgspec.json.encode({"rows": [data.draw(strategy.rows(schema))]}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not body:
            break

    with contextlib.suppress(ContractViolation, MalformedBody):
        rows, _ = RowDecoder(schema).decode(bytes(body))
        assert len(rows) == 1


@settings(max_examples=40)
@given(st.data(), strategy.schemas(max_fields=3))
def test_refusal_names_the_one_wrong_field(data, schema):
    row = data.draw(strategy.rows(schema))
    wrong = data.draw(st.sampled_from(schema.fields))
    row[wrong.name] = {"no field": "is an object"}

    error = refusal(RowDecoder(schema), msgspec.json.encode({"rows": [row]}))

    assert error.context["field"] == wrong.name
    assert error.context["row"] == 0
