"""Contracts as one OpenAPI 3.1 document: the native face and the Open Inference Protocol's.

Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tidegate.contract.jsonschema import JsonSchema, answer_schema, columns_schema, row_schema
from tidegate.contract.objective import Criticality
from tidegate.contract.protocol import DATATYPES, TensorMetadata, tensor_metadata
from tidegate.contract.schema import Contract

MAX_OUTCOME_NAME = 64
MAX_OUTCOME_ID = 128
"""Characters of an outcome's name, and of the id that its reporter gives it."""

MIN_TIME_US, MAX_TIME_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, microseconds since 1970 UTC."""

_HEX = "[0-9a-f]"
_PREDICTION_ID: JsonSchema = {
    "type": "string",
    "pattern": rf"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}(\.[0-9]{{1,9}})?$",
    "description": "Names the prediction in outcomes and in the journal.",
}
_REFUSALS = {
    "400": "The body is not JSON of any form that carries rows, or a header cannot be used.",
    "403": "The service does not let callers choose who answers.",
    "404": "There is no such service, version or arm.",
    "408": "The request was not complete in time.",
    "413": "The body or the number of rows is above the limit.",
    "414": "The address is too long.",
    "415": "The body is compressed in a way that is not taken.",
    "422": "A row does not fulfil the contract; the message names field and row.",
    "429": "The caller has sent more than its share.",
    "431": "The request line and headers are above the limit.",
    "500": "The model failed, or its answer broke the contract.",
    "503": "Too much is waiting, or the service is not ready.",
    "504": "The answer could not be made in time.",
}
_OUTCOME_REFUSALS = ("400", "404", "408", "413", "414", "415", "431", "503")
_PROTOCOL_REFUSALS = ("400", "404", "408", "413", "414", "415", "429", "431", "500", "501", "503")
"""On that face whatever its protocol has no status for is 400, and what is out of time 503."""

_HEADERS: Mapping[str, tuple[str, JsonSchema]] = {
    "tidegate-timeout-ms": (
        "Time the request may take, milliseconds.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 3_600_000},
    ),
    "tidegate-criticality": (
        "How much it matters: under overload the least is refused first.",
        {"enum": [one.name.lower() for one in Criticality]},
    ),
    "tidegate-version": (
        "Number of the version that is to answer, where the service allows it.",
        {"type": "string", "pattern": "^[0-9]{1,9}$"},
    ),
    "tidegate-arm": ("Name of the arm that is to answer, likewise.", {"type": "string"}),
    "x-request-id": ("The caller's own id, journalled.", {"type": "string"}),
    "traceparent": ("W3C trace context, journalled.", {"type": "string"}),
}
_PINNING = ("tidegate-version", "tidegate-arm")
_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "Number of the version that is to answer.",
    "schema": {"type": "integer", "minimum": 1},
}


class Described(msgspec.Struct, frozen=True):
    """A service as the document tells of it.

    Attributes:
        contract: What it takes and gives.
        inputs, outputs: Its tensors by each name that they go by; None: the contract's fields.
        pinning: Whether callers may choose who answers.
    """

    contract: Contract
    inputs: tuple[TensorMetadata, ...] | None = None
    outputs: tuple[TensorMetadata, ...] | None = None
    pinning: bool = False


def openapi_document(
    services: Mapping[str, Described], *, title: str, version: str, max_rows: int | None = None
) -> dict[str, Any]:
    """Return the OpenAPI document of the services that a worker answers for.

    Args:
        services: Each service, by its name.
        title: Title of the document.
        version: Version of the document.
        max_rows: Most rows of a request, where it is the same for all.

    Returns:
        Plain data, ready to be encoded as JSON.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, JsonSchema] = {"Error": _error_schema(), **_outcome_schemas()}
    for name, service in services.items():
        schemas |= _service_schemas(name, service, max_rows)
        paths[f"/services/{name}/predict"] = {"post": _predict(name, service)}
        paths[f"/services/{name}/outcomes"] = {"post": _outcomes(name)}
        for part, of in (("", ""), ("/versions/{version}", "version.")):
            base, shared = f"/v2/models/{name}{part}", {"parameters": [_VERSION]} if part else {}
            paths[base] = {**shared, "get": _metadata(name, of)}
            paths[f"{base}/ready"] = {**shared, "get": _ready(name, of)}
            paths[f"{base}/infer"] = {**shared, "post": _infer(name, of, service)}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {
                name: {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
                for name, (text, schema) in _HEADERS.items()
            },
            "responses": {
                **{f"Refusal{code}": _answer(text, _ref("Error")) for code, text in _REFUSALS.items()},
                "ProtocolError": _answer("What is wrong, in words.", _object({"error": {"type": "string"}})),
            },
        },
    }


