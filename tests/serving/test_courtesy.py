"""How a worker shares its core."""

from __future__ import annotations

import os
import threading

import pytest

from tidegate.serving.courtesy import ALONE, CROWD, Courtesy, yield_on_linux


def test_a_crowded_worker_yields_until_it_is_alone_again():
    said = []
    courtesy = Courtesy(said.append)

    for n_calls in (1, CROWD - 1, CROWD, 60, ALONE + 1, CROWD, ALONE, 0, CROWD - 1, CROWD):
        courtesy.look(n_calls)

    assert said == [True, False, True]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the policy is Linux's")
def test_the_policy_is_set_for_the_calling_thread_only():
    seen = []

    def change():
        for crowded in (True, False):
            yield_on_linux(crowded)
            seen.append(os.sched_getscheduler(0))

    before = os.sched_getscheduler(0)
    thread = threading.Thread(target=change)
    thread.start()
    thread.join()

    assert seen == [os.SCHED_BATCH, os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == before


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the policy is Linux's")
def test_where_it_is_forbidden_nothing_changes(monkeypatch):
    def forbid(*_):
        raise PermissionError("not in this sandbox")

    monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)

    before = os.sched_getscheduler(0)
    yield_on_linux(True)
    assert os.sched_getscheduler(0) == before
