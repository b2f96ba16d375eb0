"""The control plane's pages, over a plane of plain values."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

import pytest

from tidegate.bootstrap.overview import ArmView, Overview, ServerView, ServiceView, WorkerView
from tidegate.control.app import make_app
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Corrupt, NotFound
from tidegate.core.principal import Principal
from tidegate.operation.state import ListedVersion
from tidegate.registry.state import Stage, State
from tidegate.registry.store import StoreUnavailable
from tidegate.route.route import ServiceRoute

LISTED = ListedVersion(
    service="flights",
    number=2,
    manifest=digest_bytes(b"manifest"),
    contract=digest_bytes(b"contract"),
    created_at_us=1,
    principal=Principal("ana"),
    state=State(Stage.GATED, 5, 7, ("latency",), "passed"),
)


class FakePlane:
    def __init__(self, *, n_workers=2, n_live=2, n_following=2, routed=True):
        self._n_workers = n_workers
        workers = [WorkerView(slot, 100 + slot, 5, {"flights": [1]}, {}) for slot in range(n_live)]
        service = ServiceView(
            "flights", 3, [ArmView("stable", 1, 1.0)], [], [], ["lookup"], False, n_following
        )
        server = ServerView(99, "http://127.0.0.1:8080", "http://127.0.0.1:8081")
        self.seen = Overview(server, 5, [service] if routed else [], workers)
        self.fault = None

    def overview(self):
        if self.fault:
            raise self.fault
        return self.seen

    def n_workers(self):
        return self._n_workers

    def services(self):
        if self.fault:
            raise self.fault
        return ["flights"]

    def versions(self, service):
        if service == "flights":
            return [LISTED]
        raise NotFound(f"No version of a service {service!r} is registered.", hint="Register one.")

    def route(self, service):
        return ServiceRoute(service, generation=3)

    def metrics(self):
        return b"tidegate_up 1\n"


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def get(plane, path, method="GET"):
    """Send one request to the application, without a network."""

    async def call():
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": [],
            "server": ("127.0.0.1", 8081), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await make_app(plane)(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], headers, b"".join(part.get("body", b"") for part in sent[1:]))

    return asyncio.run(call())


def test_alive_needs_nothing_else_to_work():
    plane = FakePlane()
    plane.fault = Corrupt("everything is broken")

    answer = get(plane, "/healthz")

    assert (answer.status, answer.json()) == (200, {"live": True})


def test_ready_when_every_worker_follows():
    answer = get(FakePlane(), "/readyz")

    assert (answer.status, answer.json()) == (200, {"ready": True, "missing": []})


@pytest.mark.parametrize(
    ("plane", "words"),
    [
        (FakePlane(n_live=1), "1 of 2 workers serve"),
        (FakePlane(n_following=1), "1 of 2 workers follow generation 3 of flights"),
        (FakePlane(routed=False), "no service has a route"),
    ],
)
def test_not_ready_says_what_is_missing(plane, words):
    answer = get(plane, "/readyz")

    assert answer.status == 503
    assert answer.json()["ready"] is False
    assert words in answer.json()["missing"]


def test_metrics_are_prometheus_text():
    answer = get(FakePlane(), "/metrics")

    assert answer.body == b"tidegate_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_status_shows_services_and_workers():
    seen = get(FakePlane(), "/status").json()

    assert seen["services"][0]["arms"] == [{"name": "stable", "version": 1, "share": 1.0}]
    assert [worker["pid"] for worker in seen["workers"]] == [100, 101]


def test_route_of_a_service():
    assert get(FakePlane(), "/services/flights/route").json() == {"service": "flights", "generation": 3}


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/services/nobody/versions", "GET", 404, "not_found"),
        ("/nowhere", "GET", 404, "not_found"),
        ("/services", "POST", 405, "method_not_allowed"),
    ],
)
def test_an_error_has_one_shape(path, method, status, code):
    answer = get(FakePlane(), path, method)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "hint"}


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/status", "POST", "GET, HEAD"),
        ("/rollback", "GET", "POST"),
        ("/services/x/safe-mode", "PUT", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(path, method, allowed):
    answer = get(FakePlane(), path, method)

    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["hint"] == f"Use {allowed}."


def test_a_database_that_is_down_is_unavailable_not_a_bug():
    plane = FakePlane()
    plane.fault = StoreUnavailable("The metadata database cannot be reached.", hint="Start it.")

    answer = get(plane, "/services")

    assert answer.status == 503
    assert answer.json()["error"]["code"] == "store_unavailable"


def test_versions_are_listed_with_where_they_stand():
    (listed,) = get(FakePlane(), "/services/flights/versions").json()["versions"]

    assert listed["number"] == 2
    assert listed["state"]["stage"] == "gated"
    assert listed["state"]["overridden"] == ["latency"]
