"""Services that are loaded when they are asked for, and closed again when memory runs short."""

from __future__ import annotations

import pytest

from tests.system.model import add_version, deploy, switch, write_function, write_sum
from tests.system.server import Server, running, wait_until

pytestmark = pytest.mark.slow

N_SERVICES = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of more services than are all kept loaded, whose memory suffices for none to stay."""
    with pytest.MonkeyPatch.context() as patch, running(tmp_path_factory.mktemp("many")) as server:
        patch.setenv("TIDEGATE_ON_DEMAND_ABOVE", "4")
        patch.setenv("TIDEGATE_MEMORY_MB", "1")
        for number in range(N_SERVICES):
            graph = write_sum(server.folder / f"sum{number}.onnx", float(number))
            add_version(server, f"s{number}", graph)
            deploy(server, f"s{number}")
        server.start(ready=False)  # a worker says nothing of services that nobody has asked for
        wait_until(lambda: "Ready after" in server.said(), what="the server")
        yield server


def total(server: Server, service: str) -> float:
    with server.client() as client:
        response = client.post(f"/services/{service}/predict", {"a": 1.0, "b": 2.0})
    assert response.status == 200, response.body
    return float(response.json()["output"]["total"])


def test_every_service_answers_and_none_is_loaded_before(server):
    with server.client() as client:
        assert client.get("/v2/health/ready").status == 200
    assert all(worker.services == {} for worker in server.workers())

    for _ in range(3):
        assert [total(server, f"s{number}") for number in range(N_SERVICES)] == [
            3.0 + number for number in range(N_SERVICES)
        ]


def test_a_service_of_no_name_is_not_found(server):
    with server.client() as client:
        missing = client.post("/services/none/predict", {"a": 1.0, "b": 2.0})

    assert (missing.status, missing.code) == (404, "unknown_service")


def test_a_switch_loads_the_next_version_everywhere_first(server):
    second = add_version(server, "s3", write_sum(server.folder / "next.onnx", 100.0))

    decision = switch(server, "s3", second.number)

    assert decision.outcome == "committed", decision
    for _ in range(4):
        assert total(server, "s3") == 103.0


def test_a_switch_to_a_version_that_cannot_load_is_refused_and_the_next_attempt_tries_anew(server):
    flag = server.folder / "whole"
    body = f"return {{'total': columns['a'] + 7 if os.path.exists({str(flag)!r}) else None}}"
    broken = add_version(server, "s4", write_function(server.folder / "broken.py", body))

    failed = switch(server, "s4", broken.number)
    flag.touch()
    again = switch(server, "s4", broken.number)  # at once: what failed before is past

    assert failed.outcome == "aborted"
    assert again.outcome == "committed", again
    wait_until(lambda: total(server, "s4") == 8.0, what="the new version")
