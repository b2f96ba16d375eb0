"""The controller goes on with what it can do when counting fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tidegate.bootstrap import controller as controller_module
from tidegate.bootstrap.controller import Controller
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.retention import Retention
from tidegate.bootstrap.setting import Settings
from tidegate.journal.tailer import Progress, Tailer


def test_releases_and_retention_are_looked_at_while_joining_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticked = {"release": threading.Event(), "retention": threading.Event()}

    class Releases:
        def __init__(self, *_: object, **__: object) -> None: ...

        def tick(self) -> None:
            ticked["release"].set()

        def close(self) -> None: ...

    def fail(_: Tailer) -> Progress:
        raise OverflowError

    def fault(_: object) -> None:
        ticked["retention"].set()
        raise ArithmeticError

    monkeypatch.setattr(controller_module, "Releases", Releases)
    monkeypatch.setattr(Retention, "_look", fault)
    monkeypatch.setattr(Tailer, "poll", fail)
    local = Local(Settings(home=str(tmp_path)))
    followed = Controller(local.home, settings=local.settings)
    followed.start()

    assert all(event.wait(30) for event in ticked.values())
    followed.stop()
    local.close()
    said = {record.message for record in caplog.records}
    assert {"controller.failed", "retention.failed"} <= said
    assert followed.failures == 1
