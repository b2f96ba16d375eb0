"""A disk that stands: the loop goes on, and callers are answered as the journal mode says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import msgspec
import pytest
import uvloop

from tests.journal.fake import START_US
from tests.serving.plane import Harness, Told, answers, journalled
from tidegate.core.clock import SystemClock
from tidegate.journal.codec import encode_event
from tidegate.journal.lane import JournalLane
from tidegate.journal.record import Event, JournalMode, JournalUnavailable, Outcome
from tidegate.journal.segment import JournalWriter, SystemFiles


class StandingFiles(SystemFiles):
    """A disk whose writes and syncs stand while it is told to."""

    def __init__(self) -> None:
        self.goes = threading.Event()
        self.goes.set()

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self.goes.wait(20)
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.goes.wait(20)
        super().sync(descriptor)


def run(test) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


async def turns(until: asyncio.Future) -> int:
    """Return how often the loop came round until a future was done: hardly ever, if it stood meanwhile."""
    n_turns = 0
    while not until.done():
        await asyncio.sleep(0.001)
        n_turns += 1
    return n_turns


@pytest.mark.parametrize("mode", list(JournalMode))
def test_callers_are_answered_within_their_time_and_the_loop_goes_on(tmp_path: Path, mode) -> None:
    async def test() -> None:
        files = StandingFiles()
        harness = Harness(tmp_path, files=files)
        harness.serve(Told(lambda x: x), mode=mode)
        await harness.ask([1.0])
        files.goes.clear()

        asked = asyncio.ensure_future(harness.ask([2.0], [3.0], timeout_s=0.3))
        n_turns = await turns(asked)
        during = asked.result()
        (later,) = await harness.ask([4.0], timeout_s=0.3)
        files.goes.set()
        (after,) = await harness.ask([5.0])

        assert n_turns > 10, "the loop stood with the disk"
        if mode is JournalMode.AVAILABLE:
            assert [answers(call) for call in [*during, later]] == [[2.0], [3.0], [4.0]]
        else:
            for call in [*during, later]:
                assert call.error is not None
                assert call.error.code == "journal_unavailable"
        assert answers(after) == [5.0]
        while harness.plane.busy:  # noqa: ASYNC110 - what was answered at once is being written
            await asyncio.sleep(0.001)
        harness.plane.close_journal()
        records = journalled(tmp_path / "journal")
        assert after.request_id in records
        # what was refused while it waited is not in the journal, what was answered is
        assert (later.request_id in records) is (mode is JournalMode.AVAILABLE)

    run(test)


def test_answers_wait_for_a_disk_that_goes_on_in_time(tmp_path: Path) -> None:
    async def test() -> None:
        files = StandingFiles()
        harness = Harness(tmp_path, files=files)
        harness.serve(Told(lambda x: x), mode=JournalMode.REQUIRED)
        files.goes.clear()
        harness.loop.call_later(0.05, files.goes.set)

        calls = []
        for value in range(3):
            calls.append(asyncio.ensure_future(harness.ask([float(value)])))
            await asyncio.sleep(0.005)
        answered = [call for asked in await asyncio.gather(*calls) for call in asked]

        assert [answers(call) for call in answered] == [[0.0], [1.0], [2.0]]
        harness.plane.close_journal()
        assert set(journalled(tmp_path / "journal")) == {call.request_id for call in answered}

    run(test)


@pytest.mark.parametrize("goes_on", [True, False])
def test_reported_outcomes_wait_for_a_disk_but_not_for_ever(tmp_path: Path, monkeypatch, goes_on) -> None:
    async def test() -> None:
        monkeypatch.setattr("tidegate.serving.dataplane._PATIENCE_S", 5.0 if goes_on else 0.1)
        files = StandingFiles()
        harness = Harness(tmp_path, files=files)
        harness.serve(Told(lambda x: x))
        (call,) = await harness.ask([1.0])
        files.goes.clear()
        told: list[JournalUnavailable | None] = []
        ended = asyncio.Event()

        def tell(error: JournalUnavailable | None) -> None:
            told.append(error)
            ended.set()

        outcome = Outcome("svc", "late", msgspec.Raw(b"1"), START_US, call.request_id)
        harness.plane.record_outcomes([outcome], tell)
        assert told == []
        assert harness.plane.busy
        if goes_on:
            harness.loop.call_later(0.05, files.goes.set)
        await ended.wait()
        files.goes.set()

        assert [error is None for error in told] == [goes_on]
        assert not harness.plane.busy
        harness.plane.close_journal()

    run(test)


def test_a_full_pipe_in_place_of_the_disk_stands_and_goes_on(tmp_path: Path) -> None:
    """A real write that blocks in the system, not one that a test holds up."""
    reader, writer = os.pipe()

    class Pipe(SystemFiles):
        def write(self, descriptor: int, data: bytes | memoryview) -> int:
            return os.write(writer, data)

    async def test() -> None:
        harness = Harness(tmp_path, files=Pipe())
        harness.serve(Told(lambda x: x))
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)

        asked = asyncio.ensure_future(harness.ask([2.0], timeout_s=0.2))
        n_turns = await turns(asked)
        os.read(reader, 1 << 20)
        (after,) = await harness.ask([3.0])

        assert n_turns > 10
        assert (answers(asked.result()[0]), answers(after)) == ([2.0], [3.0])

    run(test)


def test_no_more_waits_for_a_disk_than_may(tmp_path: Path) -> None:
    async def test() -> None:
        files = StandingFiles()
        clock = SystemClock()
        journal = JournalWriter(tmp_path, cell="c", node="n", worker=0, clock=clock, files=files)
        lane = JournalLane(journal, asyncio.get_running_loop(), clock=clock, max_waiting_bytes=1000)
        frame = encode_event(Event("x", 1, detail={"text": "y" * 400}))
        files.goes.clear()

        standing, waiting = lane.append([frame]), lane.append([frame])
        lane.append([frame])
        with pytest.raises(JournalUnavailable, match="no more can wait"):
            lane.append([frame])
        assert waiting is not None
        assert lane.withdraw(waiting)
        assert standing is not None
        assert not lane.withdraw(standing)
        assert lane.append([frame]) is not None
        files.goes.set()
        lane.close()

        assert standing.done
        assert not waiting.done

    run(test)
