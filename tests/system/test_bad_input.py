"""Whatever a caller sends: the right 4xx naming the field, never a 5xx, never a worker that is stuck."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.system.model import EVERYTHING, PAIR, ROW, VERDICT, add_constant, deploy
from tests.system.server import HOST, Response, Server, request
from tidegate.contract.objective import Limits
from tidegate.route.status import WorkerStatus

pytestmark = pytest.mark.slow

PREDICT = "/services/everything/predict"
OUTCOMES = "/services/everything/outcomes"
INFER = "/v2/models/everything/infer"
TIGHT = "/services/tight/predict"
MAX_BODY_BYTES = 4096
MAX_ROWS = 20
GOOD = request(PREDICT, json.dumps(ROW).encode())
SMALL = b'{"a":1,"b":2}'


@pytest.fixture(scope="module")
def server(shared) -> Iterator[Server]:
    add_constant(shared, "everything", EVERYTHING, VERDICT)
    limits = Limits(max_body_bytes=MAX_BODY_BYTES, max_rows=MAX_ROWS)
    add_constant(shared, "tight", PAIR, {"total": 1.0}, limits=limits)
    deploy(shared, "everything")
    deploy(shared, "tight")
    shared.wait_ready()
    workers, n_said = shared.workers(), len(shared.said())
    yield shared
    assert pids(shared.workers()) == pids(workers)  # none of what the tests sent has cost a worker
    assert "Traceback" not in shared.said()[n_said:]


def pids(workers: list[WorkerStatus]) -> list[int]:
    return [worker.pid for worker in workers]


class Peers:
    """A connection to each worker, opened again where a refusal has closed it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients = list(server.client_of_each_worker().values())

    def ask_each(self, data: bytes) -> list[Response]:
        """Send the same to every worker, and a clean request after it; return the answers to the first."""
        answers = []
        for position, client in enumerate(self._clients):
            client.send(data)
            answers.append(client.receive())
            if b"connection: close" in answers[-1].head:
                assert client.is_closed()
                client.close()
                self._clients[position] = self._server.client()
            self._clients[position].send(GOOD)
            assert self._clients[position].receive().status == 200
        return answers

    def ask(self, data: bytes) -> Response:
        """As `ask_each`, where all give the same answer."""
        first, *others = self.ask_each(data)
        assert {(each.status, each.body) for each in others} == {(first.status, first.body)}
        return first

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def peers(server) -> Iterator[Peers]:
    peers = Peers(server)
    yield peers
    peers.close()


def predict(body: Any) -> bytes:
    return request(PREDICT, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"}",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"[1, 2]",
        b'{"rows": [}',
        b'{"customer": "c" "code": 1}',
        b"{'customer': 1}",
        json.dumps(ROW).encode() + b"x",
        json.dumps(ROW).encode("utf-16"),
        b'{"customer": "\xff\xfe"}',
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"rows": null}',
        b'{"rows": 3}',
        b'{"rows": {"0": 1}}',
        b'{"columns": []}',
        b'{"price": NaN}',
        b'{"price": Infinity}',
        b'{"price": -Infinity}',
        b'{"price": 1e}',
        b'{"price": 01}',
        b'{"price": 0x10}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_not_json_of_some_form_is_a_400(peers, body):
    answer = peers.ask(predict(body))

    assert answer.status in (400, 422)
    assert answer.code in ("malformed_body", "contract_violation")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("customer", 7),
        ("customer", ""),
        ("customer", "x" * 21),
        ("customer", None),
        ("customer", ["a"]),
        ("code", "abc"),
        ("code", "A"),
        ("carrier", "ZZ"),
        ("carrier", 0),
        ("carrier", ""),
        ("is_member", 1),
        ("is_member", "true"),
        ("is_member", None),
        ("seats", 0),
        ("seats", 10),
        ("seats", 1.5),
        ("seats", "2"),
        ("seats", True),
        ("seats", 10**30),
        ("seats", -(2**63) - 1),
        ("level", 2**63),
        ("price", 0),
        ("price", 10_000),
        ("price", -1e308),
        ("price", "1.0"),
        ("price", {"usd": 1}),
        ("weight", -0.1),
        ("weight", 1e39),
        ("booked_at", "yesterday"),
        ("booked_at", "2026-11-20T12:00:00"),
        ("booked_at", "2026-13-40T12:00:00Z"),
        ("booked_at", True),
        ("took", "5 minutes"),
        ("place", [0, 0]),
        ("place", [0, 0, 0, 0]),
        ("place", [0, 0, 2]),
        ("place", [0, 0, "0"]),
        ("place", [[0, 0, 0]]),
        ("place", 0),
        ("visits", [1.5]),
        ("visits", [None]),
        ("visits", "12"),
        ("picture", "not base64!"),
        ("picture", "A" * 1000),
        ("picture", 12),
        ("diagnosis", "x" * 9),
        ("diagnosis", {"secret": 1}),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("form", ["row", "rows"])
