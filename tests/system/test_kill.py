"""kill -9 of every process of a server under load: what was answered is in the journal, exactly once."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import time
from collections import Counter
from functools import partial

import psutil
import pytest

from tests.system.model import add_version, write_sum
from tests.system.server import Client, Crowd, request, running, wait_until
from tidegate.journal.reader import End
from tidegate.operation.journal import check_segments, prediction_ids

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

PATH = "/services/sum/predict"
_ID = re.compile(rb'"prediction_id":"([^"]+)"')
_ONE = request(PATH, b'{"a":1,"b":2}')
_MANY = request(PATH, b'{"rows":[' + b",".join([b'{"a":1,"b":2}'] * 12) + b"]}")


class Callers(Crowd):
    """Threads that ask and ask, each over one connection at a time, and keep the ids they were given."""

    def __init__(self, port: int, *, pause_s: float = 0.0) -> None:
        self._port = port
        self._pause_s = pause_s
        self._ids: list[list[bytes]] = []
        self.n_lost_connections = 0
        self.refused: list[bytes] = []
        # one row, one row pipelined, and several rows a request
        shapes = [(_ONE, 1), (_ONE, 8), (_MANY, 1), (_MANY, 2)]
        super().__init__(*(partial(self._call, *shape) for shape in shapes))

    @property
    def n_acknowledged(self) -> int:
        return sum(map(len, self._ids))

    @property
    def acknowledged(self) -> list[str]:
        return [each.decode() for ids in self._ids for each in ids]

    def _call(self, data: bytes, n_pipelined: int) -> None:
        ids: list[bytes] = []
        self._ids.append(ids)
        while not self._stopping.is_set():
            try:
                with Client(self._port) as client:
                    self._converse(client, ids, data * n_pipelined, n_pipelined)
            except ConnectionError:
                self.n_lost_connections += 1
                time.sleep(0.01)

    def _converse(self, client: Client, ids: list[bytes], data: bytes, n_pipelined: int) -> None:
        while not self._stopping.is_set():
            client.send(data)
            for _ in range(n_pipelined):
                response = client.receive()
                if response.status == 200:
                    ids += _ID.findall(response.body)
                else:
                    self.refused.append(response.body)
            self._stopping.wait(self._pause_s)


def kill_one(server, draw) -> None:
    """Kill a worker that serves, chosen and timed at random."""
    victim = draw.choice(wait_until(server.workers, what="a living worker"))
    time.sleep(draw.random() * 0.05)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(victim.pid).kill()


@pytest.mark.parametrize(
    ("n_predictions", "n_kills", "n_workers"),
    [
        pytest.param(5_000, 2, 2, id="5k"),
        pytest.param(100_000, 12, 3, id="100k", marks=pytest.mark.slow),
    ],
)
def test_every_acknowledged_prediction_is_journalled_and_counted_exactly_once(
    tmp_path, n_predictions, n_kills, n_workers
):
    draw = random.Random(n_predictions)
    with running(tmp_path, n_workers=n_workers) as server:
        add_version(server, "sum", write_sum(tmp_path / "sum.onnx", 0.0))
        server.start()
        # few predictions leave the machine to the processes that start; many take it all
        with Callers(server.port, pause_s=0.002 if n_kills < 5 else 0.0) as callers:
            marks = sorted(draw.sample(range(n_predictions // 10, n_predictions), n_kills))
            for number, mark in enumerate(marks):
                wait_until(lambda mark=mark: callers.n_acknowledged >= mark, within_s=120, what=f"{mark} ids")
                kill_one(server, draw)
                if number == n_kills // 2:  # the tailer, in the middle of its counting
                    wait_until(lambda: server.tally("sum").rows)
                    (control,) = wait_until(lambda: server.child("tidegate.control"))
                    control.kill()
            server.wait_ready()  # those that were killed are back
            wait_until(lambda: callers.n_acknowledged >= n_predictions, within_s=120, what="all ids")
            left = server.kill_supervisor()
        server.start()  # at once, as whatever watches over a server does
        gone, alive = psutil.wait_procs(left, timeout=40)
        assert not alive, f"they go on without a supervisor: {alive}"
        assert len(gone) >= n_workers  # the control process may be between two lives
        with Callers(server.port) as later:
            wait_until(lambda: later.n_acknowledged >= 100)
        n_journalled = sum(1 for _ in prediction_ids(server.home.journal, "sum"))
        wait_until(lambda: server.tally("sum").rows >= n_journalled, what="the tailer catches up")
        server.stop()

        journalled = Counter(prediction_ids(server.home.journal, "sum"))
        acknowledged = callers.acknowledged + later.acknowledged
        _log.info(
            "%d acknowledged, %d journalled, %d connections lost",
            len(acknowledged),
            len(journalled),
            callers.n_lost_connections,
        )
        assert len(acknowledged) >= n_predictions
        assert callers.n_lost_connections > 0
        assert not callers.refused
        assert not later.refused
        assert len(set(acknowledged)) == len(acknowledged)
        assert [each for each in acknowledged if journalled[each] != 1] == []
        assert max(journalled.values()) == 1
        assert server.tally("sum").rows == len(journalled)


def test_a_worker_killed_with_a_request_under_way_fails_it_at_once_and_leaves_a_whole_segment(server):
    add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
    server.n_workers = 1
    server.start()
    (worker,) = server.workers()
    process = psutil.Process(worker.pid)
    with server.client() as client:
        answered = client.post(PATH, {"rows": [{"a": 1, "b": 2}] * 3}).json()
        process.suspend()  # the request is with it when it dies
        client.send(_ONE)
        process.kill()
        with pytest.raises(ConnectionError):
            client.receive()
    wait_until(lambda: [each for each in server.workers() if each.pid != worker.pid], what="a new worker")
    with server.client() as client:
        last = client.post(PATH, {"a": 1, "b": 2}).json()
    server.stop()

    ends = [each.end for each in check_segments(server.home.journal, server.home.ledger)]

    assert ends == [End.ENDED, End.COMPLETE]
    told = [*(row["prediction_id"] for row in answered["rows"]), last["prediction_id"]]
    assert list(prediction_ids(server.home.journal, "sum")) == told


def test_a_worker_that_stands_still_is_replaced(server):
    add_version(server, "sum", write_sum(server.folder / "sum.onnx", 0.0))
    server.start()
    stuck, other = server.workers()
    clients = server.client_of_each_worker()
    psutil.Process(stuck.pid).suspend()
    clients[stuck.pid].send(_ONE)

    assert psutil.Process(stuck.pid).wait(timeout=60) is None  # not our child: it is only known to be gone

    with clients[stuck.pid] as client, pytest.raises(ConnectionError):
        client.receive()
    with clients[other.pid] as client:
        assert client.post(PATH, {"a": 1, "b": 2}).status == 200
    server.wait_ready()
    assert other.pid in {worker.pid for worker in server.workers()}
