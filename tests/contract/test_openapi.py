import base64

import jsonschema_rs
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.decode import ContractViolation, RowDecoder, RowEncoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.jsonschema import answer_schema, columns_schema, row_schema, value_schema
from tidegate.contract.openapi import Described, openapi_document
from tidegate.contract.protocol import TensorMetadata
from tidegate.contract.schema import Contract, Schema
from tidegate.testing import strategy

FLIGHT = Contract(
    Schema((Field("origin", DataType.CATEGORY, categories=("EWR", "JFK")), Field("miles", DataType.FLOAT64))),
    Schema((Field("p", DataType.FLOAT64, ge=0.0, le=1.0),)),
).checked()


def accepts(schema, value):
    return jsonschema_rs.Draft202012Validator(schema).is_valid(value)


def without_time_range(schema):
    """A range of a time is not in a JSON Schema whose times are text."""
    return not any(field.type.is_time and field.has_range for field in schema.fields)


@settings(max_examples=50)
@given(st.data(), strategy.schemas().filter(without_time_range))
def test_row_that_decodes_fits_the_json_schema(data, schema):
    row = data.draw(strategy.rows(schema))
    RowDecoder(schema).decode(msgspec.json.encode(row))
    columns = {name: [value] for name, value in row.items()}

    assert accepts(row_schema(schema), row)
    assert accepts(columns_schema(schema), columns)


@settings(max_examples=50)
@given(st.data(), strategy.schemas(side="output", max_fields=3))
def test_answer_fits_the_json_schema(data, schema):
    batch = data.draw(strategy.batches(schema))
    answers = msgspec.json.decode(msgspec.json.encode(RowEncoder(schema).rows(batch)))

    assert all(accepts(answer_schema(schema), answer) for answer in answers)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (Field("x", DataType.FLOAT64, gt=0.0), [0, "1", None, True]),
        (Field("x", DataType.INT8), [128, -129, 0.5]),
        (Field("x", DataType.UINT64), [-1, 2**64]),
        (Field("x", DataType.FLOAT32), [1e39, 3.4028236e38]),
        (Field("x", DataType.FLOAT16), [65520, -65520.0]),
        (Field("x", DataType.STRING, min_length=1, max_length=2, pattern="^a"), ["", "abc", "b", 1]),
        (Field("x", DataType.CATEGORY, categories=("a",)), ["b", None]),
        (Field("x", DataType.CATEGORY, categories=("a",), optional=True), ["b"]),
        (Field("x", DataType.BYTES, max_length=3), ["$", base64.b64encode(bytes(4)).decode()]),
        (Field("x", DataType.BOOL), [0, "true"]),
        (Field("x", DataType.FLOAT64, shape=(2,)), [[1], [1, 2, 3], [1, "a"], 1]),
        (Field("x", DataType.TIMESTAMP), [0.5, None, []]),
        (Field("x", DataType.DURATION), ["P1M", "1h", 0.5]),
    ],
)
def test_value_that_is_refused_does_not_fit_the_json_schema(field, bad):
    schema = row_schema(Schema((field,)))

    assert not any(accepts(schema, {"x": value}) for value in bad)


DURATIONS = Schema((Field("x", DataType.DURATION),))


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        *[(text, True) for text in ("PT1H30M", "PT1H", "PT0.5H", "P0.5D", "+PT1S", "P1D", "PT1H1.5M")],
        *[(text, True) for text in ("-P1DT2H3M4.5S", "PT1M1S", "P1DT1H", "PT1.123456789S", "PT5400S")],
        *[(text, False) for text in ("P", "PT", "P1DT", "P0.5DT1H", "PT0.5H1M", "PT1M1H", "P1W", "PT.5S")],
        *[(text, False) for text in ("PT1.S", "1D", "P1H", "--PT1S", "P-1D")],
    ],
)
def test_durations_fit_the_json_schema_as_they_are_decoded(text, taken):
    decoder = RowDecoder(DURATIONS)
    try:
        decoder.decode(msgspec.json.encode({"x": text}))
        decoded = True
    except ContractViolation:
        decoded = False

    assert (decoded, accepts(row_schema(DURATIONS), {"x": text})) == (taken, taken)


@given(st.from_regex(value_schema(DURATIONS.fields[0])["anyOf"][0]["pattern"], fullmatch=True))
def test_every_duration_that_fits_the_json_schema_is_decoded(text):
    RowDecoder(DURATIONS).decode(msgspec.json.encode({"x": text}))


@pytest.mark.parametrize(
    ("kind", "sent"), [(DataType.FLOAT32, b"-3.4028235e38"), (DataType.FLOAT16, b"65519.999")]
)
def test_the_greatest_number_as_others_write_it_is_taken(kind, sent):
    schema = Schema((Field("x", kind),))
    decoder = RowDecoder(schema)
    rows, _ = decoder.decode(b'{"x": %b}' % sent)

    assert abs(decoder.gather(rows)["x"][0]) == np.finfo(kind.dtype).max
    assert accepts(row_schema(schema), {"x": float(sent)})


