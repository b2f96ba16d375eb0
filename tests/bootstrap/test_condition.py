"""What runs short is said in words, once; what a killed server left is swept."""

from __future__ import annotations

import os
from types import SimpleNamespace

import msgspec
import pytest

from tidegate.bootstrap import condition
from tidegate.bootstrap.condition import Condition, ConditionBoard, read_conditions, resource_conditions
from tidegate.bootstrap.process import ServerSettings
from tidegate.bootstrap.supervisor import ServerRecord, _sweep_sockets
from tidegate.core.home import Home


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def settings(home: Home, **more) -> ServerSettings:
    return ServerSettings(home=str(home.root), **more)


def subjects(home: Home, **more) -> set[str]:
    return {one.subject for one in resource_conditions(settings(home, **more))}


def test_a_disk_and_descriptors_that_run_short_are_named(home, monkeypatch):
    plenty = SimpleNamespace(f_bavail=1 << 30, f_frsize=4096, f_files=1 << 20, f_favail=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: plenty)
    monkeypatch.setattr(condition.resource, "getrlimit", lambda kind: (1 << 20, 1 << 20))
    assert not subjects(home) & {"disk", "descriptors"}

    plenty.f_bavail = 1000
    assert "disk" in subjects(home)
    plenty.f_bavail, plenty.f_favail = 1 << 30, 5
    assert "disk" in subjects(home)
    monkeypatch.setattr(condition.resource, "getrlimit", lambda kind: (256, 256))
    assert "descriptors" in subjects(home)


@pytest.mark.parametrize("memory_mb", [20, 10**9])
def test_a_bound_of_memory_that_cannot_be_kept_is_named(home, memory_mb):
    assert "memory_mb" in subjects(home, memory_mb=memory_mb)
    assert "memory_mb" not in subjects(home, memory_mb=400)


def test_a_condition_is_told_once_until_it_was_gone(home):
    told: list[str] = []
    board = ConditionBoard(home, tell=told.append)
    low, less = Condition("disk", "low", "900 MB"), Condition("disk", "low", "899 MB")

    board.show([low])
    board.show([less])
    assert told == ["900 MB"]
    assert read_conditions(home) == [low]
    board.show([])
    assert read_conditions(home) == []
    board.show([less])
    assert told == ["900 MB", "899 MB"]
    board.clear()
    assert read_conditions(home) == []


def test_the_sockets_of_a_server_that_was_killed_are_swept_and_nothing_else(home, tmp_path):
    record = home.run / "server.json"
    ours, other = tmp_path / "tidegate-abc", tmp_path / "precious"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "x").touch()
        record.write_bytes(msgspec.json.encode(ServerRecord(1, settings(home), str(folder))))
        _sweep_sockets(record)

    assert not ours.exists()
    assert (other / "x").exists()
