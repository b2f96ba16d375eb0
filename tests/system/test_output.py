"""What a server says goes where nobody listens: it serves on."""

from __future__ import annotations

import os

import pytest

from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Server, wait_until
from tidegate.bootstrap.condition import read_conditions

pytestmark = pytest.mark.slow


def prepare(server: Server) -> None:
    add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
    deploy(server, "sum")
    talker = "if columns['a'][0] < 0:\n    print('x' * 1_000_000, flush=True)\nreturn {'total': columns['a']}"
    add_version(server, "talker", write_function(server.folder / "talker.py", talker))
    deploy(server, "talker")


def status(server: Server, service: str = "sum", a: float = 1.0, headers: str = "") -> int:
    with server.client() as client:
        return client.post(f"/services/{service}/predict", {"a": a, "b": 1.0}, headers).status


def kill_runners_until_told(server: Server) -> None:
    """Have the supervisor tell something."""

    def is_told() -> bool:
        for runner in server.child("tidegate.bootstrap.runner"):
            runner.kill()
        return bool(read_conditions(server.home))

    wait_until(is_told, what="a condition")


def test_a_reader_that_goes_away_ends_nothing(server):
    prepare(server)
    reader, writer = os.pipe()
    server.start(stdout=writer)
    os.close(writer)
    os.close(reader)

    kill_runners_until_told(server)
    server.command("restart")

    assert status(server) == 200
    wait_until(lambda: status(server, "talker") == 200, what="the runner")
    assert server.stop() == 0


def test_a_server_starts_with_its_standard_streams_closed(server):
    prepare(server)
    server.start(wrapped_by=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])

    kill_runners_until_told(server)

    assert status(server) == 200
    assert server.stop() == 0
