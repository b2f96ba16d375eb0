"""A caller names who is to answer, where the service allows it."""

import numpy as np
import pytest

from tests.serving.http.harness import Service, contract_of, records, scalar, serving
from tidegate.contract.objective import Limits
from tidegate.contract.schema import DataType

CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])
PATH = "/services/{}/predict"


def service(name, *, pinning):
    return Service(
        name,
        CONTRACT,
        lambda batch: {"y": np.asarray(batch["x"])},
        limits=Limits(pinning=pinning),
        versions=(1, 2),
        standby=(3,),
        awaited=(4,),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pin")
    with serving(folder, service("open", pinning=True), service("shut", pinning=False)) as found:
        yield found


def ask(server, name, headers):
    return server.request("POST", PATH.format(name), {"x": 1.0}, headers)


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"tidegate-version": "1"}, 1),
        ({"tidegate-version": "2"}, 2),
        ({"tidegate-version": "3"}, 3),
        ({"tidegate-arm": "stable"}, 1),
        ({"tidegate-arm": "candidate"}, 2),
    ],
)
def test_a_header_names_who_answers_and_the_record_says_it_was_not_drawn(server, headers, version):
    answers = [ask(server, "open", headers) for _ in range(12)]

    assert {(status, body["version"]) for status, body, _ in answers} == {(200, version)}
    ids = {body["prediction_id"] for _, body, _ in answers}
    assert {each["arm"] for each in records(server.folder) if each["id"] in ids} == {"pinned"}


def test_the_protocol_takes_the_headers_too(server):
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}

    versions = {
        server.request("POST", "/v2/models/open/infer", body, {"tidegate-version": "2"})[1]["model_version"]
        for _ in range(8)
    }

    assert versions == {"2"}


@pytest.mark.parametrize(
    ("name", "headers", "status", "words"),
    [
        ("shut", {"tidegate-version": "1"}, 403, "does not let callers choose"),
        ("shut", {"tidegate-arm": "candidate"}, 403, "does not let callers choose"),
        ("open", {"tidegate-version": "9"}, 404, "no version 9 ready"),
        ("open", {"tidegate-version": "4"}, 503, "Version 4 of service 'open' is not loaded"),
        ("open", {"tidegate-version": "-1"}, 400, "tidegate-version is '-1'"),
        ("open", {"tidegate-arm": "nobody"}, 404, "no arm 'nobody'"),
        ("open", {"tidegate-version": "1", "tidegate-arm": "stable"}, 400, "names both"),
    ],
)
def test_a_header_that_cannot_be_followed_is_refused_in_words(server, name, headers, status, words):
    answered, body, _ = ask(server, name, headers)

    assert answered == status
    assert words in body["error"]["message"]
