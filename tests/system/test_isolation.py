"""Models in processes of their own: bounded, replaced, kept from what they do not survive."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

import tidegate as tg
from tests.system.model import PAIR, add_version, deploy, write_function
from tests.system.server import Server, can_connect, request, running, wait_until
from tidegate.bootstrap.condition import read_conditions
from tidegate.bootstrap.stage import stage_path

pytestmark = pytest.mark.slow

FRAGILE = """
a = columns['a']
if (a == -6).any():
    os._exit(3)
return {'total': a + columns['b']}
"""
HANGING = """
if (columns['a'] == -7).any():
    time.sleep(3600)
return {'total': columns['a'] + columns['b']}
"""
LEAKING = """
global kept
kept = globals().get('kept', [])
if (columns['a'] == -8).any():
    kept.append(np.ones(4_000_000))
return {'total': columns['a'] + columns['b']}
"""


def runners(server: Server, service: str) -> list[psutil.Process]:
    digests = server.local().routes.read().services[service].manifests.values()
    return [
        each
        for each in server.child("tidegate.bootstrap.runner")
        if any(digest in each.cmdline()[-1] for digest in digests)
    ]


def ask(server: Server, service: str, a: float, *, headers: str = ""):
    body = {"a": a, "b": 1.0}
    with server.client() as client:
        return client.post(f"/services/{service}/predict", body, headers)


def is_well(server: Server, service: str) -> bool:
    """Tell whether a service answers, and its breaker lets everybody in again."""
    return all(ask(server, service, 2.0).status == 200 for _ in range(6))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of models that misbehave each in one way."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("iso"), n_workers=1) as server,
    ):
        patch.setenv("TIDEGATE_CELL", "local")
        flag = server.folder / "broken"
        bodies = {"fragile": FRAGILE, "hanging": HANGING, "leaking": LEAKING, "looping": FRAGILE}
        for name, body in bodies.items():
            path = write_function(server.folder / f"{name}.py", body)
            if name == "looping":
                with path.open("a") as file:
                    file.write(f"if os.path.exists({str(flag)!r}):\n    os._exit(5)\n")
            options = {"placement": tg.Placement(memory_mb=200, nice=3)} if name == "leaking" else {}
            add_version(server, name, path, PAIR, **options)
            deploy(server, name)
        server.start()
        yield server


def test_a_runner_inherits_no_socket_and_no_secret(server):
    (runner,) = runners(server, "leaking")

    assert runner.net_connections("tcp") == []
    assert not [name for name in runner.environ() if name.startswith("TIDEGATE_")]
    assert runner.nice() == psutil.Process(server.pid).nice() + 3


def test_an_input_that_ends_the_process_is_refused_and_nobody_else(server):
    wanted = {"a": 2.0, "b": 1.0}
    for _ in range(2):
        wait_until(lambda: is_well(server, "fragile"), what="the runner")
        assert ask(server, "fragile", -6.0).code == "runner_unavailable"
    wait_until(lambda: is_well(server, "fragile"), what="the runner")
    before = runners(server, "fragile")

    refused = ask(server, "fragile", -6.0)
    bodies = [(b'{"a":2,"b":1}', 200), (b'{"a":-6,"b":1}', 422)] * 4
    with server.client() as client:
        client.send(b"".join(request("/services/fragile/predict", body) for body, _ in bodies))
        answers = [client.receive() for _ in bodies]
        statuses = [answer.status for answer in answers]

    assert (refused.status, refused.code) == (422, "quarantined_input")
    assert statuses == [status for _, status in bodies], answers
    assert runners(server, "fragile") == before
    assert ask(server, "fragile", wanted["a"]).json()["output"] == {"total": 3.0}


def test_a_call_that_hangs_ends_with_the_last_deadline_of_those_who_wait_for_it(server):
    (before,) = runners(server, "hanging")
    began_s = time.monotonic()

    late = ask(server, "hanging", -7.0, headers="tidegate-timeout-ms: 300\r\n")

    assert (late.status, late.code) == (504, "deadline_exceeded")
    before.wait(timeout=20)  # not half a minute, which nobody's time bounds
    assert time.monotonic() - began_s < 20
    wait_until(lambda: ask(server, "hanging", 2.0).status == 200, what="the next runner")


def test_a_call_may_take_longer_than_half_a_minute_where_its_caller_waits(server):
    """The bound of a call that nobody's deadline bounds is no bound of others."""
    slow = write_function(
        server.folder / "slow.py",
        "time.sleep(33 if columns['a'][0] < 0 else 0)\nreturn {'total': columns['a']}",
    )
    add_version(server, "slow", slow)
    deploy(server, "slow")
    wait_until(lambda: ask(server, "slow", 1.0).status == 200, what="the slow service")

    with server.client(timeout_s=60) as client:
        answer = client.post(
            "/services/slow/predict", {"a": -1.0, "b": 1.0}, "tidegate-timeout-ms: 55000\r\n"
        )

    assert answer.json()["output"] == {"total": -1.0}


