"""The short way to the controller, over a real socket."""

from __future__ import annotations

import threading
import time

import pytest

from tidegate.control.lane import Lane
from tidegate.core.decision import Decision
from tidegate.core.lane import FOLDER, NAME, ask
from tidegate.core.principal import Principal, local_principal
from tidegate.operation.release import Moved
from tidegate.operation.rollback import MovedBack
from tidegate.release.move import NothingToRollBack


class Moving:
    def __init__(self):
        self.asked = []
        self.may_go = threading.Event()
        self.may_go.set()

    def roll_back(self, service, request, *, by=None):
        self.asked.append((service, request.to, request.keep, request.reason, by))
        self.may_go.wait(10)
        if service == "first":
            raise NothingToRollBack("No earlier version.", hint="Register one.")
        decision = Decision("rollback", service, "committed", Principal("ana@laptop"), 0, version=1)
        return MovedBack(service, {"local": Moved(decision, 7)}, 1)


@pytest.fixture
def plane():
    return Moving()


@pytest.fixture
def home(tmp_path, plane):
    (tmp_path / FOLDER).mkdir()
    lane = Lane(tmp_path / FOLDER, plane)
    lane.start()
    yield tmp_path
    lane.stop()


def test_what_is_asked_is_done_and_answered(home, plane):
    answer = ask(str(home), b'{"service":"flights","to":3,"keep":true,"reason":"r"}', wait_s=5)

    assert b'"committed"' in answer
    assert plane.asked == [("flights", 3, True, "r", local_principal())]


@pytest.mark.parametrize("request_", [b'{"service":"first"}', b'{"too":1}', b"nonsense", b" " * 70_000])
def test_what_is_refused_has_no_answer(home, request_):
    assert ask(str(home), request_, wait_s=5) is None


def test_what_is_begun_may_take_its_time(home, plane):
    plane.may_go.clear()
    threading.Timer(0.3, plane.may_go.set).start()

    assert ask(str(home), b"{}", wait_s=0.1) is not None


def test_what_waited_too_long_is_not_done(tmp_path, plane, monkeypatch):
    class Late(Lane):
        def _accept(self):
            late.wait(10)
            super()._accept()

    late = threading.Event()
    (tmp_path / FOLDER).mkdir()
    lane = Late(tmp_path / FOLDER, plane)
    lane.start()

    assert ask(str(tmp_path), b'{"service":"late"}', wait_s=0.05) is None
    late.set()
    assert ask(str(tmp_path), b'{"service":"in time"}', wait_s=5) is not None
    time.sleep(0.2)  # each caller has a thread of its own

    assert [service for service, *_ in plane.asked] == ["in time"]
    lane.stop()


def test_nobody_listens(tmp_path, plane, home):
    other = tmp_path / "other"
    other.mkdir()

    assert ask(str(other), b"{}", wait_s=5) is None
    lane = Lane(other / FOLDER, plane)  # a folder that is not there: commands do without
    lane.start()
    assert ask(str(other), b"{}", wait_s=5) is None


def test_a_home_with_a_long_path_is_reached_too(tmp_path, plane):
    home = tmp_path / ("n" * 100) / ("m" * 100)
    (home / FOLDER).mkdir(parents=True)
    lane = Lane(home / FOLDER, plane)
    lane.start()

    assert ask(str(home), b'{"service":"far"}', wait_s=5) is not None
    lane.stop()
    assert not (home / FOLDER / NAME).exists()


def test_only_its_user_reaches_it(home):
    assert (home / FOLDER / NAME).stat().st_mode & 0o777 == 0o600
