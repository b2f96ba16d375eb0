"""A service that is loaded for a request treats it as it would have, had it been loaded before."""

import asyncio
import gzip
import json

import numpy as np
import pytest

from tests.serving.http.harness import Service, contract_of, scalar, serving
from tidegate.contract.objective import Limits
from tidegate.contract.schema import DataType
from tidegate.serving.http.cold import ColdHandler, Waiting
from tidegate.serving.http.face import resources

CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])
LOAD_S = 0.05
NATIVE, PROTOCOL = "/services/lazy/predict", "/v2/models/lazy/infer"
TENSOR = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}


def lazy(**more):
    return Service("lazy", CONTRACT, lambda batch: {"y": np.asarray(batch["x"])}, **more)


def close(server):
    """Have the service loaded by the next request for it."""
    metrics = server.folder / "metrics"

    async def load(name):
        await asyncio.sleep(LOAD_S)
        server.site.publish(resources(server.plane, metrics=metrics))

    def on_demand(method, path):
        return ColdHandler(
            "lazy",
            load=load,
            find=server.site.find,
            limits=lambda name: server.plane.endpoints[name].stable.limits,
            waiting=Waiting(),
            is_protocol=path.startswith(b"/v2/"),
            loop=server.loop,
        )

    def withdraw():
        server.site.on_demand = on_demand
        server.site.publish({})

    server.in_loop(withdraw)


def row_of(n_bytes):
    return b'{"x": 1.0%b}' % (b" " * (n_bytes - len(b'{"x": 1.0}')))


SMALL, LARGE = Limits(max_body_bytes=2000), Limits(max_body_bytes=64 << 20)


@pytest.mark.parametrize(
    ("limits", "body", "headers", "expected"),
    [
        (SMALL, row_of(2000), {}, 200),
        (SMALL, row_of(2001), {}, 413),
        (SMALL, gzip.compress(row_of(2000)), {"Content-Encoding": "gzip"}, 200),
        (SMALL, gzip.compress(row_of(2001)), {"Content-Encoding": "gzip"}, 413),
        (SMALL, gzip.compress(np.random.default_rng(1).bytes(1990)), {"Content-Encoding": "gzip"}, 413),
        (LARGE, row_of(17 << 20), {}, 200),
        (SMALL, row_of(100), {"Content-Length": "0" * 5000 + "100"}, 200),
    ],
    ids=[
        "at the bound",
        "above it",
        "zipped",
        "unzipped above it",
        "above it as sent",
        "above the usual",
        "zeros",
    ],
)
def test_a_body_has_the_same_bound_whether_its_service_is_loaded_or_not(
    tmp_path, limits, body, headers, expected
):
    with serving(tmp_path, lazy(limits=limits)) as server:
        warm, *_ = server.request("POST", NATIVE, body, headers)
        close(server)
        cold, answer, _ = server.request("POST", NATIVE, body, headers)

    assert (warm, cold) == (expected, expected), answer


def test_outcomes_have_their_own_bound_while_a_service_is_not_loaded(tmp_path):
    prediction = "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"
    outcomes = json.dumps({"outcomes": [{"prediction_id": prediction, "value": "a" * 3000}]}).encode()
    with serving(tmp_path, lazy(limits=SMALL)) as server:
        close(server)

        assert server.request("POST", "/services/lazy/outcomes", outcomes)[0] == 202


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (NATIVE, {"x": 1.0}, {"tidegate-timeout-ms": "3000"}),
        (NATIVE, {"x": 1.0}, {}),
        (PROTOCOL, {"inputs": [TENSOR]}, {"tidegate-timeout-ms": "3000"}),
        (PROTOCOL, {"inputs": [TENSOR], "parameters": {"timeout": 3_000_000}}, {}),
    ],
)
def test_what_loading_takes_is_taken_from_the_time_of_the_request(tmp_path, path, body, headers):
    service = lazy(held=True, limits=Limits(deadline_ms=3000))
    left_s = []
    with serving(tmp_path, service) as server:
        executor = service.executors[0]

        def answer(group, done):
            left_s.extend(call.deadline_s - call.started_s for call in group.calls)
            group.outputs = executor._predictor.predict(group.inputs)
            done(group)

        executor.submit = answer
        close(server)
        assert server.request("POST", path, body, headers)[0] == 200
        assert server.request("POST", path, body, headers)[0] == 200

    cold_s, warm_s = left_s
    assert warm_s == pytest.approx(3.0)
    assert 0 < cold_s <= 3.0 - LOAD_S * 0.9


def test_a_request_whose_time_is_over_once_its_service_is_loaded_is_refused(tmp_path):
    with serving(tmp_path, lazy(limits=Limits(deadline_ms=LOAD_S * 500))) as server:
        close(server)

        status, answer, headers = server.request("POST", NATIVE, {"x": 1.0})

        assert (status, answer["error"]["code"]) == (503, "not_ready")
        assert headers["retry-after"] == "1"
