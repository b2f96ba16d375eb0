"""What happens to the supervisor, or to what it started, ends nothing that serves."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Server, can_connect, running, wait_until
from tidegate.bootstrap.condition import read_conditions
from tidegate.bootstrap.supervisor import read_record

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
    (control,) = wait_until(lambda: server.child("tidegate.control"), what="the control plane")
    supervisor = psutil.Process(server.pid)
    before = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (4, before[1]))
    try:
        (runner,) = server.child("tidegate.bootstrap.runner")
        runner.kill()
        control.kill()
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


def plain_runner(server: Server) -> psutil.Process:
    digests = server.local().routes.read().services["plain"].manifests.values()
    return next(
        each
        for each in server.child("tidegate.bootstrap.runner")
        if any(digest in each.cmdline()[-1] for digest in digests)
    )


def test_a_runner_that_stands_still_between_calls_is_replaced(server):
    wait_until(lambda: status(server, "plain") == 200, what="the service")
    runner = plain_runner(server)
    runner.suspend()

    wait_until(lambda: not runner.is_running(), what="its end")

    wait_until(lambda: status(server, "plain") == 200, what="the next runner")


def test_the_folder_of_sockets_is_made_again(server):
    record = read_record(server.home)
    shutil.rmtree(record.sockets)

    plain_runner(server).kill()

    wait_until(lambda: status(server, "plain") == 200, what="the next runner")
    assert Path(record.sockets).stat().st_mode & 0o777 == 0o700


def test_a_terminal_that_hangs_up_ends_no_process_that_serves(server):
    modules = ("tidegate.bootstrap.worker", "tidegate.bootstrap.runner", "tidegate.control")
    # each connection reaches one of the workers: so many in a row reach all
    wait_until(lambda: all(status(server, "plain") == 200 for _ in range(12)), what="the service")
    wait_until(lambda: can_connect(server.control_port), what="the control port")
    before = [each for module in modules for each in server.child(module)]

    for each in before:
        each.send_signal(signal.SIGHUP)

    with server.client() as client:
        assert client.get("/v2/health/live").status == 200
    assert status(server, "plain") == 200
    time.sleep(1.0)
    assert [each for module in modules for each in server.child(module)] == before


def test_a_runner_that_stands_still_keeps_no_server_from_its_end(server):
    wait_until(lambda: status(server, "plain") == 200, what="the service")
    plain_runner(server).suspend()
    began_s = time.monotonic()

    assert server.stop() == 0
    assert time.monotonic() - began_s < 15  # not the 20 s that workers have
