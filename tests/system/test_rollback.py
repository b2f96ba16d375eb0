"""Rollback while everything else is broken: the database and the controller are killed, requests queue up."""

from __future__ import annotations

import signal
import time

import msgspec
import pytest

from tests.system.model import add_version, deploy, write_function
from tests.system.postgresql import postgresql, serving_on
from tests.system.server import Load, request, wait_until
from tidegate.core.lane import NAME
from tidegate.operation.pending import PendingMoves
from tidegate.operation.version import list_decisions, show_version
from tidegate.route.route import CANDIDATE, resize

pytestmark = pytest.mark.slow

SERVICE = "sum"
BODY = 'time.sleep(0.004 * len(columns["a"]))\nreturn {"total": columns["a"] + columns["b"]}'
ASK = request(f"/services/{SERVICE}/predict", b'{"a":1,"b":2}', "tidegate-timeout-ms: 2000\r\n")
"""Two versions answer some 500 of these a second in all; the callers below ask for as many as they get."""


def version_or_refusal(response):
    """Return the version that answered, or the code of a refusal; nothing else may come."""
    if response.status == 200:
        return response.json()["version"]
    assert response.code in {"overloaded", "deadline_exceeded"}, response.body
    return response.code


@pytest.fixture(scope="module")
def database():
    with postgresql() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory, database):
    with serving_on(database, tmp_path_factory.mktemp("dark")) as found:
        for number in (1, 2):
            model = write_function(found.folder / f"v{number}.py", BODY)
            add_version(found, SERVICE, model, sample={"a": [1.0], "b": [2.0]})
        deploy(found, SERVICE, version=1)
        found.start()
        give_half(found)
        yield found


def give_half(server):
    """Give version 2 half of the keys, as a release does once it is ready everywhere."""
    with server.local() as local:
        routes, known = local.routes, {2: show_version(local.unit, SERVICE, number=2).manifest}
    routes.change(
        SERVICE,
        lambda old: msgspec.structs.replace(old, standby=(2,), manifests={**old.manifests, **known}),
    )
    wait_until(lambda: all(2 in each.of(SERVICE).ready for each in server.workers()))
    routes.change(SERVICE, lambda old: resize(old, CANDIDATE, share=0.5, version=2))
    server.wait_ready()


def test_rollback_in_the_dark_fails_no_request_and_is_told_of_later(server, database):
    with Load(server.port, ASK, version_or_refusal, n_threads=24, pause_s=0.0) as asked:
        wait_until(lambda: asked.results.count(2) > 50 or asked.errors)
        database.kill()
        for process in server.child("tidegate.control"):
            process.kill()
        done = server.command("rollback", "--reason", "in the dark")
        n_before = len(asked.results)
        wait_until(lambda: asked.results[n_before:].count(1) > 50 or asked.errors)

    assert done.returncode == 0, done.stderr
    assert f"Version 1 of {SERVICE} has all the traffic again." in done.stdout
    assert "waits in a file" in done.stderr
    assert asked.errors == []
    assert 2 not in asked.results[n_before:]  # the command ends when the workers follow
    assert [latch.version for latch in server.local().routes.read().services[SERVICE].latched] == [2]

    database.start()

    def told() -> list[tuple[str, str, str]]:
        with server.local() as local:
            kept = [one.decision for one in list_decisions(local.unit, SERVICE)]
        return [(one.kind, one.outcome, one.reason) for one in kept]

    wait_until(
        lambda: told()[-1] == ("rollback", "committed", "in the dark"), what="the controller to keep it"
    )
    cleared = server.command("latch", "clear", SERVICE, 2)
    assert cleared.returncode == 0, cleared.stderr
    assert [kind for kind, _, _ in told()][-2:] == ["rollback", "clear-latch"]


def test_the_controller_rolls_back_for_a_command_but_not_late(server):
    wait_until(lambda: server.child("tidegate.control") and (server.home.run / NAME).exists())
    (controller,) = server.child("tidegate.control")
    notes = PendingMoves(server.home.run / "pending")

    controller.send_signal(signal.SIGSTOP)
    try:
        give_half(server)
        alone = server.command("rollback")
        by_whom = [notes.all()[-1].pid]
        assert server.command("latch", "clear", SERVICE, 2).returncode == 0
        give_half(server)
    finally:
        controller.send_signal(signal.SIGCONT)
    time.sleep(1.0)  # what it was asked while it was stopped reaches it now
    left = server.local().routes.read().services[SERVICE]
    asked = server.command("rollback", "--reason", 'it was "slow"')
    by_whom.append(notes.all()[-1].pid)

    told = f"Version 1 of {SERVICE} has all the traffic again. Version 2 was taken away and is latched.\n"
    assert (alone.stdout, asked.stdout) == (told, told)
    assert [arm.version for arm in left.arms if arm.parts] == [1, 2]
    assert (by_whom[0] != controller.pid, by_whom[1] == controller.pid) == (True, True)
    assert notes.all()[-1].decision.reason == 'it was "slow"'
    assert server.command("latch", "clear", SERVICE, 2).returncode == 0
