"""Clients that are slow, or vanish, and networks that cut: nobody else notices, and the books are right."""

from __future__ import annotations

import json
import socket
import time

import psutil
import pytest

from tests.faults.proxy import FaultProxy
from tests.system.model import add_version, deploy, write_sum
from tests.system.server import Client, request, wait_until

pytestmark = pytest.mark.slow

PATH = "/services/net/predict"
ASK = request(PATH, b'{"a":1,"b":2}')


@pytest.fixture(scope="module")
def net(shared):
    add_version(shared, "net", write_sum(shared.folder / "net.onnx", 0.0))
    deploy(shared, "net")
    shared.wait_ready()
    return shared


def test_connections_that_are_cut_anywhere_leave_the_books_right(net):
    acknowledged, attempts, n_lost = [], 300, 0
    with FaultProxy(net.port, seed=1) as proxy:
        asked = 0
        while asked < attempts:
            try:
                with Client(proxy.port, timeout_s=10) as client:
                    while asked < attempts:
                        asked += 1
                        caller_id = f"cut-{asked}"
                        client.send(request(PATH, b'{"a":1,"b":2}', f"x-request-id: {caller_id}\r\n"))
                        answer = client.receive()
                        assert answer.status == 200, answer.body
                        assert answer.json()["output"] == {"total": 3.0}
                        acknowledged.append((caller_id, answer.json()["prediction_id"]))
            except OSError:
                n_lost += 1
        cut = proxy.n_cut

    assert cut > 20  # it did hurt
    assert n_lost > 20
    assert len(acknowledged) > 100
    wait_until(lambda: len(cut_records(net)) >= len(acknowledged), what="the journal")
    records = cut_records(net)
    by_id = {record.prediction_id: record for record in records}
    assert len(by_id) == len(records)  # none twice
    assert all(by_id[each].caller_id == caller_id for caller_id, each in acknowledged)
    assert len(records) <= attempts  # what was cut off on its way in left nothing half done


def cut_records(server):
    return [each for each in server.records(service="net") if each.caller_id.startswith("cut-")]


def test_clients_that_send_a_byte_at_a_time_hold_nobody_up(net):
    slow = [socket.create_connection(("127.0.0.1", net.port)) for _ in range(400)]
    try:
        for each in slow:
            each.sendall(b"POST /services/net/predict HTTP/1.1\r\nhost: x\r\ncontent-le")
        with net.client() as client:
            for step in range(20):
                for each in slow[step * 20 : step * 20 + 20]:
                    each.sendall(b"n")
                client.send(ASK)
                assert client.receive().status == 200
    finally:
        for each in slow:
            each.close()


def test_a_client_that_never_reads_its_answers_stops_being_read_and_costs_no_memory(net):
    pids = [worker.pid for worker in net.workers()]
    before = sum(resident(pid) for pid in pids)
    with socket.create_connection(("127.0.0.1", net.port)) as greedy:
        greedy.setblocking(False)
        sent, quiet_since = 0, time.monotonic()
        while time.monotonic() - quiet_since < 1.0 and sent < 200 << 20:
            try:
                sent += greedy.send(ASK * 200)
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        with net.client() as client:
            client.send(ASK)
            assert client.receive().status == 200
        assert sent < 100 << 20  # the server took no more than the buffers between us hold
        assert sum(resident(pid) for pid in pids) - before < 60 << 20


def resident(pid):
    return psutil.Process(pid).memory_info().rss


def test_what_a_client_that_has_gone_asked_for_is_not_journalled_as_answered_twice(net):
    with net.client() as client:
        client.send(request(PATH, b'{"a":5,"b":5}', "x-request-id: gone-1\r\n"))
    with net.client() as client:
        answer = client.post(PATH, json.dumps({"a": 5, "b": 5}).encode(), "x-request-id: gone-2\r\n")
        assert answer.status == 200

    wait_until(lambda: found(net, "gone-2"), what="the journal")
    assert found(net, "gone-1") <= 1
    assert found(net, "gone-2") == 1


def found(server, caller_id):
    return sum(each.caller_id == caller_id for each in server.records(service="net"))
