"""Views over HTTP: events go in by the control port, requests find them, records equal the offline join."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

import tidegate as tg
from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Client, Server, can_connect, running, wait_until
from tests.valkey import redis_url  # noqa: F401 - a fixture
from tidegate.bootstrap.feature import STORE_VARIABLE
from tidegate.core.decision import Verdict
from tidegate.feature.aggregate import count
from tidegate.feature.expression import define
from tidegate.feature.offline import join
from tidegate.feature.view import FeatureView, Policy
from tidegate.operation.feature import check_served

JSON = "content-type: application/json\r\n"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Asked(tg.Input):
    a: float
    who: str
    at: datetime = tg.timestamp(role="timestamp")


class Total(tg.Output):
    total: float


class Person(tg.Input):
    who: str


class Level(tg.Input):
    level: float


class Doubled(tg.Output):
    b: float = tg.field(default=0.5)


LEVEL = FeatureView(
    name="level",
    entity=Person,
    source=Level,
    event_time="seen_at",
    ttl=timedelta(hours=1),
    transform={"b": pl.col("level") * 2},
    features=Doubled,
    stale=Policy.REJECT,
)
VISITS = FeatureView(
    name="visits",
    entity=Person,
    source=Level,
    event_time="seen_at",
    event_id="number",
    aggregates={"n_visits": count(timedelta(hours=1))},
)
SERVICE = tg.Service("viewed", input=Asked, output=Total, features=[LEVEL, VISITS])


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "sqlite":
        found = request.getfixturevalue("shared")
        serve(found)
        yield found
        return
    folder = tmp_path_factory.mktemp("view")
    with pytest.MonkeyPatch.context() as patch, running(folder, n_workers=1) as found:
        patch.setenv(STORE_VARIABLE, request.getfixturevalue("redis_url"))
        patch.setenv("TIDEGATE_ONLINE_STORE_MS", "5000")  # on a busy machine a thread may wait for its turn
        add_version(found, "first", write_sum(found.folder / "first.onnx", 0.0))
        found.start()
        serve(found)
        yield found


def serve(server: Server) -> None:
    """Deploy the service with a model in the worker, and with one in a process of its own."""
    views = [define(view) for view in SERVICE.features]
    sample = {"a": [1.0], "who": ["x"], "at": [0], "b": [2.0], "n_visits": [0]}
    graph = write_sum(server.folder / "viewed.onnx", 0.0)
    add_version(server, "viewed", graph, SERVICE.contract, views=views, sample=pl.DataFrame(sample))
    function = write_function(server.folder / "viewed.py", 'return {"total": columns["a"] + columns["b"]}')
    add_version(server, "function", function, SERVICE.contract, views=views)
    for name in ("viewed", "function"):
        deploy(server, name)
    server.wait_ready()
    wait_until(lambda: can_connect(server.control_port), what="the control port")


def event(who: str, minute: int, level: float | None, number: int) -> dict[str, Any]:
    seen_at = START + timedelta(minutes=minute)
    return {"who": who, "seen_at": seen_at.isoformat(), "level": level, "number": number}


EVENTS = [
    event("ann", 0, 10.0, 1),
    event("ann", 10, 20.0, 2),
    event("bob", 0, -3.0, 3),
    event("ann", 30, None, 4),
    event("bob", 100, 7.0, 5),
]


def push(client: Client, view: str, *events: dict[str, Any]) -> Any:
    return client.post(
        f"/features/{view}/events", {"events": list(events)}, "content-type: application/json\r\n"
    )


def ask(client: Client, who: str, minute: float, a: float = 1.0) -> Any:
    at = START + timedelta(minutes=minute)
    return client.post("/services/viewed/predict", {"a": a, "who": who, "at": at.isoformat()})


def test_pushed_events_are_read_merged_recorded_and_equal_to_the_offline_join(server: Server) -> None:
    with Client(server.control_port) as control, server.client() as client:
        sent = push(control, "level", *EVENTS)
        assert (sent.status, sent.json()) == (200, {"accepted": 5, "new": 5})
        assert push(control, "level", *EVENTS).json() == {"accepted": 5, "new": 0}
        assert push(control, "visits", *EVENTS).status == 200
        asked = [("ann", 5), ("ann", 10.001), ("ann", 31), ("bob", 1), ("eve", 1), ("ann", -1), ("bob", 101)]
        answers = [ask(client, who, minute) for who, minute in asked]
        refused = ask(client, "ann", 120)

        assert [answer.json()["output"]["total"] for answer in answers] == [21.0, 41, 1.5, -5, 1.5, 1.5, 15]
        assert (refused.status, refused.code) == (503, "feature_stale")
        _ = ask(client, "ann", 5, a=2.0)

        again = push(control, "level", event("ann", 2, 50.0, 9))
        assert again.json()["new"] == 1
        assert ask(client, "ann", 5).json()["output"]["total"] == 101.0

    recorded = [record.inputs for record in server.records(kind="prediction", service="viewed")]
    rows = [row for row in recorded if row["who"] in ("ann", "bob", "eve")]
    assert {row["level__state"] for row in rows} == {"fresh", "missing", "stale"}
    assert [row["level__age_us"] for row in rows[:2]] == [5 * 60_000_000, 60_000]
    table = pl.DataFrame([*EVENTS, event("ann", 2, 50.0, 9)]).with_columns(
        pl.col("seen_at").str.to_datetime(time_zone="UTC")
    )
    features = ["b", "n_visits", "level__state", "visits__state"]
    log = pl.DataFrame(rows).select("who", "at", *features)[:7]
    views = [(view, table.filter(pl.col("number") != 9)) for view in SERVICE.features]
    joined = join(log.select("who", "at"), "at", views=views)
    assert joined.select(features).rows() == log.select(features).rows()

    report = check_served(
        server.home.journal, SERVICE, tables={view.name: table for view in SERVICE.features}, tolerated=0.0
    )
    found = {each.skew.feature: each for each in report.features}
    assert (found["b"].skew.n_mismatches, found["b"].verdict) == (2, Verdict.REGRESSED)
    assert found["b"].example["served"] == 20.0
    assert found["b"].example["recomputed"] == 100.0
    assert report.skewed == ("n_visits", "b"), "the late event never came to the view of visits"
    assert found["n_visits"].skew.n_mismatches == 5


def test_what_is_no_event_of_the_view_is_refused_in_words(server: Server) -> None:
    with Client(server.control_port) as control:
        answers = [
            push(control, "none", EVENTS[0]),
            push(control, "level", {**EVENTS[0], "level": "much"}),
            push(control, "level", {**EVENTS[0], "seen_at": "2026-01-01T00:00:00"}),
            push(control, "level"),
            control.post("/features/level/events", b"{", JSON),
            control.post("/features/level/events", {"events": [EVENTS[0]]}, "content-type: text/plain\r\n"),
        ]

    codes = [(answer.status, answer.code) for answer in answers]
    assert codes == [
        (404, "not_found"),
        (400, "invalid_feature_data"),
        (400, "invalid_feature_data"),
        *[(400, "invalid_setting")] * 3,
    ]


def test_every_face_and_a_model_in_its_own_process_get_features(server: Server) -> None:
    at = START + timedelta(minutes=1)
    row = {"a": 1.0, "who": "kim", "at": at.isoformat()}
    columns = {"a": [1.0, 2.0], "who": ["kim", "kim"], "at": [at.isoformat()] * 2}
    tensors = [
        {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]},
        {"name": "who", "shape": [2], "datatype": "BYTES", "data": ["kim", "kim"]},
        {"name": "at", "shape": [2], "datatype": "INT64", "data": [int(at.timestamp() * 1e6)] * 2},
    ]
    with Client(server.control_port) as control, server.client() as client:
        push(control, "level", event("kim", 0, 10.0, 1))

        for name in ("viewed", "function"):
            one = client.post(f"/services/{name}/predict", row)
            rows = client.post(f"/services/{name}/predict", {"rows": [row, {**row, "a": 2.0}]})
            whole = client.post(f"/services/{name}/predict", {"columns": columns})
            inferred = client.post(f"/v2/models/{name}/infer", {"inputs": tensors})

            assert one.json()["output"] == {"total": 21.0}
            for answer in (rows, whole):
                assert [each["output"]["total"] for each in answer.json()["rows"]] == [21.0, 22.0]
            assert inferred.json()["outputs"][0]["data"] == [21.0, 22.0]
            described = client.get(f"/v2/models/{name}").json()
            assert [each["name"] for each in described["inputs"]] == ["a", "who", "at"]


def test_callers_neither_see_nor_send_features(server: Server) -> None:
    with server.client() as client:
        document = client.get("/openapi.json")
        row = {"a": 1.0, "who": "x", "at": START.isoformat(), "b": 9.0}
        sent = client.post("/services/viewed/predict", row)

    assert "n_visits" not in document.body.decode()
    assert (sent.status, sent.code) == (422, "contract_violation")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are read from /proc")
def test_worker_has_its_store_and_no_data_frames(server: Server) -> None:
    with server.client() as client:
        ask(client, "zoe", 5)

    for worker in server.workers():
        paths = {each.path for each in psutil.Process(worker.pid).memory_maps()}
        assert any("_sqlite3" in path for path in paths) == (STORE_VARIABLE not in os.environ)
        assert not any("polars" in path for path in paths)
