"""Models that raise, lie, hang and die: the caller is told, the journal has it, everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

import tidegate as tg
from tests.system.model import (
    BOUNDED,
    add_version,
    deploy,
    write_function,
    write_ratio,
    write_sum,
)
from tests.system.server import Client, Server, request, running, wait_until

pytestmark = pytest.mark.slow

# Below -1 it does what it should not. At 0 and above it is good: what fails its trial gets no traffic.
UNRULY = """
a = columns['a'].min()
if a == -1:
    raise RuntimeError('out of order')
if a == -2:
    return {'total': columns['a'][1:]}
if a == -3:
    return {'total': ['many'] * len(columns['a'])}
if a == -4:
    return {}
if a == -5:
    return None
if a == -6:
    os._exit(3)
if a == -7:
    ctypes.string_at(0)
if a == -8:
    raise SystemExit(1)
if a == -9:
    time.sleep(1.5)
if a == -10:
    ctypes.PyDLL(None).sleep(3600)
return {'total': columns['a'] + columns['b']}
"""
DEFAULT = {"total": 50.0}


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """While this file is there, the unruly model cannot even be imported."""
    return tmp_path_factory.mktemp("flag") / "broken"


@pytest.fixture(scope="module")
def server(tmp_path_factory, broken):
    """A server of one good service and several bad ones; those ending in -safe have a constant fallback."""
    with running(tmp_path_factory.mktemp("bad")) as server:
        graph = write_sum(server.folder / "sum.onnx", 0.0)
        ratio = write_ratio(server.folder / "ratio.onnx")
        unruly = write_function(server.folder / "unruly.py", UNRULY)
        with unruly.open("a") as file:
            file.write(f"if os.path.exists({str(broken)!r}):\n    os._exit(5)\n")
        safe = {"fallback": [tg.Constant(DEFAULT)]}
        add_version(server, "good", graph)
        add_version(server, "bounded", graph, BOUNDED)
        add_version(server, "bounded-safe", graph, BOUNDED, **safe)
        add_version(server, "ratio", ratio)
        add_version(server, "ratio-safe", ratio, **safe)
        add_version(server, "unruly", unruly)
        add_version(server, "unruly-safe", unruly, **safe)
        for name in ("good", "bounded", "bounded-safe", "ratio", "ratio-safe", "unruly", "unruly-safe"):
            deploy(server, name)
        server.start()
        yield server


class Asked(NamedTuple):
    status: int
    code: str
    answer: dict


def ask(server: Server, service: str, a: float, b: float = 1.0, *, headers: str = "") -> Asked:
    with server.client() as client:
        response = client.post(f"/services/{service}/predict", {"a": a, "b": b}, headers)
    return Asked(response.status, response.code, response.json())


def ask_the_model(server: Server, a: float, *, headers: str = "") -> Asked:
    """Ask the unruly model itself: a worker's breaker may still be open from the case before."""
    return wait_until(
        lambda: (
            found if (found := ask(server, "unruly", a, headers=headers)).code != "breaker_open" else None
        ),
        what="the worker asks the model again",
    )


def is_well(server: Server, service: str) -> bool:
    """Tell whether a service answers what its model is up to, and its breaker lets everybody in."""
    return all(ask(server, service, 2.0).status == 200 for _ in range(6))


@pytest.fixture(scope="module")
def clients(server) -> Iterator[dict[int, Client]]:
    """A connection to each worker, by its process id."""
    found = server.client_of_each_worker()
    yield found
    for client in found.values():
        client.close()


@pytest.fixture(autouse=True)
def bystanders(server, clients):
    """See that no worker is lost, and that another service is answered by each, whatever a model did."""
    yield
    assert pids(server) == set(clients)
    assert all(answers(client, "good") for client in clients.values())


def last_record(server: Server, service: str):
    return server.records(service=service)[-1]


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (-1.0, "raised RuntimeError"),
        (-2.0, "has shape [0], expected [1]"),
        (-3.0, "are not float64"),
        (-4.0, "lacks output field 'total'"),
        (-5.0, "must return a mapping"),
    ],
    ids=["raises", "shape", "type", "lacks", "none"],
)
def test_a_function_that_fails_is_a_journalled_500_with_its_code(server, a, words):
    failed = ask_the_model(server, a)

    assert (failed.status, failed.code) == (500, "predictor_failed")
    assert words in failed.answer["error"]["message"]
    record = last_record(server, "unruly")
    assert (record.error, record.outputs, record.inputs) == ("predictor_failed", {}, {"a": a, "b": 1.0})
    assert "failed" in record.flags
    assert is_well(server, "unruly")


@pytest.mark.parametrize(
    ("service", "a", "b"),
    [("bounded", 99.0, 2.0), ("bounded", -3.0, 2.0), ("ratio", 0.0, 0.0), ("ratio", 1.0, 0.0)],
    ids=["above", "below", "nan", "infinite"],
)
def test_an_answer_against_the_contract_is_a_journalled_500_naming_the_field(server, service, a, b):
    failed = ask(server, service, a, b)

    assert (failed.status, failed.code) == (500, "output_violation")
    assert "'total'" in failed.answer["error"]["message"]
    record = last_record(server, service)
    assert record.error == "output_violation"
    assert {"failed", "invalid"} <= set(record.flags)
    assert is_well(server, service)


