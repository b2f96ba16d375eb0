"""An alarm rings when the first deadline is over, and wakes nobody before."""

from __future__ import annotations

from math import inf

import pytest

from tests.serving.world import Loop
from tidegate.serving.alarm import REST_S, Alarm


class World:
    """A loop in which the alarm is told again of all deadlines that are not over."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.loop.now_s = 0.0
        self.rang_at: list[float] = []
        self.waiting: list[float] = []
        self.alarm = Alarm(self._ring, self.loop.call_later, self.loop.monotonic_s)  # type: ignore[arg-type]  # a timer of its own

    def add(self, deadline_s: float) -> None:
        self.waiting.append(deadline_s)
        self.alarm.set(deadline_s)

    def run(self, until_s: float) -> None:
        while (timer := self.loop.next_timer(until_s)) is not None:
            timer.act()
        self.loop.now_s = until_s

    def _ring(self) -> None:
        self.rang_at.append(self.loop.now_s)
        self.waiting = [each for each in self.waiting if each > self.loop.now_s]
        self.alarm.set(min(self.waiting, default=inf))


def test_it_rings_at_the_earliest_deadline_whatever_the_order() -> None:
    world = World()
    for deadline_s in (0.5, 0.2, 0.9, 0.3):
        world.add(deadline_s)
    world.run(2.0)
    assert world.rang_at == pytest.approx([0.2, 0.3, 0.5, 0.9])
    assert world.waiting == []


def test_deadlines_close_together_are_looked_at_together() -> None:
    world = World()
    for number in range(100):
        world.add(0.1 + 0.0005 * number)
    world.run(1.0)
    assert world.waiting == []
    assert len(world.rang_at) <= 1 + 0.05 / REST_S


def test_it_does_not_ring_for_what_has_no_deadline() -> None:
    world = World()
    world.add(inf)
    world.run(100.0)
    assert world.rang_at == []


def test_calls_that_are_answered_in_time_hardly_ever_ring_it() -> None:
    world = World()
    for turn in range(1000):  # one call every 10 ms with a second each, answered at once
        world.run(0.01 * turn)
        world.add(world.loop.now_s + 1.0)
        if turn % 100:
            world.waiting.clear()
    assert len(world.rang_at) <= 11
