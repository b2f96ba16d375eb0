"""What the operator of a server should know: looked at ahead, watched, and said in words.

The supervisor keeps it in one file of the home, where `tidegate status` and the control plane read it.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tidegate.bootstrap.process import ServerSettings, memory_bytes
from tidegate.core.home import Home

_log = logging.getLogger("tidegate.supervisor")

DESCRIPTORS = 8192
"""Connections, sockets of runners and files of one worker; each connection is one."""
DISK_BYTES = 1 << 30
"""Free space below which the journal's next hours are in doubt: some 100 bytes a prediction."""
DISK_FILES = 10_000
MEMORY_BYTES = 256 << 20
LEAST_WORKER_BYTES = 96_000_000
"""A worker takes half of that without a model."""


class Condition(msgspec.Struct, frozen=True):
    """Something about a running server that its operator should know.

    Attributes:
        subject: What it is about.
        state: One word: `restarting`, `quarantined`, `recycled`, `low`.
        words: The matter in words.
    """

    subject: str
    state: str
    words: str


def raise_descriptors() -> None:
    """Take as many file descriptors as the system lets this process and its children have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def resource_conditions(settings: ServerSettings) -> Iterator[Condition]:
    """Yield which of the machine's resources are short."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        yield Condition(
            "descriptors",
            "low",
            f"A process may have {soft:,} files and connections open; a worker under load needs "
            f"{DESCRIPTORS:,}. Raise the limit (ulimit -n) before you start the server.",
        )
    yield from _disk(settings.place.root)
    free_bytes = _available_memory()
    if free_bytes is not None and free_bytes < MEMORY_BYTES:
        yield Condition(
            "memory",
            "low",
            f"{free_bytes / 1e6:.0f} MB of memory are left on this machine. Models may fail to load, and "
            "the system may end processes.",
        )
    if settings.memory_mb * 1_000_000 > memory_bytes():
        yield Condition(
            "memory_mb",
            "low",
            f"The workers may take {settings.memory_mb:,} MB, and there are {memory_bytes() / 1e6:,.0f} MB.",
        )
    elif settings.worker_bytes < LEAST_WORKER_BYTES:
        yield Condition(
            "memory_mb",
            "low",
            f"Each of {settings.n_workers} workers may take {settings.worker_bytes / 1e6:.0f} MB, of which "
            "it needs some 50 for itself. Give memory_mb more, or start fewer workers.",
        )


def _disk(home: Path) -> Iterator[Condition]:
    try:
        found = os.statvfs(home)
    except OSError:
        return
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < DISK_BYTES:
        yield Condition(
            "disk",
            "low",
            f"{free_bytes / 1e6:,.0f} MB are free on the disk of {home}. When it is full, services answer "
            "as their journal mode says: without a record, or not at all.",
        )
    elif found.f_files > 0 and found.f_favail < DISK_FILES:
        yield Condition("disk", "low", f"The disk of {home} has room for {found.f_favail:,} more files only.")


def _available_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


class ConditionBoard:
    """Keeps the present conditions in a file, and tells of each once."""

    def __init__(self, home: Home, *, tell: Callable[[str], None]) -> None:
        self._home = home
        self._tell = tell
        self._present: tuple[Condition, ...] = ()
        self._is_written = True

    def show(self, conditions: Iterable[Condition]) -> None:
        """Replace what is shown."""
        present = tuple(conditions)
        if self._is_written and {(one.subject, one.state) for one in present} == {
            (one.subject, one.state) for one in self._present
        }:
            return  # seconds and megabytes alone are no news
        known = {(one.subject, one.state) for one in self._present}
        for condition in present:
            if (condition.subject, condition.state) not in known:
                self._tell(condition.words)
        self._present = present
        path = _path(self._home)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_bytes(msgspec.json.encode(present))
            draft.replace(path)
            self._is_written = True
        except OSError as error:  # a full disk is one of them
            if self._is_written:
                _log.error("condition.write_failed: %s", error)
            self._is_written = False

    def clear(self) -> None:
        """Show nothing any more."""
        _path(self._home).unlink(missing_ok=True)


def read_conditions(home: Home) -> list[Condition]:
    """Return what the supervisor of a home shows."""
    try:
        return msgspec.json.decode(_path(home).read_bytes(), type=list[Condition])
    except (OSError, msgspec.MsgspecError):
        return []


def _path(home: Home) -> Path:
    return home.run / "condition.json"
