"""The OpenAPI document names what the faces know: their headers and their refusals."""

from tests.contract.test_openapi import FLIGHT
from tidegate.contract.openapi import Described, openapi_document
from tidegate.serving.http.door import CRITICALITY_HEADER, MAX_TIMEOUT_MS, TIMEOUT_HEADER
from tidegate.serving.http.error import PROTOCOL_STATUS, STATUS
from tidegate.serving.http.native import REQUEST_ID_HEADER, TRACE_HEADER
from tidegate.serving.http.pin import ARM_HEADER, VERSION_HEADER

DOCUMENT = openapi_document({"flight": Described(FLIGHT, pinning=True)}, title="T", version="1")
PREDICT = DOCUMENT["paths"]["/services/flight/predict"]["post"]
INFER = DOCUMENT["paths"]["/v2/models/flight/infer"]["post"]


def test_both_faces_name_every_header_that_is_read():
    read = {
        name.decode()
        for name in (
            TIMEOUT_HEADER,
            CRITICALITY_HEADER,
            VERSION_HEADER,
            ARM_HEADER,
            REQUEST_ID_HEADER,
            TRACE_HEADER,
        )
    }

    known = DOCUMENT["components"]["parameters"]
    assert {header["name"] for header in known.values()} == read
    assert known["tidegate-timeout-ms"]["schema"]["maximum"] == MAX_TIMEOUT_MS
    for face in (PREDICT, INFER):
        assert face["parameters"] == [{"$ref": f"#/components/parameters/{name}"} for name in known]


def test_headers_that_choose_who_answers_are_named_only_where_they_are_taken():
    document = openapi_document({"flight": Described(FLIGHT)}, title="T", version="1")

    named = {
        each["$ref"].rpartition("/")[2]
        for each in document["paths"]["/services/flight/predict"]["post"]["parameters"]
    }
    assert "tidegate-timeout-ms" in named
    assert named.isdisjoint({VERSION_HEADER.decode(), ARM_HEADER.decode()})


def test_every_status_of_a_refusal_is_listed():
    elsewhere = {405, 409, 501}  # another method, the control port, what only the protocol knows
    native = {int(code) for code in PREDICT["responses"]} - {200}
    protocol = {int(code) for code in INFER["responses"]} - {200}

    answers = [*PREDICT["responses"].values(), *INFER["responses"].values()]
    refused = {answer["$ref"].rpartition("/")[2] for answer in answers if "$ref" in answer}
    assert refused == DOCUMENT["components"]["responses"].keys()
    assert native == set(STATUS.values()) - elsewhere
    assert protocol == PROTOCOL_STATUS - {405}
