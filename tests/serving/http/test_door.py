"""Who is turned away on the headers, told when to come back, and kept on the connection."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.serving.http.harness import DIGEST
from tests.serving.http.peer import Peer
from tests.serving.plane import CONTRACT, Harness, Told
from tests.serving.test_chain import Silent
from tidegate.contract.objective import Criticality, Limits
from tidegate.predictor.protocol import Predictor
from tidegate.route.route import PARTS, STABLE, Arm, ServiceRoute
from tidegate.serving.admission import Backlog
from tidegate.serving.duration import DurationModel
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.face import resources
from tidegate.serving.http.site import Site
from tidegate.serving.inline import InlineExecutor


class Queued(Silent):
    """An executor at which as many rows wait as the test says, and no more is answered."""

    def __init__(self) -> None:
        self.backlog = Backlog(DurationModel({1: 10_000.0}), max_batch_rows=1)
        self.criticalities: list[int] = []

    def submit(self, group: Any, done: Any) -> None:
        self.criticalities += [call.criticality for call in group.calls]


class Served:
    """A service on a real port, in a thread."""

    def __init__(self, address: tuple[str, int], harness: Harness) -> None:
        self.address = address
        self.harness = harness

    def run(self, function: Any) -> None:
        """Run a function in the server's loop and wait for it."""
        done = threading.Event()
        self.harness.loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(10)


@contextmanager
def serving(folder: Path, model: Any, limits: Limits | None = None) -> Iterator[Served]:
    started, stop = threading.Event(), threading.Event()
    found: list[Served] = []

    async def serve() -> None:
        harness = Harness(folder)
        executor = model if hasattr(model, "submit") else inline(model, harness)
        version = LoadedVersion("svc", 1, CONTRACT, executor=executor, limits=limits)
        route = ServiceRoute("svc", 1, "s", (Arm(STABLE, 1, ((0, PARTS),)),), manifests={1: DIGEST})
        harness.plane.endpoints["svc"] = Endpoint(route, {1: version}, secret=b"k")
        site = Site()
        site.publish(resources(harness.plane, metrics=folder))
        server = await harness.loop.create_server(lambda: Connection(site), "127.0.0.1", 0)
        found.append(Served(server.sockets[0].getsockname(), harness))
        started.set()
        while not stop.is_set():  # noqa: ASYNC110 - the test's thread ends it
            await asyncio.sleep(0.01)
        server.close()
        for connection in list(site.connections):
            connection.time_out()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield found[0]
    finally:
        stop.set()
        thread.join(10)


def inline(model: Predictor, harness: Harness) -> InlineExecutor:
    return InlineExecutor(model, call_soon=harness.loop.call_soon)


