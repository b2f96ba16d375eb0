"""A clock that is told the time, a disk that fails when it is told to, and short ways to segments."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.reader import SegmentReader
from tidegate.journal.record import RecordKind, Stream, Turn
from tidegate.journal.segment import JournalWriter, SystemFiles

START_US = 1_700_000_000_000_000


class FakeClock:
    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return self.now_us / 1e6

    def forward(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)


class FailingFiles(SystemFiles):
    """The real disk, until a limit or a named call fails.

    Attributes:
        free_bytes: What can still be written; None for no limit.
        failing: Names of calls that raise.
        largest_write: Most bytes that one call takes.
    """

    def __init__(self) -> None:
        self.free_bytes: int | None = None
        self.failing: set[str] = set()
        self.largest_write = 1 << 30
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def create(self, path: Path) -> int:
        self._call("create")
        return super().create(path)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._call("write")
        size = min(len(data), self.largest_write)
        if self.free_bytes is not None:
            size = min(size, self.free_bytes)
            if size == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.free_bytes -= size
        return super().write(descriptor, memoryview(data)[:size])

    def truncate(self, descriptor: int, size: int) -> None:
        self._call("truncate")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._call("sync")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename")
        super().rename(source, target)


def new_writer(
    folder: Path,
    *,
    clock: FakeClock | None = None,
    worker: int = 0,
    max_bytes: int = 1 << 20,
    max_age_s: float = 3600.0,
    files: SystemFiles | None = None,
) -> JournalWriter:
    return JournalWriter(
        folder,
        cell="local",
        node="here",
        worker=worker,
        clock=clock or FakeClock(),
        max_bytes=max_bytes,
        max_age_s=max_age_s,
        files=files,
    )


def new_stream(
    service: str = "delay", *, version: int = 1, arm: str = "stable", kind: RecordKind = RecordKind.PREDICTION
) -> Stream:
    layout = Layout((Column("x", DataType.FLOAT64),), (Column("p", DataType.FLOAT64),))
    return Stream(service, version, Digest("sha256:" + "0" * 64), layout, arm, 1.0, kind)


def new_turn(request_ids: list[bytes], *, at_us: int = START_US, **changes: object) -> Turn:
    n = len(request_ids)
    rows = changes.get("rows_per_request")
    n_rows = sum(rows) if isinstance(rows, list) else n
    turn = Turn(
        request_ids,
        [at_us] * n,
        Batch({"x": np.arange(n_rows, dtype=np.float64)}, n_rows),
        Batch({"p": np.arange(n_rows, dtype=np.float64) / 10}, n_rows),
        service_time_us=100.0,
        batch_rows=n_rows,
    )
    for name, value in changes.items():
        setattr(turn, name, value)
    return turn


def new_ids(n: int, *, at_us: int = START_US, seed: int = 0) -> list[bytes]:
    import random

    make = uuid7_factory(FakeClock(at_us), random.Random(seed))
    return [make() for _ in range(n)]


def read_bodies(path: Path) -> tuple[list[bytes], SegmentReader]:
    with SegmentReader(path, chunk_bytes=256) as reader:
        return [bytes(frame.body) for frame in reader.frames()], reader
