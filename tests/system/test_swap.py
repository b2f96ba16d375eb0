"""Versions change under load: nothing is lost, nothing is mixed, and what cannot serve gets no traffic."""

from __future__ import annotations

import json
import logging
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.system.model import (
    add_manifest,
    add_version,
    deploy,
    manifest_of,
    roll_back,
    switch,
    write_function,
    write_sum,
)
from tests.system.server import Load, Response, request, wait_until
from tidegate.bootstrap.stage import read_stage
from tidegate.core.error import TidegateError
from tidegate.operation.release import unlatch
from tidegate.operation.version import list_decisions, list_versions
from tidegate.release.move import Latched

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
PATH = "/services/sum/predict"
ASK = request(PATH, b'{"rows":[{"a":1,"b":2},{"a":3,"b":4},{"a":5,"b":6}]}')
SUMS = [3.0, 7.0, 11.0]
STEP = 1000.0
"""Version n adds n times this, so that an answer tells which version gave it."""

N_SWITCHES = 20
FOLLOW_S = 0.25


def version_of(response: Response) -> int:
    """Return the version that an answer names, after seeing that each of its rows is that version's."""
    assert response.status == 200, response.body
    answer = response.json()
    version = answer["version"]
    assert [row["output"]["total"] for row in answer["rows"]] == [one + version * STEP for one in SUMS]
    return int(version)


def load(server, *, n_threads: int = 2, pause_s: float = 0.005) -> Load:
    return Load(server.port, ASK, version_of, n_threads=n_threads, pause_s=pause_s)


def answering(server) -> int:
    """Return the version that every worker answers by."""
    versions = set()
    for client in server.client_of_each_worker().values():
        with client:
            client.send(ASK)
            versions.add(version_of(client.receive()))
    (version,) = versions
    return version


@pytest.fixture(scope="module")
def server(shared):
    """A server of service `sum` with versions 1 to 3, of which 1 has the traffic at first."""
    for number in (1, 2, 3):
        model = write_sum(shared.folder / f"v{number}.onnx", number * STEP)
        add_version(shared, "sum", model, sample={"a": [1.0, 3.0], "b": [2.0, 4.0]})
    deploy(shared, "sum", version=1)
    shared.wait_ready()
    return shared


def test_each_answer_is_journalled_under_the_version_it_named(server):
    before = Counter(record.version for record in server.records(service="sum"))
    with load(server) as asked:
        switch(server, "sum", 2)
        switch(server, "sum", 3)

    after = Counter(record.version for record in server.records(service="sum"))
    answered = Counter(version for version in asked.results for _ in SUMS)
    assert asked.errors == []
    assert after - before == answered


def test_switches_under_load_fail_no_request_and_mix_no_versions(server):
    waits_s = []
    before = answering(server)
    with load(server, n_threads=8, pause_s=0.0) as asked:
        for number in range(N_SWITCHES):
            version = 2 + number % 2
            decision = switch(server, "sum", version)
            assert decision.outcome == "committed", decision.reason
            (follow,) = [one for one in decision.evidence if one.rule == "workers-follow"]
            assert follow.verdict == "safe", follow.reason
            waits_s.append(follow.statistic)
            n_before = len(asked.results)
            wait_until(lambda n=n_before: len(asked.results) > n + 50 or asked.errors)

    assert asked.errors == []
    assert {2, 3} <= set(asked.results) <= {before, 2, 3}
    _log.info(
        "%d switches, %d answers; all workers follow after %.0f ms (median), %.0f ms (most)",
        len(waits_s),
        len(asked.results),
        statistics.median(waits_s) * 1000,
        max(waits_s) * 1000,
    )
    assert statistics.median(waits_s) <= FOLLOW_S, waits_s
    assert answering(server) == version


def test_switch_and_rollback_by_commands_under_load(server):
    switch(server, "sum", 2)
    with load(server) as asked:
        switched = server.command("switch", "sum", 1, "--json")
        back = server.command("rollback", "sum", "--json")

    assert asked.errors == []
    assert json.loads(switched.stdout)["decision"]["outcome"] == "committed", switched.stderr
    assert json.loads(back.stdout)["decision"]["outcome"] == "committed", back.stderr
    assert answering(server) == 2
    assert set(asked.results) == {1, 2}

    with pytest.raises(Latched):
        switch(server, "sum", 1)
    assert answering(server) == 2
    cleared = server.command("switch", "sum", 1, "--clear-latch")
    assert cleared.returncode == 0, cleared.stderr
    assert answering(server) == 1


@pytest.fixture
def no_database(server):
    """While this lasts, the metadata database is no database."""
    database = server.home.root / "metadata.db"
    aside = database.with_name("aside")
    files = [path for path in server.home.root.iterdir() if path.name.startswith(database.name)]
    aside.mkdir()
    for path in files:
        path.rename(aside / path.name)
    database.write_bytes(b"this is no database" * 100)

    def restore() -> None:
        if aside.exists():
            for path in server.home.root.glob(f"{database.name}*"):
                path.unlink()
            for path in aside.iterdir():
                path.rename(server.home.root / path.name)
            aside.rmdir()

    yield restore
    restore()