def _service_schemas(name: str, service: Described, max_rows: int | None) -> dict[str, JsonSchema]:
    contract = service.contract
    rows: JsonSchema = {"type": "array", "items": _ref(f"{name}.Row"), "minItems": 1}
    if max_rows is not None:
        rows["maxItems"] = max_rows
    answered = {"prediction_id": _PREDICTION_ID, "output": _ref(f"{name}.Output")}
    by_whom: JsonSchema = {
        "version": {"type": "integer", "description": "The version that answered.", "minimum": 1},
        "answered_by": {"type": "string", "description": "The fallback that answered in its place."},
        "reason": {"type": "string", "description": "Code of the error that made the fallback answer."},
    }
    # each form has a name of its own: generators of clients make a class of each
    return {
        f"{name}.Row": row_schema(contract.input),
        f"{name}.Rows": _object({"rows": rows}),
        f"{name}.Columns": _object({"columns": _ref(f"{name}.ColumnValues")}),
        f"{name}.ColumnValues": columns_schema(contract.input, max_rows=max_rows),
        f"{name}.Request": _any_of(f"{name}.Row", f"{name}.Rows", f"{name}.Columns"),
        f"{name}.Output": answer_schema(contract.output),
        f"{name}.AnsweredRow": _object(answered),
        f"{name}.RowAnswer": _object(
            {**answered, **by_whom}, required=("prediction_id", "version", "output")
        ),
        f"{name}.RowsAnswer": _object(
            {"rows": {"type": "array", "items": _ref(f"{name}.AnsweredRow")}, **by_whom},
            required=("version", "rows"),
        ),
        f"{name}.Answer": _any_of(f"{name}.RowAnswer", f"{name}.RowsAnswer"),
        **_protocol_schemas(name, service),
    }


def _protocol_schemas(name: str, service: Described) -> dict[str, JsonSchema]:
    """Return the schemas of the Open Inference Protocol's requests and answers."""
    contract = service.contract
    sides = (
        ("Input", tensor_metadata(contract.input) if service.inputs is None else service.inputs),
        ("Response", tensor_metadata(contract.output) if service.outputs is None else service.outputs),
    )
    found: dict[str, JsonSchema] = {}
    for side, tensors in sides:
        named = {
            f"{name}.{side}Tensor{number}": _tensor(tensor.name, tensor.datatype)
            for number, tensor in enumerate(tensors, start=1)
        }
        found |= {**named, f"{name}.{side}Tensor": _any_of(*named)}
    names = [tensor.name for tensor in sides[1][1]]
    return {
        **found,
        f"{name}.RequestedOutput": {
            "type": "object",
            "properties": {"name": {"enum": names}, "parameters": {"type": "object"}},
            "required": ["name"],
        },
        f"{name}.InferRequest": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": _ref(f"{name}.InputTensor"), "minItems": 1},
                "outputs": {"type": "array", "items": _ref(f"{name}.RequestedOutput")},
            },
            "required": ["inputs"],
        },
        f"{name}.InferResponse": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": _ref(f"{name}.ResponseTensor")},
            },
            "required": ["model_name", "outputs"],
        },
    }


def _header_refs(service: Described) -> list[dict[str, str]]:
    return [
        {"$ref": f"#/components/parameters/{name}"}
        for name in _HEADERS
        if service.pinning or name not in _PINNING
    ]


def _predict(name: str, service: Described) -> dict[str, Any]:
    return {
        "operationId": f"{name}.predict",
        "summary": f"Predict with {name}: one row as an object, several as rows or columns.",
        "parameters": _header_refs(service),
        "requestBody": _body(_ref(f"{name}.Request")),
        "responses": {"200": _answer("The prediction.", _ref(f"{name}.Answer")), **_errors(_REFUSALS)},
    }


