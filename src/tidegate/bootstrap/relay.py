"""Passes on what a server prints, so that none of its processes waits for whoever reads that.

A pipe that nobody empties and a terminal that is held (Ctrl-S) stop whoever writes to them: a model that
prints would stop, and so would every worker at its next line of log. Here all of them write to a pipe
that is always emptied, and one thread waits for the reader.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

MAX_WAITING_BYTES = 1 << 20
"""What is kept for a reader that stands still; what comes beyond it is left out, and how much is told."""

_READ_BYTES = 1 << 16
_MOMENT_S = 0.1
"""A reader that takes nothing for so long stands still; for one that is only slow, whoever prints waits."""
_PATIENCE_S = 1.0
"""How long the end of a server waits for the last lines to be taken."""


class _Stream:
    """One file that is printed to, under one descriptor or, where both are the same, under two."""

    def __init__(self, descriptors: Sequence[int], max_waiting_bytes: int) -> None:
        self._descriptors = descriptors
        self._max_waiting_bytes = max_waiting_bytes
        self._out = os.dup(descriptors[0])
        self._in, write_end = os.pipe()
        for descriptor in descriptors:
            os.dup2(write_end, descriptor)
        os.close(write_end)
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._n_left_out = 0
        self._stands = False
        self._has_ended = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._take, self._give)]
        for thread in self._threads:
            thread.start()

    def restore(self) -> None:
        """Let this process print to the file itself again."""
        for descriptor in self._descriptors:
            os.dup2(self._out, descriptor)

    def finish(self) -> None:
        """Wait until all is passed on, if that takes no more than a moment."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._in)
            os.close(self._out)

    def _take(self) -> None:
        while data := os.read(self._in, _READ_BYTES):
            with self._changed:
                if self._has_room(len(data)):
                    self._tell_left_out()
                    self._put(data)
                else:
                    self._n_left_out += len(data)
                self._changed.notify_all()
        with self._changed:  # every process that could print has ended
            self._has_ended = True
            self._changed.notify_all()

    def _has_room(self, n_bytes: int) -> bool:
        """Tell whether so much more is kept; wait for a reader that is only slow."""
        while self._waiting_bytes + n_bytes > self._max_waiting_bytes:
            if self._stands or not self._changed.wait(_MOMENT_S):
                self._stands = True
                return False
        return True

    def _put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)

    def _tell_left_out(self) -> None:
        if self._n_left_out:
            self._put(b"\n[%d bytes were printed here while nobody read them]\n" % self._n_left_out)
            self._n_left_out = 0

    def _give(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._n_left_out or self._has_ended)
                if not self._pieces:
                    self._tell_left_out()
                if not self._pieces:
                    return
                piece = self._pieces.popleft()
            with suppress(OSError):  # nobody will read it, or there is no room: serving goes on
                self._write(piece)
            with self._changed:
                self._waiting_bytes -= len(piece)
                self._stands = False
                self._changed.notify_all()

    def _write(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._out, piece) :]
            except BlockingIOError:  # whoever shares the file with us has set it so
                select.select([], [self._out], [])


class Relay:
    """While it is entered, this process and those that it starts print by way of it."""

    def __init__(self, *, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        """Take a bound of what is kept for a slow reader, for each of the two outputs."""
        self._max_waiting_bytes = max_waiting_bytes
        self._streams: list[_Stream] = []

    def __enter__(self) -> Self:
        same = os.path.samestat(os.fstat(1), os.fstat(2))
        for descriptors in ([1, 2],) if same else ([1], [2]):
            self._streams.append(_Stream(descriptors, self._max_waiting_bytes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.restore()
        for stream in self._streams:
            stream.finish()
