"""The machine's clock jumps: deadlines run on, the journal keeps its order, nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.serving.plane import Harness, Told, answers, journalled

HOUR_US = 3_600_000_000


class JumpingClock:
    """A real clock whose wall time can be moved; the monotonic one never moves back, as on a machine."""

    def __init__(self, real):
        self._real = real
        self.shift_us = 0

    def wall_us(self):
        return self._real.wall_us() + self.shift_us

    def monotonic_s(self):
        return self._real.monotonic_s()


@pytest.mark.parametrize("jump_us", [HOUR_US, -HOUR_US, 24 * 365 * HOUR_US])
def test_requests_are_answered_and_journalled_across_a_jump(tmp_path, jump_us):
    async def scenario():
        harness = Harness(tmp_path)
        clock = harness.clock = JumpingClock(harness.clock)
        harness.plane.clock = clock
        harness.serve(Told(lambda x: x + 1))
        before = await harness.ask([1.0], [2.0], timeout_s=5.0)
        clock.shift_us = jump_us
        after = await harness.ask([3.0], [4.0], timeout_s=5.0)
        harness.journal.close()
        return [*before, *after]

    calls = asyncio.run(scenario())

    assert [answers(call) for call in calls] == [[2.0], [3.0], [4.0], [5.0]]
    written = journalled(tmp_path / "journal")
    assert {call.request_id for call in calls} == written.keys()
    assert len(written) == 4
    assert all(error is None for _, error in written.values())


def test_ids_made_after_a_jump_back_are_new_ones(tmp_path):
    async def scenario():
        harness = Harness(tmp_path)
        harness.serve(Told(lambda x: x))
        return [harness.plane.new_id() for _ in range(1000)]

    ids = asyncio.run(scenario())

    assert len(set(ids)) == len(ids)
