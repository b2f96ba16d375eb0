"""The few file operations that routes and worker status are made of, as a port.

A simulation puts its own in place of `LocalFiles` and stops or kills a writer between any two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """File operations; each raises OSError as the operating system does, unless said otherwise."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; nothing where it is there."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder; none where there is no folder."""
        ...

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file."""
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether there is such a file; one call to the operating system, for polling."""
        ...

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        """Make a new file; if `durable`, return when its bytes survive a loss of power."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError where that name is taken."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of whatever had it."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a name; nothing where there is none."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names survive a loss of power."""
        ...


class LocalFiles:
    """A local file system that has hard links."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)  # noqa: PTH208  names, not paths, and three times as quick
        except FileNotFoundError:
            return []

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def exists(self, path: Path) -> bool:
        try:
            os.stat(path)  # noqa: PTH116  polled fifty times a second by every worker
        except FileNotFoundError:
            return False
        return True

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        with path.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