def test_a_model_that_leaks_is_replaced_while_it_serves_and_no_request_fails(server):
    (before,) = runners(server, "leaking")
    statuses = set()

    def is_replaced() -> bool:
        # time enough for a busy machine: what is asked is that none fails
        statuses.add(ask(server, "leaking", -8.0, headers="tidegate-timeout-ms: 20000\r\n").status)
        time.sleep(0.1)
        return not before.is_running() and bool(runners(server, "leaking"))

    wait_until(is_replaced, what="a new runner")

    assert statuses == {200}
    wait_until(
        lambda: any(one.state == "recycled" for one in read_conditions(server.home)), what="the condition"
    )


def test_a_model_that_does_not_come_up_keeps_no_other_from_being_served(tmp_path):
    slow = tmp_path / "slow"
    with running(tmp_path, n_workers=1) as server:
        for name, head in (
            ("good", ""),
            ("slow", f"while os.path.exists({str(slow)!r}):\n    time.sleep(0.1)\n"),
        ):
            path = write_function(server.folder / f"{name}.py", "return {'total': columns['a'] + 0}")
            path.write_text(f"import os, time\n{head}" + path.read_text())
            add_version(server, name, path)
            deploy(server, name)
        server.start()
        server.stop()
        slow.touch()
        (digest,) = server.local().routes.read().services["slow"].manifests.values()
        stage_path(server.home, digest).unlink()  # so that it is tried once more, which may take ten minutes

        server.start(ready=False)
        wait_until(lambda: can_connect(server.port), what="the port")

        assert ask(server, "good", 2.0).json()["output"] == {"total": 2.0}
        assert ask(server, "slow", 2.0, headers="tidegate-timeout-ms: 500\r\n").status == 503
        slow.unlink()
        wait_until(lambda: ask(server, "slow", 2.0).status == 200, what="the slow one")


def test_a_crash_loop_is_kept_away_for_longer_and_longer_and_said_so(server):
    flag = server.folder / "broken"
    flag.touch()
    (runner,) = runners(server, "looping")
    runner.kill()

    def quarantined() -> list[str]:
        return [one.words for one in read_conditions(server.home) if one.state == "quarantined"]

    words = wait_until(quarantined, what="the condition")

    assert "runner of looping version 1 has died" in words[0]
    assert words[0] in server.command("status").stdout or "quarantined" in server.command("status").stdout
    flag.unlink()
    wait_until(lambda: ask(server, "looping", 2.0).status == 200, what="the runner returns")
    wait_until(lambda: not quarantined(), what="its end, after a steady while")


def test_a_worker_that_starts_while_a_model_is_down_takes_it_and_one_that_answers_otherwise_later(server):
    down = server.folder / "down"
    bodies = {
        "store": f"assert not os.path.exists({str(down)!r}), 'down'\nreturn {{'total': columns['a'] + 0}}",
        "lying": f"return {{'total': columns['a'] + os.path.exists({str(down)!r})}}",
    }
    sample = {"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}
    for name, body in bodies.items():
        path = write_function(server.folder / f"{name}.py", body)
        add_version(server, name, path, sample=sample, fallback=[tg.Constant({"total": -7.0})])
        deploy(server, name)
        wait_until(lambda name=name: is_well(server, name), what=name)
    down.touch()
    (worker,) = server.workers()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: server.workers() and server.workers()[0].pid != worker.pid, what="the next worker")

    assert ask(server, "store", 5.0).json()["output"] == {"total": -7.0}
    assert ask(server, "lying", 5.0).code == "not_ready", "no fallback knows of a wrong answer"
    with server.client() as client:
        assert "down" in client.get("/v2/models/store/ready").body.decode()

    down.unlink()
    for name in bodies:
        wait_until(
            lambda name=name: ask(server, name, 5.0).json().get("output") == {"total": 5.0},
            what=f"{name} is asked again",
        )


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_what_a_model_has_forked_holds_no_caller_and_ends_with_its_runner(server, leaves_the_group):
    service = f"forking_{leaves_the_group}".lower()
    body = f"""
    if columns['a'][0] == -9:
        if os.fork() == 0:
            if {leaves_the_group}:
                os.setsid()
            time.sleep(3600)
            os._exit(0)
        time.sleep(0.5)
    if columns['a'][0] == -10:
        os.abort()
    return {{'total': columns['a']}}
    """
    add_version(server, service, write_function(server.folder / f"{service}.py", body))
    deploy(server, service)
    wait_until(lambda: ask(server, service, 1.0).status == 200, what="the service")
    assert ask(server, service, -9.0).status == 200
    _, forked = sorted(runners(server, service), key=lambda each: each.ppid() != server.pid)

    assert forked.net_connections("unix") == []
    assert ask(server, service, -10.0).code == "runner_unavailable"  # nobody's socket stays open
    wait_until(lambda: is_well(server, service), what="the next runner")
    if leaves_the_group:
        forked.terminate()  # the runner's own way to take a signal is not the fork's
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # not every machine's first process reaps orphans
    wait_until(lambda: not forked.is_running() or forked.status() in ended, what="the end of what it forked")