def _outcomes(name: str) -> dict[str, Any]:
    several = _object({"outcomes": {"type": "array", "items": _ref("Outcome"), "minItems": 1}})
    accepted = _object({"accepted": {"type": "integer", "minimum": 1}})
    return {
        "operationId": f"{name}.outcomes",
        "summary": f"Report what became of predictions of {name}. Reporting one twice counts it once.",
        "requestBody": _body({"anyOf": [_ref("Outcome"), several]}),
        "responses": {
            "202": _answer("Journalled.", accepted),
            **_errors(_OUTCOME_REFUSALS),
        },
    }


def _metadata(name: str, of: str) -> dict[str, Any]:
    tensor = _object(
        {
            "name": {"type": "string"},
            "datatype": {"enum": list(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer"}},
        }
    )
    listed = {"type": "array", "items": tensor}
    content = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": listed,
            "outputs": listed,
        },
        "required": ["name", "platform", "inputs", "outputs"],
    }
    return {
        "operationId": f"{name}.{of}metadata",
        "summary": f"Tensors of {name}, in the Open Inference Protocol.",
        "responses": {"200": _answer("The metadata.", content), **_protocol_errors("404", "431", "503")},
    }


def _ready(name: str, of: str) -> dict[str, Any]:
    content = {"type": "object", "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}}}
    return {
        "operationId": f"{name}.{of}ready",
        "summary": f"Tell whether {name} answers, in the Open Inference Protocol.",
        "responses": {"200": _answer("It does.", content), **_protocol_errors("400", "404", "431")},
    }


def _infer(name: str, of: str, service: Described) -> dict[str, Any]:
    return {
        "operationId": f"{name}.{of}infer",
        "summary": f"Predict with {name}, in the Open Inference Protocol.",
        "parameters": _header_refs(service),
        "requestBody": _body(_ref(f"{name}.InferRequest")),
        "responses": {
            "200": _answer("The output tensors.", _ref(f"{name}.InferResponse")),
            **_protocol_errors(*_PROTOCOL_REFUSALS),
        },
    }


def _tensor(name: str, datatype: str) -> JsonSchema:
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "datatype": {"const": datatype},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }


def _outcome_schemas() -> dict[str, JsonSchema]:
    key: JsonSchema = {"type": ["string", "integer"], "description": "Value of the key field."}
    instant: JsonSchema = {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": MIN_TIME_US, "maximum": MAX_TIME_US},
        ],
        "description": "Time that goes with the key: RFC 3339 or microseconds since 1970 UTC.",
    }
    what: JsonSchema = {
        "value": {"description": "What was observed, any JSON value."},
        "name": {
            "type": "string",
            "maxLength": MAX_OUTCOME_NAME,
            "description": "What was observed, of several things.",
        },
        "id": {
            "type": "string",
            "maxLength": MAX_OUTCOME_ID,
            "description": "The reporter's own id of this report.",
        },
    }
    by_key = {"key": key, "event_time": instant, **what}
    return {
        "OutcomeById": _object(
            {"prediction_id": _PREDICTION_ID, **what}, required=("value", "prediction_id")
        ),
        "OutcomeByKey": _object(by_key, required=("value", "key", "event_time")),
        "Outcome": {
            "description": "What became of a prediction: named by its id, or by key and time.",
            **_any_of("OutcomeById", "OutcomeByKey"),
        },
    }


def _error_schema() -> JsonSchema:
    detail = _object(
        {
            "code": {"type": "string", "description": "Stable identifier of the kind of error."},
            "message": {"type": "string"},
            "hint": {"type": "string"},
            "context": {"type": "object"},
        },
        required=("code", "message"),
    )
    return _object({"error": detail})


def _errors(codes: Iterable[str]) -> dict[str, Any]:
    return {code: {"$ref": f"#/components/responses/Refusal{code}"} for code in codes}


def _protocol_errors(*codes: str) -> dict[str, Any]:
    return {code: {"$ref": "#/components/responses/ProtocolError"} for code in codes}


def _object(properties: JsonSchema, *, required: tuple[str, ...] | None = None) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _any_of(*names: str) -> JsonSchema:
    return {"anyOf": [_ref(name) for name in names]}


def _ref(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(schema: JsonSchema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(description: str, schema: JsonSchema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
