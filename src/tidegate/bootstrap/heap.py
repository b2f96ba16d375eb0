"""What this process has taken from the system, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_ARENA_MAX = -8  # <malloc.h>


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class Heap:
    """Measures and trims the C library's heap, where that library can; else only what is resident."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._mallinfo = getattr(self._library, "mallinfo2", None)
        self._trim = getattr(self._library, "malloc_trim", None)
        if self._mallinfo is not None:
            self._mallinfo.restype = _Mallinfo

    def use_one_arena(self) -> None:
        """Have threads that begin from now on share one heap: what one frees another can use."""
        mallopt = getattr(self._library, "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)

    def used_bytes(self) -> int:
        """Return the bytes that the program holds."""
        if self._mallinfo is None:
            return self.resident_bytes()
        info = self._mallinfo()
        return int(info.uordblks) + int(info.hblkhd)

    def trim(self) -> None:
        """Give free pages back to the system. May take some milliseconds."""
        if self._trim is not None:
            self._trim(0)

    def resident_bytes(self) -> int:
        """Return what is resident of this process, shared libraries included; 0 if nobody knows."""
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
        except OSError:
            return 0
