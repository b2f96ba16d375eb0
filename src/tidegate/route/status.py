"""What each worker follows and has ready, in one small file a worker, for whoever commits a change."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from tidegate.core.digest import canonical_json
from tidegate.route.file import Files, LocalFiles

_NAME = re.compile(r"worker\.\d+\.(\d+)\.(json|draft)\Z")


class ServiceStatus(msgspec.Struct, frozen=True):
    """One service in one worker.

    Attributes:
        generation: The generation by which this worker answers requests.
        ready: Versions that have loaded, warmed up and answered their check inputs.
        failed: Version -> why it could not be made ready, in words.
    """

    generation: int = 0
    ready: tuple[int, ...] = ()
    failed: dict[int, str] = {}


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker process.

    Attributes:
        slot: Place in the supervisor's list, from 0; a worker that is replaced hands it on.
        pid: Process id.
        started: Start time of the process as `process_start` gives it: tells two processes apart
            that had the same id one after the other.
        incarnation: Counts the processes that had this slot; the journal's files carry it too.
        sequence: The route's sequence that it follows.
        services: Name -> what it has of that service.
        draining: True once it takes no new requests; no change waits for it.
        updated_us: When this was written, microseconds UTC.
    """

    slot: int
    pid: int
    started: str
    incarnation: int = 0
    sequence: int = 0
    services: dict[str, ServiceStatus] = {}
    draining: bool = False
    updated_us: int = 0

    def of(self, service: str) -> ServiceStatus:
        """Return what the worker has of `service`; nothing, where it has not heard of it."""
        return self.services.get(service, ServiceStatus())


def process_start(pid: int) -> str | None:
    """Return the start time of a living process, in the operating system's own form, or None if dead.

    Where there is no /proc the form is empty, and a process that took over a dead one's id is
    taken for it.

    Source: proc_pid_stat(5): field 3 is the state, field 22 the start in clock ticks since boot.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return "" if _answers(pid) else None
    # The second field is the command's name in brackets, which may hold brackets and blanks itself.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def is_alive(status: WorkerStatus) -> bool:
    """Tell whether the process that wrote `status` still exists; a stopped one does."""
    return process_start(status.pid) == status.started


class StatusFile:
    """The status of one worker, written by that worker.

    Args:
        folder: `home.workers(cell)`.
        slot: The worker's slot.
        pid: The worker's process id; this process's if None.
        files: File operations; the local file system if None.
    """

    def __init__(
        self, folder: Path, *, slot: int, pid: int | None = None, files: Files | None = None
    ) -> None:
        self._files = files or LocalFiles()
        pid = os.getpid() if pid is None else pid
        self._path = folder / f"worker.{slot}.{pid}.json"
        self._draft = folder / f"worker.{slot}.{pid}.draft"

    def write(self, status: WorkerStatus) -> None:
        """Replace the status in one step.

        Raises:
            OSError: It cannot be written.
        """
        # Not durable: after a loss of power no worker is left to have a status.
        self._files.remove(self._draft)
        self._files.write(self._draft, canonical_json(status), durable=False)
        self._files.rename(self._draft, self._path)

    def remove(self) -> None:
        """Take the status away when the worker ends.

        Raises:
            OSError: It cannot be removed.
        """
        self._files.remove(self._path)


class StatusBoard:
    """Reads the workers' status files of one cell.

    Args:
        folder: `home.workers(cell)`.
        files: File operations; the local file system if None.
    """

    def __init__(self, folder: Path, *, files: Files | None = None) -> None:
        self._folder = folder
        self._files = files or LocalFiles()

    def live(self) -> list[WorkerStatus]:
        """Return the status of each living worker that takes requests, by slot and process id.

        Raises:
            OSError: The folder cannot be read.
        """
        found = []
        for name in self._files.names(self._folder):
            match = _NAME.match(name)
            status = self._load(name) if match and match[2] == "json" else None
            if status is not None and is_alive(status) and not status.draining:
                found.append(status)
        return sorted(found, key=lambda status: (status.slot, status.pid))

    def sweep(self) -> int:
        """Remove what dead processes left; for the supervisor, before it starts a worker.

        Returns:
            How many files were removed.

        Raises:
            OSError: The folder cannot be read, or a file cannot be removed.
        """
        removed = 0
        for name in self._files.names(self._folder):
            match = _NAME.match(name)
            if match is None:
                continue
            status = self._load(name) if match[2] == "json" else None
            alive = process_start(int(match[1])) is not None if status is None else is_alive(status)
            if not alive:
                self._files.remove(self._folder / name)
                removed += 1
        return removed

    def _load(self, name: str) -> WorkerStatus | None:
        try:
            return msgspec.json.decode(self._files.read(self._folder / name), type=WorkerStatus)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None  # gone since the listing, or torn by a loss of power: no living worker's
