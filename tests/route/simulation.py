"""A disk in memory, and writers that take turns, stop and die between any two of its operations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random


class Killed(BaseException):
    """The process is gone: raised out of its next file operation."""


class Disk:
    """Files and names, and which of them a loss of power would leave."""

    def __init__(self) -> None:
        self.names: dict[Path, list[bytes]] = {}
        self.durable_names: dict[Path, list[bytes]] = {}
        self._durable_bytes: dict[int, tuple[list[bytes], bytes]] = {}

    def sync_bytes(self, inode: list[bytes]) -> None:
        self._durable_bytes[id(inode)] = (inode, inode[0])

    def sync_names(self, folder: Path) -> None:
        kept = {path: inode for path, inode in self.durable_names.items() if path.parent != folder}
        self.durable_names = kept | {p: i for p, i in self.names.items() if p.parent == folder}

    def lose_power(self, random: Random) -> None:
        """Keep what was synced; of the rest, let chance decide name by name."""
        survivors = dict(self.durable_names)
        for path in sorted(self.names.keys() ^ self.durable_names.keys()):
            if random.random() < 0.5:
                survivors.pop(path, None)
                if path in self.names:
                    survivors[path] = self.names[path]
        for inode in survivors.values():
            inode[0] = self._durable_bytes.get(id(inode), (inode, b""))[1]
        self.names, self.durable_names = survivors, dict(survivors)


class SimulatedFiles:
    """The port over a `Disk`; calls `pause` before each operation, and within a write."""

    def __init__(self, disk: Disk, pause: Callable[[], None] = lambda: None) -> None:
        self.disk = disk
        self.pause = pause

    def make_folder(self, folder: Path) -> None:
        self.pause()

    def names(self, folder: Path) -> list[str]:
        self.pause()
        return [path.name for path in self.disk.names if path.parent == folder]

    def read(self, path: Path) -> bytes:
        self.pause()
        return self._inode(path)[0]

    def exists(self, path: Path) -> bool:
        self.pause()
        return path in self.disk.names

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        self.pause()
        if path in self.disk.names:
            raise FileExistsError(path)
        inode = [b""]
        self.disk.names[path] = inode
        self.pause()
        inode[0] = data[: len(data) // 2]
        self.pause()
        inode[0] = data
        if durable:
            self.pause()
            self.disk.sync_bytes(inode)

    def link(self, source: Path, target: Path) -> None:
        self.pause()
        inode = self._inode(source)
        if target in self.disk.names:
            raise FileExistsError(target)
        self.disk.names[target] = inode

    def rename(self, source: Path, target: Path) -> None:
        self.pause()
        self.disk.names[target] = self._inode(source)
        del self.disk.names[source]

    def remove(self, path: Path) -> None:
        self.pause()
        self.disk.names.pop(path, None)

    def sync_folder(self, folder: Path) -> None:
        self.pause()
        self.disk.sync_names(folder)

    def _inode(self, path: Path) -> list[bytes]:
        try:
            return self.disk.names[path]
        except KeyError:
            raise FileNotFoundError(path) from None


class _Process:
    """A writer that runs one operation at a time, when told to."""

    def __init__(self, program: Callable[[SimulatedFiles], None], disk: Disk) -> None:
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = False
        self.is_over = False
        self.error: BaseException | None = None
        self._files = SimulatedFiles(disk, self._pause)
        self._program = program
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self) -> None:
        self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        self._killed = True
        while not self.is_over:
            self.step()

    def _pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def _run(self) -> None:
        try:
            self._pause()
            self._program(self._files)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            self.error = error
        self.is_over = True
        self._stopped.release()


def interleave(
    programs: Sequence[Callable[[SimulatedFiles], None]],
    disk: Disk,
    schedule: Sequence[tuple[int, int]],
    *,
    check: Callable[[], None],
    finish: bool = True,
) -> None:
    """Run writers in turns on one disk.

    Args:
        programs: What each writer does with its files.
        disk: The disk they share.
        schedule: (writer, operations): how many operations that writer may do next, all others
            stopped; 0 kills it.
        check: Called after every operation.
        finish: Whether those that still live run to their end afterwards; else all are killed.
    """
    processes = [_Process(program, disk) for program in programs]
    for writer, operations in schedule:
        process = processes[writer % len(processes)]
        if operations == 0:
            process.kill()
        for _ in range(operations):
            if not process.is_over:
                process.step()
                check()
    for process in processes:
        while finish and not process.is_over:
            process.step()
            check()
        process.kill()
        if process.error is not None:
            raise process.error
