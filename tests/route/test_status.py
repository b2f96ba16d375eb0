"""Worker status: whole, and only of those who live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from tidegate.route.status import (
    ServiceStatus,
    StatusBoard,
    StatusFile,
    WorkerStatus,
    is_alive,
    process_start,
)


def mine(slot: int = 0, **fields) -> WorkerStatus:
    return WorkerStatus(slot, os.getpid(), process_start(os.getpid()), **fields)


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_written_status_is_read_whole(tmp_path):
    services = {"flights": ServiceStatus(generation=7, ready=(1, 2), failed={3: "it returned NaN"})}
    status = mine(2, incarnation=5, sequence=9, services=services, updated_us=11)

    StatusFile(tmp_path, slot=2).write(status)

    assert StatusBoard(tmp_path).live() == [status]


def test_next_status_takes_the_place_of_the_last(tmp_path):
    file = StatusFile(tmp_path, slot=0)
    file.write(mine(sequence=1))
    file.write(mine(sequence=2))

    assert [status.sequence for status in StatusBoard(tmp_path).live()] == [2]
    assert len(list(tmp_path.iterdir())) == 1


def test_board_of_a_folder_that_is_not_there_is_empty(tmp_path):
    assert StatusBoard(tmp_path / "nowhere").live() == []


def test_live_lists_neither_the_dead_nor_the_draining_nor_the_torn(tmp_path, child):
    StatusFile(tmp_path, slot=0).write(mine(0))
    StatusFile(tmp_path, slot=1, pid=child.pid).write(
        WorkerStatus(1, child.pid, process_start(child.pid), draining=True)
    )
    StatusFile(tmp_path, slot=2, pid=child.pid).write(WorkerStatus(2, child.pid, "an earlier process"))
    (tmp_path / f"worker.3.{os.getpid()}.json").write_bytes(b'{"slot":')

    assert [status.slot for status in StatusBoard(tmp_path).live()] == [0]


def test_worker_that_ends_or_dies_is_no_longer_live(tmp_path, child):
    status = WorkerStatus(1, child.pid, process_start(child.pid))
    StatusFile(tmp_path, slot=1, pid=child.pid).write(status)
    file = StatusFile(tmp_path, slot=0)
    file.write(mine())
    assert len(StatusBoard(tmp_path).live()) == 2

    file.remove()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as its parent has not asked yet

    assert StatusBoard(tmp_path).live() == []


def test_stopped_worker_is_alive(child):
    status = WorkerStatus(0, child.pid, process_start(child.pid))

    os.kill(child.pid, signal.SIGSTOP)

    assert is_alive(status)


def test_process_that_took_over_a_dead_ones_id_is_told_apart():
    assert not is_alive(msgspec.structs.replace(mine(), started="1"))


def test_process_that_never_was_has_no_start():
    assert process_start(2**22 + 1) is None


def test_sweep_removes_what_dead_processes_left(tmp_path, child):
    StatusFile(tmp_path, slot=0).write(mine())
    StatusFile(tmp_path, slot=1, pid=child.pid).write(WorkerStatus(1, child.pid, "an earlier process"))
    gone = 2**22 + 1
    (tmp_path / f"worker.2.{gone}.json").write_bytes(b"torn")
    (tmp_path / f"worker.2.{gone}.draft").write_bytes(b"")
    (tmp_path / "note.txt").touch()

    assert StatusBoard(tmp_path).sweep() == 3

    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", f"worker.0.{os.getpid()}.json"]


def test_worker_knows_nothing_of_a_service_it_has_not_heard_of():
    assert mine().of("flights") == ServiceStatus(generation=0, ready=(), failed={})
