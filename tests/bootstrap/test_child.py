"""A process that dies is started again, the later the more it dies of itself."""

from __future__ import annotations

import itertools
import subprocess

import pytest

from tidegate.bootstrap import child
from tidegate.bootstrap.child import Child


class Clock:
    now_s = 100.0

    def monotonic_s(self):
        return self.now_s


class Process:
    """Stands for one that ends when it is told to."""

    pids = itertools.count(1)

    def __init__(self, *_arguments, **_options):
        self.pid = next(self.pids)
        self.code = None

    def poll(self):
        return self.code


@pytest.fixture
def lives(monkeypatch):
    """Let a process live for spans of seconds, one after the other; returns the pauses after each."""
    monkeypatch.setattr(child.subprocess, "Popen", Process)

    def pauses(*spans_s):
        clock = Clock()
        one = Child("one", lambda _: [], clock)
        found = []
        for span_s in spans_s:
            one.tend()
            clock.now_s += span_s
            one._process.code = -9
            one.tend()
            found.append(round(one.waits_s, 3))
            clock.now_s += one.waits_s
        return found

    assert child.subprocess is subprocess
    return pauses


def test_a_crash_loop_is_started_less_and_less_often(lives):
    assert lives(*[0.3] * 6) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert lives(*[0.3] * 20)[-1] == 30.0


def test_what_is_killed_every_few_seconds_comes_back_at_once(lives):
    assert lives(*[4.0] * 30) == [0.05] * 30


def test_after_a_steady_life_all_is_forgotten(lives):
    assert lives(0.3, 0.3, 0.3, 11.0, 0.3) == [0.1, 0.2, 0.4, 0.05, 0.1]


def test_a_life_that_is_short_beside_the_pause_before_it_makes_the_next_one_longer(lives):
    assert lives(0.3, 0.3, 0.3, 3.0) == [0.1, 0.2, 0.4, 0.8]


def test_what_cannot_be_started_is_tried_again_later_and_said_so(tmp_path):
    program = tmp_path / "program"
    clock = Clock()
    one = Child("one", lambda _: [str(program)], clock)

    one.tend()
    assert (one.pid, one.n_started, one.n_deaths) == (None, 0, 1)
    assert one.refused == "No such file or directory"
    assert one.waits_s > 0
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    clock.now_s += one.waits_s
    one.tend()

    assert one.pid is not None
    assert (one.refused, one.n_started) == ("", 1)
    one.stop(0.0)