def test_one_bad_row_fails_its_own_request_only(server):
    """Requests of one turn share a call of the model, but not its faults."""
    bodies = [(b'{"a":8,"b":2}', 200), (b'{"a":0,"b":0}', 500), (b'{"a":9,"b":3}', 200)] * 5
    with server.client() as client:
        client.send(b"".join(request("/services/ratio/predict", body) for body, _ in bodies))
        statuses = [client.receive().status for _ in bodies]

    assert statuses == [status for _, status in bodies]


def test_a_batch_in_which_one_row_raises_fails_that_request_only(server):
    bodies = [(b'{"a":8,"b":2}', 200), (b'{"a":-1,"b":0}', 500), (b'{"a":9,"b":3}', 200)] * 5
    with server.client() as client:
        client.send(b"".join(request("/services/unruly/predict", body) for body, _ in bodies))
        statuses = [client.receive().status for _ in bodies]

    assert statuses == [status for _, status in bodies]


@pytest.mark.parametrize(
    "a",
    [
        pytest.param(-6.0, id="exit"),
        pytest.param(-7.0, id="segfault", marks=pytest.mark.slow),
        pytest.param(-8.0, id="SystemExit", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_ends_its_process_is_a_journalled_503_and_the_process_returns(server, a):
    wait_until(lambda: is_well(server, "unruly"), what="the runner, from the case before")

    failed = ask_the_model(server, a)

    assert (failed.status, failed.code) == (503, "runner_unavailable")
    assert last_record(server, "unruly").error == failed.code
    wait_until(lambda: is_well(server, "unruly"), what="the runner")


def test_a_model_that_hangs_is_a_504_within_the_time_the_caller_gave(server):
    wait_until(lambda: is_well(server, "unruly"), what="the runner")

    late = ask_the_model(server, -9.0, headers="tidegate-timeout-ms: 200\r\n")

    assert (late.status, late.code) == (504, "deadline_exceeded")
    record = last_record(server, "unruly")
    assert record.error == "deadline_exceeded"
    assert "late" in record.flags
    wait_until(lambda: is_well(server, "unruly"), what="the model is done with what nobody waits for")


@pytest.mark.parametrize(
    ("service", "a", "b", "reason"),
    [
        ("bounded-safe", 99.0, 2.0, "output_violation"),
        ("ratio-safe", 1.0, 0.0, "output_violation"),
        ("unruly-safe", -1.0, 1.0, "predictor_failed"),
        ("unruly-safe", -9.0, 1.0, "deadline_exceeded"),
        ("unruly-safe", -7.0, 1.0, "runner_unavailable"),
    ],
)
def test_a_declared_fallback_answers_and_says_so(server, service, a, b, reason):
    wait_until(lambda: answers_itself(server, service), what="the model itself, behind closed breakers")

    headers = "tidegate-timeout-ms: 400\r\n" if reason == "deadline_exceeded" else ""
    answered = ask(server, service, a, b, headers=headers)

    assert answered.status == 200
    assert answered.answer["output"] == DEFAULT
    assert (answered.answer["answered_by"], answered.answer["reason"]) == ("constant", reason)
    record = last_record(server, service)
    assert record.outputs == DEFAULT
    assert record.answered_by == "constant"
    assert "fallback" in record.flags
    assert "failed" not in record.flags


def answers_itself(server: Server, service: str) -> bool:
    """Tell whether a model answers in every worker, each behind a breaker of its own."""
    return all("answered_by" not in ask(server, service, 2.0).answer for _ in range(20))


def test_a_worker_that_starts_while_a_runner_is_down_serves_what_can_be_served(server, clients, broken):
    broken.touch()
    for runner in server.child("tidegate.bootstrap.runner"):
        runner.kill()
    pid, *_ = clients
    while clients:
        clients.popitem()[1].close()
    psutil.Process(pid).kill()

    wait_until(lambda: len(server.workers()) == 2 and pid not in pids(server), what="a new worker")

    clients.update(server.client_of_each_worker())
    for client in clients.values():
        assert answers(client, "good")
        body = {"a": 1.0, "b": 2.0}
        assert client.post("/services/unruly/predict", body).code == "runner_unavailable"
        safe = client.post("/services/unruly-safe/predict", body).json()
        assert (safe["output"], safe["answered_by"]) == (DEFAULT, "constant")
    broken.unlink()
    for client in clients.values():
        wait_until(lambda client=client: answers(client, "unruly"), what="the runner")


def answers(client: Client, service: str) -> bool:
    return client.post(f"/services/{service}/predict", {"a": 1.0, "b": 2.0}).status == 200


def pids(server: Server) -> set[int]:
    return {worker.pid for worker in server.workers()}


def test_a_model_that_never_answers_is_ended_and_its_process_returns(server):
    """It holds the interpreter's lock as well, so that nothing in its own process can end it."""
    (before,) = runners(server, "unruly")

    late = ask_the_model(server, -10.0, headers="tidegate-timeout-ms: 200\r\n")

    assert (late.status, late.code) == (504, "deadline_exceeded")
    assert before.wait(timeout=60) is None  # not our child: it is only known to be gone
    (after,) = wait_until(lambda: runners(server, "unruly"), what="a new runner")
    _, alive = psutil.wait_procs([after], timeout=5)
    assert alive  # what the one before has left behind is not held against it
    wait_until(lambda: is_well(server, "unruly"), what="the new runner")


def runners(server: Server, service: str) -> list[psutil.Process]:
    route = server.local().routes.read().services[service]
    return [
        each
        for each in server.child("tidegate.bootstrap.runner")
        if any(digest in each.cmdline()[-1] for digest in route.manifests.values())
    ]
