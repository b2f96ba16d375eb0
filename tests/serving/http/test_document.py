"""The OpenAPI document names what the faces know: their headers and their refusals."""

from tests.contract.test_openapi import FLIGHT
from tidegate.contract.openapi import Described, openapi_document
from tidegate.serving.http.door import CRITICALITY_HEADER, MAX_TIMEOUT_MS, TIMEOUT_HEADER
from tidegate.serving.http.error import PROTOCOL_STATUS, STATUS
from tidegate.serving.http.native import REQUEST_ID_HEADER, TRACE_HEADER
from tidegate.serving.http.pin import ARM_HEADER, VERSION_HEADER

DOCUMENT = openapi_document({"flight": Described(FLIGHT)}, title="T", version="1")
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

    for face in (PREDICT, INFER):
        assert {each["name"] for each in face["parameters"]} == read
        assert face["parameters"][0]["schema"]["maximum"] == MAX_TIMEOUT_MS


def test_every_status_of_a_refusal_is_listed():
    elsewhere = {405, 409, 501}  # another method, the control port, what only the protocol knows
    native = {int(code) for code in PREDICT["responses"]} - {200}
    protocol = {int(code) for code in INFER["responses"]} - {200}

    assert native == set(STATUS.values()) - elsewhere
    assert protocol == PROTOCOL_STATUS - {405}