def test_a_value_against_the_contract_is_a_422_that_names_the_field(peers, form, field, value):
    row = {**ROW, field: value}
    body = row if form == "row" else {"rows": [ROW, ROW, row]}

    answer = peers.ask(predict(body))

    assert (answer.status, answer.code) == (422, "contract_violation"), answer.body
    error = answer.json()["error"]
    assert f"'{field}'" in error["message"]
    assert error["context"]["field"] == field
    assert error["context"].get("row", 0) == (0 if form == "row" else 2)


@pytest.mark.parametrize("field", list(ROW))
def test_a_field_that_is_missing_is_named(peers, field):
    row = {name: value for name, value in ROW.items() if name != field}

    answer = peers.ask(predict(row))

    assert (answer.status, answer.code) == (422, "contract_violation")
    assert answer.json()["error"]["context"]["field"] == field


@pytest.mark.parametrize(
    "name", ["seat", "Seats", "", "__class__", "rows ", "x" * 10_000, "\0", "\U0001f6eb"]
)
def test_a_field_that_is_not_known_is_named(peers, name):
    answer = peers.ask(predict({**ROW, name: 1}))

    assert (answer.status, answer.code) == (422, "contract_violation")
    assert answer.json()["error"]["context"]["field"][:5] == name[:5]
    assert len(answer.body) < 5_000  # a name that is too long is not thrown back whole


def test_a_sensitive_value_is_never_said_back(peers, server):
    secret = "Z-77-very-private"

    answers = peers.ask_each(predict({**ROW, "diagnosis": secret}))

    assert {answer.status for answer in answers} == {422}
    assert all(secret.encode() not in answer.body for answer in answers)
    assert secret not in server.said()
    assert not any(secret.encode() in path.read_bytes() for path in server.home.journal.iterdir())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"rows":[]}', 422),
        (b'{"columns":{}}', 422),
        (b'{"columns":{"a":[],"b":[]}}', 422),
        (b'{"columns":{"a":[1,2],"b":[1]}}', 422),
        (b'{"columns":{"a":[1],"b":1}}', 422),
        (b'{"rows":[' + b",".join([SMALL] * (MAX_ROWS + 1)) + b"]}", 413),
        (b'{"columns":{"a":%s,"b":%s}}' % ((b"[" + b"1," * MAX_ROWS + b"1]",) * 2), 413),
    ],
    ids=["no rows", "no columns", "empty columns", "lengths", "no list", "many rows", "many in columns"],
)
def test_batches_of_no_row_or_of_too_many_are_refused(peers, body, status):
    answer = peers.ask(request(TIGHT, body))

    assert answer.status == status, answer.body
    assert answer.code in ("contract_violation", "too_many_rows", "malformed_body")


