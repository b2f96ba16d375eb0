"""A real runner in a thread, reached over a real Unix socket by real executors."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from tests.serving.plane import Harness, Told, answers, journalled
from tidegate.contract.batch import Batch
from tidegate.core.clock import SystemClock
from tidegate.journal.record import Flag
from tidegate.serving.frame import Answer, Ask, FrameBuffer, encode, pack, unpack
from tidegate.serving.quarantine import STRIKES, Notes, Quarantine, RowGuard
from tidegate.serving.readiness import CheckFailed, check_answers
from tidegate.serving.remote import RemoteExecutor, RunnerUnavailable
from tidegate.serving.runner import Runner


@contextmanager
def running(model: Told, *, max_batch_rows: int = 32, guard: RowGuard | None = None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        path = f"{folder}/s"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        stopping = threading.Event()
        runner = Runner(listener, model, clock=SystemClock(), max_batch_rows=max_batch_rows, guard=guard)
        thread = threading.Thread(target=runner.serve, args=(stopping.is_set,), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            stopping.set()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
                waker.connect(path)
            thread.join(10)
            listener.close()


async def connected(path: str, harness: Harness) -> RemoteExecutor:
    executor = RemoteExecutor(path, loop=harness.loop, service="svc", version=1)
    await executor.connect(timeout_s=5)
    return executor


def run(test: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_answers_each_worker_with_its_own_rows(tmp_path: Path) -> None:
    with running(Told(lambda x: x + 1)) as path:

        async def test() -> None:
            harnesses = [Harness(tmp_path / name) for name in ("a", "b")]
            for harness in harnesses:
                harness.serve(await connected(path, harness))

            found = await asyncio.gather(
                *(h.ask([float(n)], [float(n + 50)] * 40) for n, h in enumerate(harnesses))
            )

            for number, (one, many) in enumerate(found):
                assert answers(one) == [number + 1]
                assert answers(many) == [number + 51] * 40
            for harness in harnesses:
                harness.plane.endpoint("svc").stable.close()

        run(test)


def test_gathers_what_waits_and_keeps_batches_within_the_bound() -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold(x: Any) -> Any:
        started.set()
        go_on.wait(10)
        return x

    model = Told(hold)
    with running(model, max_batch_rows=8) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(20)
        peer.connect(path)
        soon = SystemClock().monotonic_s() + 60

        def ask(number: int, n_rows: int) -> bytes:
            return encode(
                Ask(number, soon, n_rows, pack(Batch({"x": np.full(n_rows, float(number))}, n_rows)))
            )

        peer.sendall(ask(1, 1))
        assert started.wait(10)
        peer.sendall(b"".join(ask(number, 3) for number in range(2, 7)) + ask(7, 20))
        go_on.set()
        buffer, found = FrameBuffer(), []
        while sum(len(answer.ids) for answer in found) < 7:
            found += buffer.feed(peer.recv(1 << 16))

    # what went into one call is answered by one message
    assert [answer.ids for answer in found] == [[1], [2, 3], [4, 5], [6], [7]]
    values = [unpack(answer.parts, sum(answer.n_rows))["y"].tolist() for answer in found]
    assert values == [[1.0], [2.0] * 3 + [3.0] * 3, [4.0] * 3 + [5.0] * 3, [6.0] * 3, [7.0] * 20]
    assert model.batches == [1, 6, 6, 3, 8, 8, 4]


def test_leaves_out_what_came_too_late() -> None:
    model = Told(lambda x: x)
    with running(model) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(20)
        peer.connect(path)
        peer.sendall(encode(Ask(1, SystemClock().monotonic_s() - 1, 1, pack(Batch({"x": np.zeros(1)}, 1)))))
        (answer,) = FrameBuffer().feed(peer.recv(1 << 16))

    assert isinstance(answer, Answer)
    assert answer.error == "deadline_exceeded"
    assert model.batches == []


def test_fails_one_workers_rows_without_another_workers(tmp_path: Path) -> None:
    def explode_on_13(x: Any) -> Any:
        if (x == 13).any():
            raise ValueError
        return x

    with running(Told(explode_on_13)) as path:

        async def test() -> None:
            harness = Harness(tmp_path)
            harness.serve(await connected(path, harness))
            good, bad = await harness.ask([1.0], [13.0])
            assert answers(good) == [1.0]
            assert bad.error is not None
            assert bad.error.code == "predictor_failed"
            harness.plane.endpoint("svc").stable.close()

        run(test)


def test_survives_a_peer_that_speaks_nonsense(tmp_path: Path) -> None:
    with running(Told(lambda x: x)) as path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(20)
            peer.connect(path)
            peer.sendall(b"\xff" * 100)
            assert peer.recv(100) == b""

        async def test() -> None:
            harness = Harness(tmp_path)
            harness.serve(await connected(path, harness))
            (call,) = await harness.ask([1.0])
            assert answers(call) == [1.0]
            harness.plane.endpoint("svc").stable.close()

        run(test)


def test_says_so_when_there_is_no_runner(tmp_path: Path) -> None:
    async def test() -> None:
        harness = Harness(tmp_path)
        executor = RemoteExecutor(str(tmp_path / "none"), loop=harness.loop, service="svc", version=1)
        with pytest.raises(RunnerUnavailable, match="version 1 of service 'svc'"):
            await executor.connect(timeout_s=0.01)
        harness.serve(executor)

        (call,) = await harness.ask([1.0])

        assert call.error is not None
        assert call.error.code == "runner_unavailable"
        executor.close()

    run(test)


def test_check_inputs_which_belong_to_no_call_are_answered(tmp_path: Path) -> None:
    with running(Told(lambda x: x + 1)) as path:

        async def test() -> None:
            harness = Harness(tmp_path)
            version = harness.serve(await connected(path, harness))

            await check_answers(version, [{"x": 1.0}, {"x": 2.0}], [{"y": 2.0}, {"y": 3.0}], tolerance=1e-6)
            with pytest.raises(CheckFailed, match=r"answered y=2\.0, expected 5\.0"):
                await check_answers(version, [{"x": 1.0}], [{"y": 5.0}], tolerance=1e-6)

            version.close()

        run(test)


def test_a_runner_that_hands_over_answers_what_it_has_and_loses_nothing(tmp_path: Path) -> None:
    """The next one listens under the same name before the first is told to go."""

    def serve(path: str, model: Told, stopping: threading.Event) -> threading.Thread:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        listeners.append(listener)
        runner = Runner(listener, model, clock=SystemClock(), max_batch_rows=4)
        thread = threading.Thread(target=runner.serve, args=(stopping.is_set,), daemon=True)
        thread.start()
        return thread

    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        path = f"{folder}/s"
        first_stops, second_stops, begun, go_on = (threading.Event() for _ in range(4))
        listeners: list[socket.socket] = []

        def slow(x: Any) -> Any:
            begun.set()
            go_on.wait(20)
            return x + 1

        first = serve(path, Told(slow), first_stops)
        second: list[threading.Thread] = []

        async def test() -> None:
            harness = Harness(tmp_path)
            executor = await connected(path, harness)
            version = harness.serve(executor)
            asked = [asyncio.ensure_future(harness.ask([float(n)])) for n in range(3)]
            await asyncio.to_thread(begun.wait, 10)
            second.append(serve(path, Told(lambda x: x + 100), second_stops))
            first_stops.set()
            go_on.set()
            found = [answers((await each)[0])[0] for each in asked]
            await asyncio.to_thread(first.join, 10)
            assert answers((await harness.ask([0.0]))[0]) == [100.0]

            assert found == [1.0, 2.0, 3.0]
            assert not first.is_alive(), "it holds on to nobody who has turned to the next"
            assert executor.is_there
            version.close()

        run(test)
        second_stops.set()
        second[0].join(10)
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_row_in_quarantine_costs_its_own_request_and_is_flagged_if_no_version_survives_it(
    tmp_path: Path, is_shared: bool
) -> None:
    guard = RowGuard(
        Quarantine(tmp_path, 1, clock=SystemClock()), Notes(tmp_path / "notes"), secret=b"secret"
    )
    tags = np.array([None], object)
    (row,) = guard.fingerprints(Batch({"x": np.array([13.0]), "tag": tags}, 1))
    for version in (1, 2) if is_shared else (1,):
        quarantine = guard.quarantine if version == 1 else Quarantine(tmp_path, 2, clock=SystemClock())
        quarantine.crashed([row])
        quarantine.crashed([row])
    asked: list[float] = []

    def note(x: Any) -> Any:
        asked.extend(x.tolist())
        return x

    with running(Told(note), guard=guard) as path:

        async def test() -> None:
            harness = Harness(tmp_path / "plane")
            version = harness.serve(await connected(path, harness))

            good, bad, mixed, other = await harness.ask([1.0], [13.0], [2.0, 13.0], [3.0])

            assert (answers(good), answers(other)) == ([1.0], [3.0])
            for call in (bad, mixed):
                assert call.error is not None
                assert call.error.code == "quarantined_input"
            version.close()
            harness.plane.close_journal()
            flags, code = journalled(tmp_path / "plane" / "journal")[bad.request_id]
            assert code == "quarantined_input"
            assert bool(flags & Flag.POISON) is is_shared

        run(test)
    assert 13.0 not in asked


def test_check_inputs_are_neither_noted_nor_refused_whatever_became_of_them(tmp_path: Path) -> None:
    clock = SystemClock()
    quarantine = Quarantine(tmp_path, 1, clock=clock)
    guard = RowGuard(quarantine, Notes(tmp_path / "notes"), b"s")
    noted, is_down = [], True

    def fail(x: Any) -> Any:
        noted.append(len(Notes(tmp_path / "notes").left))  # what a successor would find
        if is_down:
            raise ConnectionError("the store is down")
        return x

    quarantine.convict(guard.fingerprints(Batch({"x": np.ones(1)}, 1)))
    with running(Told(fail), guard=guard) as path:

        async def test() -> None:
            nonlocal is_down
            harness = Harness(tmp_path)
            version = harness.serve(await connected(path, harness))
            try:
                for _ in range(STRIKES + 1):
                    with pytest.raises(CheckFailed, match="ConnectionError"):
                        await check_answers(version, [{"x": 2.0}], [{"y": 2.0}], tolerance=1e-6)
                is_down = False
                rows, wanted = [{"x": 1.0}, {"x": 2.0}], [{"y": 1.0}, {"y": 2.0}]
                await check_answers(version, rows, wanted, tolerance=1e-6)
            finally:
                version.close()

        run(test)

    assert noted == [0] * len(noted)


def test_what_nobody_waits_for_any_more_is_not_run(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold(x: Any) -> Any:
        started.set()
        go_on.wait(10)
        return x

    model = Told(hold)
    with running(model, max_batch_rows=1) as path:

        async def test() -> None:
            harness = Harness(tmp_path)
            harness.serve(await connected(path, harness))
            runs = asyncio.create_task(harness.ask([1.0]))
            await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
            gone = harness.call([2.0], lambda call: None)
            harness.plane.submit(gone)
            await asyncio.sleep(0.05)  # it is in the runner's socket or queue

            gone.abandon()
            await asyncio.sleep(0.05)
            go_on.set()
            (first,) = await runs
            (last,) = await harness.ask([3.0])

            assert (answers(first), answers(last)) == ([1.0], [3.0])
            assert not harness.plane.busy
            assert harness.plane.endpoint("svc").stable.executor.waiting_rows == 0
            harness.plane.endpoint("svc").stable.close()

        run(test)

    assert model.batches == [1, 1]


def test_a_workers_queue_is_told_to_the_others_with_the_answers(tmp_path: Path) -> None:
    with running(Told(lambda x: x)) as path:

        async def test() -> None:
            harness = Harness(tmp_path)
            executors = [await connected(path, harness) for _ in range(3)]
            harness.serve(executors[0])

            await harness.ask([1.0])
            await harness.ask([1.0])

            assert executors[0].backlog._others == 2
            for executor in executors:
                executor.close()

        run(test)


def test_rows_that_ran_together_come_back_as_one_group_beside_what_expired_meanwhile(tmp_path: Path) -> None:
    """Who was told that it is too late keeps the group of that answer, which may still wait for a disk."""
    steps = [(threading.Event(), threading.Event()) for _ in range(2)]
    waiting = iter(steps)

    def hold(x: Any) -> Any:
        started, go_on = next(waiting)
        started.set()
        go_on.wait(10)
        return x

    model = Told(hold)
    with running(model) as path:

        async def test() -> None:
            loop = asyncio.get_running_loop()
            harness = Harness(tmp_path)
            executor = await connected(path, harness)
            harness.serve(executor)
            tasks = [asyncio.create_task(harness.ask([1.0]))]
            await loop.run_in_executor(None, steps[0][0].wait, 10)
            for values, timeout_s in (([2.0], 10.0), ([3.0], 1.5), ([4.0, 5.0], 10.0)):
                before = executor.waiting_rows
                tasks.append(asyncio.create_task(harness.ask(values, timeout_s=timeout_s)))
                for _ in range(3):  # the task's turn and the plane's: a message of its own
                    await asyncio.sleep(0)
                assert executor.waiting_rows > before
            steps[0][1].set()
            await loop.run_in_executor(None, steps[1][0].wait, 10)
            (expired,) = await tasks[2]
            told = expired.group
            steps[1][1].set()
            (second,), (fourth,) = await tasks[1], await tasks[3]

            executor.close()  # a failed test would wait for it for ever
            assert model.batches == [1, 4]
            assert answers(second) == [2.0]
            assert answers(fourth) == [4.0, 5.0]
            assert second.group is fourth.group
            assert second.group.batch_rows == 4
            assert expired.group is told
            assert expired.group.error is not None
            assert expired.group.error.code == "deadline_exceeded"
            assert executor.waiting_rows == 0

        run(test)
