"""Routes changed by real processes that are stopped, resumed and in each other's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.route.writer import append
from tidegate.route.store import RouteStore

ROOT = Path(__file__).parents[2]


def start(store: RouteStore, service: str, *, first: int, n_changes: int, stop_before: str = ""):
    arguments = [str(store.folder), service, str(first), str(n_changes), stop_before]
    return subprocess.Popen([sys.executable, "-m", "tests.route.writer", *arguments], cwd=ROOT)


def wait_stopped(process: subprocess.Popen) -> None:
    info = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED)
    assert info is not None
    assert info.si_code == os.CLD_STOPPED


@pytest.fixture
def store(tmp_path):
    return RouteStore(tmp_path)


@pytest.mark.parametrize("operation", ["write", "link", "sync_folder", "remove"])
@pytest.mark.parametrize("n_newer", [1, 70])
def test_writer_stopped_in_the_middle_of_a_change_cannot_undo_a_newer_one(store, operation, n_newer):
    store.change("flights", append("flights", 1))
    stopped = start(store, "flights", first=100, n_changes=1, stop_before=operation)
    wait_stopped(stopped)
    published = store.read().services["flights"].history == (1, 100)

    for mark in range(200, 200 + n_newer):
        newest = store.change("flights", append("flights", mark))
    os.kill(stopped.pid, signal.SIGCONT)
    code = stopped.wait(timeout=30)

    assert store.read() == newest  # nobody waited for the stopped writer, and it undid nothing
    assert published == (operation in {"sync_folder", "remove"})
    # Superseded by so many that their files are gone, it says that others came first.
    assert code == (0 if published and n_newer < 64 else 3)
    assert not list(store.folder.glob("draft*"))


def test_four_processes_apply_every_change_exactly_once(store):
    processes = [
        start(store, "flights" if n % 2 else "houses", first=n * 1000, n_changes=50) for n in range(4)
    ]

    codes = [process.wait(timeout=60) for process in processes]

    route = store.read()
    marks = Counter(mark for each in route.services.values() for mark in each.history)
    assert codes == [0] * 4
    assert marks == Counter(n * 1000 + change for n in range(4) for change in range(50))
    assert route.sequence == 200
    assert {name: each.generation for name, each in route.services.items()} == {"flights": 100, "houses": 100}