def test_row_schema_requires_what_is_not_optional_and_no_more():
    schema = row_schema(Schema((Field("a", DataType.BOOL), Field("b", DataType.FLOAT64, optional=True))))

    assert schema["required"] == ["a"]
    assert schema["additionalProperties"] is False


def test_value_schema_tells_people_what_the_field_is():
    field = Field("x", DataType.FLOAT64, unit="mile", doc="How far.", optional=True, default=2.0)

    described = value_schema(field)
    assert described["description"] == "How far. Unit: mile."
    assert described["default"] == 2.0


def test_document_has_the_paths_of_both_faces():
    document = openapi_document({"flight-delay": Described(FLIGHT)}, title="T", version="1")

    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "T", "version": "1"}
    assert set(document["paths"]) == {
        "/services/flight-delay/predict",
        "/services/flight-delay/outcomes",
        "/v2/models/flight-delay",
        "/v2/models/flight-delay/ready",
        "/v2/models/flight-delay/infer",
        "/v2/models/flight-delay/versions/{version}",
        "/v2/models/flight-delay/versions/{version}/ready",
        "/v2/models/flight-delay/versions/{version}/infer",
    }
    operations = [
        each["operationId"]
        for path in document["paths"].values()
        for method, each in path.items()
        if method != "parameters"
    ]
    assert len(set(operations)) == len(operations)


def resolved(document, path, method="post"):
    """Return the JSON Schema of a request's body with the document's components."""
    content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
    return {**content["schema"], "components": document["components"]}


PREDICTION = "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"origin": "EWR", "miles": 3}, True),
        ({"rows": [{"origin": "EWR", "miles": 3}]}, True),
        ({"columns": {"origin": ["EWR"], "miles": [3]}}, True),
        ({"origin": "LGA", "miles": 3}, False),
        ({"rows": []}, False),
        ({"rows": [{"origin": "EWR", "miles": 3}] * 3}, False),
        ({"columns": {"origin": ["EWR"]}}, False),
        ([], False),
    ],
)
def test_predict_takes_the_three_forms(body, valid):
    document = openapi_document({"flight": Described(FLIGHT)}, title="T", version="1", max_rows=2)

    assert accepts(resolved(document, "/services/flight/predict"), body) is valid


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"prediction_id": PREDICTION, "value": True}, True),
        ({"prediction_id": f"{PREDICTION}.12", "value": True}, True),
        ({"outcomes": [{"prediction_id": PREDICTION, "value": 1}]}, True),
        ({"key": "N14228", "event_time": "2013-10-01T06:00:00Z", "value": 1}, True),
        ({"key": 7, "event_time": 1_380_607_200_000_000, "value": 1}, True),
        ({"prediction_id": PREDICTION}, False),
        ({"prediction_id": "a", "value": 1}, False),
        ({"key": "N14228", "value": 1}, False),
        ({"value": 1}, False),
        ({"outcomes": []}, False),
    ],
)
def test_outcomes_take_one_or_several(body, valid):
    document = openapi_document({"flight": Described(FLIGHT)}, title="T", version="1")

    assert accepts(resolved(document, "/services/flight/outcomes"), body) is valid


def test_infer_takes_the_tensors_of_the_contract():
    document = openapi_document({"flight": Described(FLIGHT)}, title="T", version="1")
    tensor = {"name": "miles", "datatype": "FP64", "shape": [1], "data": [3.0]}
    schema = resolved(document, "/v2/models/flight/infer")

    assert accepts(schema, {"inputs": [tensor]})
    assert not accepts(schema, {"inputs": [{**tensor, "datatype": "FP32"}]})


@settings(max_examples=20)
@given(strategy.contracts())
def test_document_of_any_contract_is_valid_and_every_reference_resolves(contract):
    service = Described(contract)
    document = openapi_document({"a": service, "b.c": service}, title="T", version="1")

    for path in ("/services/a/predict", "/services/b.c/predict", "/v2/models/a/infer"):
        jsonschema_rs.Draft202012Validator(resolved(document, path))
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


def test_every_form_has_a_name_and_tensors_go_by_the_models_own_names():
    tensors = tuple(TensorMetadata(name, "FP64", (-1,)) for name in ("miles", "mi/les:0"))
    document = openapi_document({"flight": Described(FLIGHT, tensors, tensors)}, title="T", version="1")
    schema = resolved(document, "/v2/models/flight/infer")
    answer = document["paths"]["/v2/models/flight/infer"]["post"]["responses"]["200"]["content"]
    answered = {**answer["application/json"]["schema"], "components": document["components"]}
    tensor = {"name": "mi/les:0", "datatype": "FP64", "shape": [1], "data": [3.0]}

    assert accepts(schema, {"inputs": [tensor], "outputs": [{"name": "mi/les:0"}]})
    assert accepts(answered, {"model_name": "flight", "outputs": [tensor]})
    assert not accepts(schema, {"inputs": [{**tensor, "name": "other"}]})
    for schema in document["components"]["schemas"].values():
        assert all("properties" not in form for form in schema.get("anyOf", []))
