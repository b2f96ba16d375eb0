"""Models that hold what they should not: nobody but their own callers notices."""

from __future__ import annotations

import threading

import pytest

from tests.system.model import add_version, deploy, roll_back, switch, write_function, write_sum
from tests.system.server import Client, request

pytestmark = pytest.mark.slow

GOOD = request("/services/good/predict", b'{"a":1,"b":2}')


@pytest.fixture(scope="module")
def good(shared):
    add_version(shared, "good", write_sum(shared.folder / "good.onnx", 0.0))
    deploy(shared, "good", version=1)
    shared.wait_ready()
    return shared


def test_a_model_that_holds_the_interpreter_lock_costs_only_its_own_callers(good):
    # PyDLL calls without giving the lock back, as a C extension that forgets to does
    body = """
    ctypes.PyDLL(None).usleep(1_500_000 if columns["a"][0] > 0 else 0)
    return {"total": columns["a"]}
    """
    add_version(good, "holding", write_function(good.folder / "holding.py", body))
    deploy(good, "holding")
    good.wait_ready()
    held = threading.Thread(target=ask_and_leave, args=(good.port, "holding"))
    held.start()
    n_asked = 0
    with good.client(timeout_s=1.0) as client:
        while held.is_alive():
            client.send(GOOD)
            assert client.receive().status == 200  # none of them waited for the second and a half
            assert client.get("/v2/health/live").status == 200
            n_asked += 1
    held.join()

    assert n_asked > 10


def ask_and_leave(port, service):
    with Client(port) as client:
        client.send(request(f"/services/{service}/predict", b'{"a":1,"b":2}'))
        assert client.receive().status == 200


def test_serving_and_rollback_go_on_while_the_artifacts_are_away(good):
    add_version(good, "good", write_sum(good.folder / "good2.onnx", 1000.0))
    assert switch(good, "good", 2).outcome == "committed"
    artifacts = good.home.artifacts
    away = artifacts.with_name("artifacts.away")
    artifacts.rename(away)
    try:
        with good.client() as client:
            client.send(GOOD)
            assert client.receive().json()["version"] == 2
        assert roll_back(good, "good").outcome == "committed"
        for client in good.client_of_each_worker().values():
            with client:
                client.send(GOOD)
                answer = client.receive().json()
                assert (answer["version"], answer["output"]["total"]) == (1, 3.0)
    finally:
        away.rename(artifacts)
