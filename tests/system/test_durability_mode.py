"""A journal on a full disk: each service does what its declared mode says, and says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.model import PAIR, add_constant, deploy
from tests.system.server import HOST, Server, request, running, wait_until
from tidegate.journal.record import JournalMode
from tidegate.operation.journal import prediction_ids

ANSWER = {"total": 1.0}
BODY = b'{"a":1,"b":2}'
DISK_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of a few megabytes, where the home will be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root of a Linux can mount a small disk to fill")
    folder = tmp_path / "home"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def server(small_disk, tmp_path) -> Iterator[Server]:
    """A server of one worker, so that its counters and its journal are one story."""
    with running(tmp_path, n_workers=1) as server:
        for mode in JournalMode:
            add_constant(server, mode.value, PAIR, ANSWER, journal=mode)
            deploy(server, mode.value)
        server.start()
        yield server


def fill(disk: Path) -> Path:
    """Leave no byte free on a disk, and return what has to be removed for that to end."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 1):
            try:
                while True:
                    os.write(descriptor, bytes(size))
            except OSError:
                continue
    finally:
        os.close(descriptor)
    return filler


def ask(server: Server, service: str):
    with server.client() as client:
        return client.post(f"/services/{service}/predict", BODY)


def dropped(server: Server) -> int:
    """Return how many records the server says that it could not keep."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{HOST}:{server.control_port}/metrics", timeout=30) as response:
        page = response.read().decode()
    values = re.findall(r"^tidegate_journal_dropped_total\S* (\S+)$", page, re.MULTILINE)
    return sum(int(float(value)) for value in values)


def see_modes(server: Server) -> list[str]:
    """See that each service answers as its mode says on a full disk; return what must not be journalled."""
    for service in ("required", "durable"):
        refused = ask(server, service)
        assert (refused.status, refused.code) == (503, "journal_unavailable")
    answered = [ask(server, "available") for _ in range(5)]
    assert {(each.status, each.json()["output"]["total"]) for each in answered} == {(200, 1.0)}
    return [each.json()["prediction_id"] for each in answered]


@pytest.mark.slow
def test_a_full_disk_is_answered_as_each_service_declares(server, small_disk):
    acknowledged = [ask(server, mode.value).json()["prediction_id"] for mode in JournalMode]
    wait_until(lambda: can_read(server), what="the control plane")
    filler = fill(small_disk)
    # the page that the segment ends in may still have room for some records
    wait_until(lambda: ask(server, "required").status == 503, what="the disk is full")
    before = dropped(server)

    lost = see_modes(server)
    with server.client() as client:  # all modes in one turn of the loop
        order = ["available", "required", "durable", "available"]
        client.send(b"".join(request(f"/services/{service}/predict", BODY) for service in order))
        assert [client.receive().status for _ in order] == [200, 503, 503, 200]
        report = {"prediction_id": acknowledged[0], "value": 1}
        assert client.post("/services/available/outcomes", report).status == 503
    assert dropped(server) >= before + len(lost)
    (worker,) = server.child("tidegate.bootstrap.worker")
    worker.kill()
    wait_until(lambda: is_answered(server), what="a worker that starts on a full disk")
    lost += see_modes(server)

    filler.unlink()
    wait_until(lambda: ask(server, "required").status == 200, what="the disk has room again")
    after = {mode.value: ask(server, mode.value) for mode in JournalMode}
    assert {each.status for each in after.values()} == {200}
    assert len(server.child("tidegate.bootstrap.worker")) == 1
    server.stop()

    for mode, answer in after.items():
        journalled = list(prediction_ids(server.home.journal, mode))
        assert journalled.count(answer.json()["prediction_id"]) == 1
        assert len(set(journalled)) == len(journalled)
    assert not set(lost) & set(prediction_ids(server.home.journal, "available"))
    marked = [record for record in server.records(kind="prediction") if "dropped" in record.flags]
    assert marked  # so that a reader knows that something is missing before it


def is_answered(server: Server) -> bool:
    try:
        return ask(server, "available").status == 200
    except OSError:
        return False


def can_read(server: Server) -> bool:
    try:
        dropped(server)
    except OSError:
        return False
    return True
