"""A notice tells of new files in a folder, and of nothing else."""

from __future__ import annotations

import ctypes
import select
import sys

import pytest

from tidegate.route.notice import open_notice
from tidegate.route.route import ServiceRoute
from tidegate.route.store import RouteStore

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of new files")


def has_something(notice):
    return bool(select.select([notice.fileno()], [], [], 0)[0])


@linux_only
def test_it_tells_of_a_new_route_and_then_of_the_next(tmp_path):
    store = RouteStore(tmp_path)
    notice = open_notice(tmp_path)
    assert not has_something(notice)
    for number in range(2):
        store.change("flights", lambda old, number=number: ServiceRoute("flights", history=(number,)))
        assert has_something(notice)
        notice.clear()
        assert not has_something(notice)
    notice.close()


@linux_only
def test_reading_a_folder_tells_nothing(tmp_path):
    (tmp_path / "old").write_text("x")
    notice = open_notice(tmp_path)
    (tmp_path / "old").read_text()
    (tmp_path / "old").unlink()
    notice.clear()  # of nothing: it does not wait
    assert not has_something(notice)
    notice.close()


def test_a_folder_that_is_not_there_gives_none(tmp_path):
    assert open_notice(tmp_path / "nowhere") is None


def test_a_system_without_it_gives_none(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
    assert open_notice(tmp_path) is None