def test_without_the_database_nothing_moves_forward_and_a_rollback_works(server, no_database):
    start = answering(server)
    with load(server) as asked:
        with pytest.raises(TidegateError):
            switch(server, "sum", 2 if start != 2 else 3)
        assert answering(server) == start
        # under a key the command does it itself: the controller has the file that was moved open still
        back = server.command("rollback", "sum", "--keep", "--reason", "in the dark", "--key", "dark")
        assert back.returncode == 0, back.stderr
        assert "the decision waits in a file" in back.stderr
        now = answering(server)
    no_database()

    assert asked.errors == []
    assert now != start
    assert set(asked.results) == {start, now}
    switch(server, "sum", start)  # whatever is done next brings the database up to date
    with server.local() as local:
        kept = [one.decision for one in list_decisions(local.unit, "sum")]
    assert [(one.kind, one.version, one.reason) for one in kept[-2:]] == [
        ("switch-back", now, "in the dark"),
        ("switch", start, ""),
    ]


@pytest.fixture(scope="module")
def bad_versions(server):
    """Version numbers, and what each is said to fail by."""
    good = manifest_of(
        server, add_version(server, "sum", server.folder / "v1.onnx", sample={"a": [1.0], "b": [2.0]})
    )
    checks = msgspec.structs.replace(good.check_inputs, outputs=[{"total": -1.0}])
    other_answers = msgspec.structs.replace(good, check_inputs=checks)
    raising = write_function(server.folder / "raising.py", "return 1")
    raising.write_text("raise RuntimeError('no such file')\n")
    ending = write_function(server.folder / "ending.py", "return 1")
    ending.write_text("import os\nos._exit(7)\n")
    wrong = write_function(server.folder / "wrong.py", "return {'total': ['x'] * len(columns['a'])}")
    return {
        add_manifest(server, other_answers).number: "Check input 0 was answered total=1003.0, expected -1.0",
        add_version(server, "sum", raising).number: "raised RuntimeError: no such file",
        add_version(server, "sum", ending).number: "ended with exit status 7",
        add_version(server, "sum", wrong).number: "The function's values of output field 'total' are not",
    }


def test_a_version_that_cannot_serve_gets_no_traffic(server, bad_versions):
    before = answering(server)
    with load(server) as asked:
        decisions = {version: switch(server, "sum", version) for version in bad_versions}

    assert asked.errors == []
    assert set(asked.results) == {before}
    for version, decision in decisions.items():
        assert decision.outcome == "aborted"
        assert bad_versions[version] in decision.reason
    route = server.local().routes.read().services["sum"]
    assert route.stable == before
    assert not set(route.standby) & set(bad_versions)


def test_a_damaged_artifact_is_refused_and_served_once_it_is_restored(server):
    before = answering(server)
    number = 1 + max(each.number for each in list_versions(server.local().unit, "sum"))
    version = add_version(server, "sum", write_sum(server.folder / "next.onnx", number * STEP))
    (digest,) = version.artifacts
    path = server.local().artifacts.open(digest)
    path = next(each for each in [path, *path.rglob("*")] if each.is_file())
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])

    refused = switch(server, "sum", version.number)

    assert refused.outcome == "aborted"
    assert answering(server) == before
    path.write_bytes(whole)
    wait_until(
        lambda: read_stage(server.home, version.manifest) is None, what="the failed trial is forgotten"
    )
    assert switch(server, "sum", version.number).outcome == "committed"
    assert answering(server) == number


@pytest.mark.parametrize(
    "operation",
    [
        "link",
        pytest.param("write", marks=pytest.mark.slow),
        pytest.param("sync_folder", marks=pytest.mark.slow),
    ],
)
def test_a_switch_stopped_in_its_commit_cannot_undo_a_rollback(server, operation):
    start = answering(server)
    other = 3 if start != 3 else 2
    line = [sys.executable, "-m", "tests.system.stopping", operation, "2", "switch", "sum", str(other)]
    stopped = subprocess.Popen(
        [*line, "--home", str(server.home.root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with load(server) as asked:
            wait_until(lambda: is_stopped(stopped), what=f"stopped before {operation}")
            newer = roll_back(server, "sum")
            route = server.local().routes.read().services["sum"]
            os.kill(stopped.pid, signal.SIGCONT)
            said, _ = stopped.communicate(timeout=60)
    finally:
        stopped.kill()
        stopped.wait()

    assert asked.errors == []
    assert newer.outcome == "committed"
    assert route.stable == start
    assert server.local().routes.read().services["sum"] == route, said
    assert answering(server) == start
    with server.local() as local:
        unlatch(local.unit, local.cell, "sum", version=other, principal=local.principal, clock=local.clock)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