CHUNK = b"%x\r\n%s\r\n" % (2000, b" " * 2000)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(TIGHT, b" " * (MAX_BODY_BYTES + 1)), 413),
        (f"POST {TIGHT} HTTP/1.1\r\nhost: x\r\ncontent-length: {10**15}\r\n\r\n".encode(), 413),
        (f"POST {TIGHT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode() + CHUNK * 3, 413),
        (request(TIGHT, gzip.compress(b" " * 10**7), "content-encoding: gzip\r\n"), 413),
        (request(TIGHT, gzip.compress(SMALL)[:-5], "content-encoding: gzip\r\n"), 400),
        (request(TIGHT, b"not gzip", "content-encoding: gzip\r\n"), 400),
        (request(TIGHT, SMALL, "content-encoding: br\r\n"), 415),
        (request(TIGHT, zlib.compress(b"{"), "content-encoding: deflate\r\n"), 400),
        (request(TIGHT, SMALL, "tidegate-timeout-ms: soon\r\n"), 400),
        (request(TIGHT, SMALL, "tidegate-timeout-ms: -1\r\n"), 400),
        (request(TIGHT, SMALL, "tidegate-timeout-ms: nan\r\n"), 400),
        (request(TIGHT, SMALL, f"x-filler: {'x' * 70_000}\r\n"), 431),
        (request(TIGHT, SMALL, "x-filler: 1\r\n" * 200), 431),
        (request("/services/none/predict", SMALL), 404),
        (request("/services/tight/predict/more", SMALL), 404),
        (request("/../../etc/passwd", SMALL), 404),
        (request("/services/%74ight/%00", SMALL), 404),
        (f"GET {TIGHT} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 405),
        (f"DELETE {TIGHT} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 405),
        (b"HELLO\r\n\r\n", 400),
        (f"POST {TIGHT} HTTP/9.9\r\nhost: x\r\n\r\n".encode(), 400),
        (f"POST {TIGHT} HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n".encode(), 400),
        (f"POST {TIGHT} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n".encode(), 400),
        (f"POST {TIGHT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".encode(), 400),
        (f"POST {TIGHT} HTTP/1.1\r\nno colon\r\n\r\n".encode(), 400),
        (f"POST {TIGHT} HTTP/1.1\r\nbad\x01name: 1\r\n\r\n".encode(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_what_http_or_the_limits_forbid_is_refused_with_its_status(peers, data, status):
    answers = peers.ask_each(data)

    assert {answer.status for answer in answers} == {status}
    assert all(answer.code for answer in answers)


def test_pipelined_requests_good_and_bad_are_answered_each_and_in_order(server):
    row = json.dumps(ROW).encode()
    kinds = [(row, 200), (b"{", 400), (row.replace(b"c-17", b""), 422), (b'{"rows":[%s]}' % row, 200)] * 30
    with server.client() as client:
        client.send(b"".join(predict(body) for body, _ in kinds))
        statuses = [client.receive().status for _ in kinds]

    assert statuses == [status for _, status in kinds]


@pytest.mark.parametrize("cut", [3, 20, 60, -30, -1])
def test_requests_that_are_cut_off_hold_nobody_up(server, cut):
    cut_off = [server.client() for _ in range(20)]
    for client in cut_off:
        client.send(GOOD[:cut])

    for client in server.client_of_each_worker().values():
        with client:
            client.send(GOOD)
            assert client.receive().status == 200
    for client in cut_off:
        client.close()


def test_many_requests_from_clients_that_leave_at_once_hold_nobody_up(server):
    for _ in range(50):
        with server.client() as client:
            client.send(GOOD * 5)

    for client in server.client_of_each_worker().values():
        with client:
            client.send(GOOD)
            assert client.receive().status == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"value": 1},
        {"prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"},
        {"value": 1, "prediction_id": "nonsense"},
        {"value": 1, "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef.x"},
        {"value": 1, "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef.99999999999999999999"},
        {"value": 1, "key": "a"},
        {"value": 1, "key": "a", "event_time": "noon"},
        {"value": 1, "key": "a", "event_time": 10**30},
        {"value": 1, "key": "a", "event_time": 0.5},
        {"value": 1, "key": "a", "event_time": 2**63 - 1},
        {"value": 1, "key": 2**63, "event_time": -(2**63)},
        {"value": 1, "key": "a", "event_time": 1, "name": "x" * 65},
        {"value": 1, "key": "\ud800", "event_time": 1},
        {"value": 1, "key": [], "event_time": 1},
        {"value": 1, "prediction_id": 5},
        {"value": 1, "key": 1.5, "event_time": "2024-01-01T00:00:00Z"},
        {"value": 1, "prediction_id": "x", "more": 1},
        {"value": 1, "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef", "name": 5},
        {"outcomes": []},
        {"outcomes": [{}]},
        {"outcomes": [1]},
        {"outcomes": {"value": 1}},
        [],
        b"",
        b"{",
        b"[" * 100_000,
        b'{"value": ' + b"[" * 100_000 + b'], "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"}',
        b'{"value": ' + b"[" * 80 + b"]" * 80 + b', "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"}',
        b'{"value": NaN, "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"}',
        b'{"value": "\xff", "prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"}',
    ],
    ids=lambda body: repr(body)[:50],
)
def test_what_is_no_outcome_is_a_4xx(peers, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    answers = peers.ask_each(request(OUTCOMES, data))

    assert all(400 <= answer.status < 500 for answer in answers), answers


# --- fuzzed from the document that the server itself serves ---

TIMEOUT = "tidegate-timeout-ms"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_url(f"http://{HOST}:{server.port}/openapi.json")


def allow_time(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to headers that leave no answer the time it takes: 504 would be right."""
    try:
        return {TIMEOUT: "30000"} if 0 < float(headers[TIMEOUT]) < 30_000 else {}
    except (KeyError, ValueError):
        return {}


def as_written(value: Any) -> Any:
    """Return a value with integers for the floats that are whole: a schema's integer may be drawn as 0.0."""
    if isinstance(value, list):
        return [as_written(each) for each in value]
    if isinstance(value, dict):
        return {name: as_written(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_sayable(body: Any) -> bool:
    """Tell whether a body is one of those that the document means: it cannot say that lengths agree."""
    columns = body.get("columns", {}) if isinstance(body, dict) else {}
    return len({len(values) for values in columns.values()}) < 2


def fuzz(n_examples: int):
    return settings(
        max_examples=n_examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("path", [PREDICT, OUTCOMES])
def test_what_the_document_allows_is_taken_and_answered_as_it_says(document, path):
    @given(case=document[path]["POST"].as_strategy())
    @fuzz(50)
    def send(case):
        case.headers.update(allow_time(case.headers))
        case.body = as_written(case.body)
        response = case.call_and_validate(checks=CHECKS, timeout=30)
        assert response.status_code in (200, 202) or not is_sayable(case.body), response.text

    send()


@pytest.mark.parametrize("path", [PREDICT, OUTCOMES, pytest.param(INFER, marks=pytest.mark.slow)])
def test_what_the_document_forbids_is_answered_as_it_says(document, path):
    mode = schemathesis.GenerationMode.NEGATIVE

    @given(case=document[path]["POST"].as_strategy(generation_mode=mode))
    @fuzz(30)
    def send(case):
        case.headers.update(allow_time(case.headers))
        case.call_and_validate(checks=CHECKS, timeout=30)

    send()


def test_infer_requests_of_the_document_are_answered_as_it_says(document):
    """Shapes and data have to agree, which the document cannot say: many are refused."""

    @given(case=document[INFER]["POST"].as_strategy())
    @fuzz(30)
    def send(case):
        case.call_and_validate(checks=CHECKS, timeout=30)

    send()
