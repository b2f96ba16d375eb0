"""Workers are replaced under load: nobody is refused and nothing fails."""

from __future__ import annotations

import os
import signal

import pytest

from tests.system.model import add_version, deploy, write_sum
from tests.system.server import Client, Crowd, request, wait_until

PATH = "/services/sum/predict"
ASK = request(PATH, b'{"a":1,"b":2}')


class Callers(Crowd):
    """Threads that ask over connections they open anew when an answer says that it was the last one."""

    def __init__(self, port: int, *, n_threads: int = 3, pause_s: float = 0.003) -> None:
        self.answers: list[str] = []
        self.errors: list[str] = []
        self._port, self._pause_s = port, pause_s
        super().__init__(*[self._run] * n_threads)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._ask()
            except (OSError, AssertionError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                return

    def _ask(self) -> None:
        with Client(self._port) as client:
            while not self._stopping.is_set():
                client.send(ASK)
                answer = client.receive()
                assert answer.status == 200, answer.body
                self.answers.append(answer.json()["prediction_id"])
                if b"connection: close" in answer.head.lower():
                    return
                self._stopping.wait(self._pause_s)


@pytest.fixture
def summing(server):
    add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
    deploy(server, "sum", version=1)
    server.start()
    return server


@pytest.mark.slow
def test_a_restart_under_load_refuses_nobody_and_fails_nothing(summing):
    before = {worker.pid for worker in summing.workers()}

    with Callers(summing.port) as callers:
        wait_until(lambda: len(callers.answers) > 200, what="some answers")
        for _ in range(2):
            done = summing.command("restart")
            assert done.returncode == 0, done.stderr
        after = {worker.pid for worker in summing.workers()}
        n_answers = len(callers.answers)
        wait_until(lambda: len(callers.answers) > n_answers + 200, what="answers after the restart")

    assert callers.errors == []
    assert not before & after
    assert len(after) == 2
    wait_until(lambda: summing.tally("sum").requests == len(callers.answers), what="the journal")
    journalled = [record.prediction_id for record in summing.records(service="sum")]
    assert sorted(journalled) == sorted(callers.answers)


@pytest.mark.slow
def test_connections_to_a_worker_that_was_killed_wait_for_the_next(summing):
    clients = summing.client_of_each_worker()
    victim = next(iter(clients))
    os.kill(victim, signal.SIGSTOP)  # its queue fills while it does not accept
    waiting = [Client(summing.port) for _ in range(20)]
    for client in waiting:
        client.send(ASK)

    os.kill(victim, signal.SIGKILL)

    assert [client.receive().status for client in waiting] == [200] * 20
    for client in (*waiting, *clients.values()):
        client.close()


@pytest.mark.slow
def test_a_restart_whose_workers_do_not_come_up_leaves_those_before(summing):
    before = {worker.pid for worker in summing.workers()}
    (summing.home.root / "secret.key").chmod(0o600)
    (summing.home.root / "secret.key").rename(summing.home.root / "secret.away")
    (summing.home.root / "secret.key").mkdir()  # a new worker cannot read its key

    done = summing.command("restart")

    assert done.returncode == 1
    assert "could not take over" in done.stderr
    assert {worker.pid for worker in summing.workers()} == before
    with summing.client() as client:
        client.send(ASK)
        assert client.receive().status == 200


def test_a_restart_without_a_server_is_told(tmp_path, server):
    server.home.root.mkdir(parents=True)

    done = server.command("restart")

    assert done.returncode == 1
    assert "No server runs" in done.stderr