def request(path: str = "/services/svc/predict", body: Any = None, **headers: str) -> bytes:
    data = json.dumps({"x": 1.0} if body is None else body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join((f"POST {path} HTTP/1.1", "host: a", f"content-length: {len(data)}", *lines))
    return head.encode() + b"\r\n\r\n" + data


def test_refuses_on_headers_with_the_time_to_come_back_and_keeps_the_connection(tmp_path: Path) -> None:
    model = Queued()
    with serving(tmp_path, model) as served, Peer(served) as peer:  # type: ignore[arg-type]
        model.backlog.own = 300
        known = request(tidegate_timeout_ms="100")

        for _ in range(3):  # the first head is read, the others are known
            peer.send(known)
            answer = peer.answer()

            assert answer.status == 503
            assert answer.error["code"] == "overloaded"
            assert answer.error["context"]["retry_after_s"] == pytest.approx(301 * 0.01 - 0.07, abs=0.005)
            assert answer.headers["retry-after"] == "3"


def test_answers_pipelined_refusals_in_order_behind_what_is_owed(tmp_path: Path) -> None:
    with serving(tmp_path, Told(lambda x: x)) as served, Peer(served) as peer:  # type: ignore[arg-type]
        peer.send(request(), request(body={"x": 2.0}))

        assert [peer.answer().json["output"]["y"] for _ in range(2)] == [1.0, 2.0]


def test_the_same_refusal_has_the_protocols_shape_on_its_face(tmp_path: Path) -> None:
    model = Queued()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
    with serving(tmp_path, model) as served, Peer(served) as peer:  # type: ignore[arg-type]
        model.backlog.own = 10_000

        peer.send(request("/v2/models/svc/infer", body))
        answer = peer.answer()

        assert answer.status == 503
        assert "overloaded" in answer.json["error"]
        assert answer.headers["retry-after"] == "60"


def test_lets_in_what_matters_more_while_it_refuses_the_rest(tmp_path: Path) -> None:
    model = Queued()
    with serving(tmp_path, model) as served:
        model.backlog.own = 6  # answered after 70 ms: within three quarters of the time, not within 60%

        for criticality, is_let_in in (("normal", False), ("batch", False), ("critical", True)):
            with Peer(served) as peer:  # type: ignore[arg-type]
                peer.send(request(tidegate_timeout_ms="100", tidegate_criticality=criticality))
                status = peer.answer().status
            assert (status != 503) is is_let_in
        assert model.criticalities == [Criticality.CRITICAL]


def test_takes_criticality_and_time_from_the_protocols_parameters(tmp_path: Path) -> None:
    model = Queued()
    with serving(tmp_path, model) as served:
        tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}
        for parameters in ({"priority": 1}, {"priority": 7}, {"criticality": "shadow"}, {"priority": 0}):
            body = {"inputs": [tensor], "parameters": {"timeout": 20_000, **parameters}}
            with Peer(served) as peer:  # type: ignore[arg-type]
                peer.send(request("/v2/models/svc/infer", body))
                assert peer.answer().status == 503  # after its 20 ms

    assert model.criticalities == [3, 1, 0, 2]


@pytest.mark.parametrize("name", ["tidegate_criticality", "tidegate_timeout_ms"])
def test_says_what_is_wrong_with_a_header(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, Told(lambda x: x)) as served, Peer(served) as peer:  # type: ignore[arg-type]
        peer.send(request(**{name: "urgent"}))

        answer = peer.answer()

        assert answer.status == 400
        assert "urgent" in answer.error["message"]


@pytest.mark.parametrize("header", ["", "x-team"])
def test_one_callers_rate_does_not_touch_anothers(tmp_path: Path, header: str) -> None:
    limits = Limits(caller_rate_per_s=0.01, caller_burst=2, caller_header=header)
    with serving(tmp_path, Told(lambda x: x), limits) as served, Peer(served) as peer:  # type: ignore[arg-type]
        statuses = []
        for team in ("a", "a", "a", "b"):
            peer.send(request(x_team=team))
            statuses.append(peer.answer().status)

    assert statuses == [200, 200, 429, 200 if header else 429]


def test_health_answers_while_the_model_has_more_than_it_can_do(tmp_path: Path) -> None:
    model = Queued()
    with serving(tmp_path, model) as served, Peer(served) as peer:  # type: ignore[arg-type]
        model.backlog.own = 1_000_000
        peer.send(request())
        assert peer.answer().status == 503

        peer.send("GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")

        assert peer.answer().status == 200


def test_what_was_refused_is_counted(tmp_path: Path) -> None:
    model = Queued()
    with serving(tmp_path, model) as served, Peer(served) as peer:  # type: ignore[arg-type]
        model.backlog.own = 10_000
        for _ in range(5):
            peer.send(request())
            peer.answer()

        assert served.harness.plane._refused == {("svc", "overloaded", ""): 5}


def test_who_hangs_up_takes_the_request_back(tmp_path: Path) -> None:
    abandoned = threading.Event()

    class Watched(Queued):
        def submit(self, group: Any, done: Any) -> None:
            group.calls[0].on_abandon = abandoned.set
            arrived.set()

    arrived = threading.Event()
    with serving(tmp_path, Watched()) as served:
        with socket.create_connection(served.address) as client:
            client.sendall(request())
            assert arrived.wait(10)

        assert abandoned.wait(10)
