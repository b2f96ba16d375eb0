"""What happens to the supervisor, or to what it started, ends nothing that serves."""

from __future__ import annotations

import psutil
import pytest

from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Server, running, wait_until
from tidegate.bootstrap.condition import read_conditions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("supervision")) as server:
        add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
        deploy(server, "sum")
        add_function(server, "plain", "return {'total': columns['a']}")
        server.start()
        yield server


def add_function(server: Server, service: str, body: str) -> None:
    add_version(server, service, write_function(server.folder / f"{service}.py", body))
    deploy(server, service)


def status(server: Server, service: str, a: float = 1.0, headers: str = "") -> int:
    with server.client() as client:
        return client.post(f"/services/{service}/predict", {"a": a, "b": 1.0}, headers).status


def test_a_system_that_gives_no_more_processes_ends_nothing_that_runs(server):
    """Descriptors stand for processes: the same call wants them, and one process can be denied them."""
    supervisor = psutil.Process(server.pid)
    before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (4, before[1]))
    try:
        (runner,) = server.child("tidegate.bootstrap.runner")
        runner.kill()
        server.child("tidegate.control")[0].kill()
        add_function(server, "later", "return {'total': columns['a']}")

        for words in (
            "The process control cannot be started: Too many open files",
            "before it began (Too many open files)",  # the runner
        ):
            wait_until(lambda words=words: words in server.said(), what=words)
        assert status(server, "sum") == 200
    finally:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, before)

    for service in ("plain", "later"):
        wait_until(lambda service=service: status(server, service) == 200, what=f"{service} again")
    wait_until(lambda: not read_conditions(server.home), what="the end of it")
