"""What may be reported of a prediction, and what is refused before it costs much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.http.harness import Server, Service, contract_of, scalar, serving
from tidegate.contract.schema import DataType
from tidegate.serving.http import native

CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])
PREDICTION = "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    service = Service("echo", CONTRACT, lambda batch: {"y": batch["x"]})
    with serving(tmp_path_factory.mktemp("server"), service) as running:
        yield running


def report(server: Server, body: Any) -> tuple[int, Any]:
    status, answer, _ = server.request("POST", "/services/echo/outcomes", body)
    return status, answer


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [[], value] if level % 2 else {"[": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        1,
        True,
        None,
        "a" * (native.MAX_VALUE_BYTES - 2),
        [1] * 1000,
        [[]] * 1000,
        ['[[\\"[{' * 100, "\\"],
        nested(native.MAX_DEPTH),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_plain_value_is_taken(server: Server, value: Any) -> None:
    assert report(server, {"prediction_id": PREDICTION, "value": value}) == (202, {"accepted": 1})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a" * (native.MAX_VALUE_BYTES - 1), "more than 65536 bytes"),
        ([1] * 1_500_000, "more than 65536 bytes"),
        (nested(native.MAX_DEPTH + 1), "nested deeper than 64"),
        (["\\", nested(native.MAX_DEPTH), '"'], "nested deeper than 64"),
    ],
    ids=["text", "list", "deep", "deep among texts"],
)
def test_a_value_that_is_long_or_deep_is_400_and_named(server: Server, value: Any, words: str) -> None:
    good = {"prediction_id": PREDICTION, "value": 1}
    body = {"outcomes": [good, {"prediction_id": PREDICTION, "value": value}]}

    status, answer = report(server, json.dumps(body, separators=(",", ":")).encode())

    assert status == 400
    assert "'value' of outcome 1" in answer["error"]["message"]
    assert words in answer["error"]["message"]


def test_a_body_of_outcomes_is_bounded(server: Server) -> None:
    status, answer = report(server, b" " * (native.MAX_OUTCOME_BYTES + 1))

    assert (status, answer["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("time", [10**30, -(10**30), 10**309, -(10**400), 1e300])
def test_a_time_beyond_all_years_is_400(server: Server, time: float) -> None:
    status, answer = report(server, {"key": "a", "event_time": time, "value": 1})

    assert status == 400
    assert "'event_time' of outcome 0" in answer["error"]["message"]
