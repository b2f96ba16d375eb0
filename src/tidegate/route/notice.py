"""Hears from the kernel that a folder has a new file, where it says so.

To look fifty times a second takes a worker a hundredth of a core, though a look takes microseconds: each
time a halted core wakes and finds its caches cold.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# of <sys/inotify.h>
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100

_EVENTS_BYTES = 1 << 16


class Notice:
    """A descriptor that can be read once a folder has a new name in it.

    It only makes looking quicker: whoever relies on it looks now and then all the same, since a folder
    may be replaced by another and a file system may tell nothing.

    Source: inotify(7).
    """

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor that `open_notice` has made."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def clear(self) -> None:
        """Forget what it has told until now."""
        with suppress(BlockingIOError):
            os.read(self._descriptor, _EVENTS_BYTES)

    def close(self) -> None:
        """Hear nothing any more."""
        os.close(self._descriptor)


def open_notice(folder: Path) -> Notice | None:
    """Return a folder's notice; None where the system has no such thing, or no more of them."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "inotify_init1"):
        return None
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if library.inotify_add_watch(descriptor, os.fsencode(folder), _IN_CREATE | _IN_MOVED_TO) < 0:
        os.close(descriptor)
        return None
    return Notice(descriptor)
