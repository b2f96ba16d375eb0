"""Writes the journal beside the event loop, so that a disk that stalls does not stall the loop.

A write goes to a thread and is waited for, but no longer than a moment: on a healthy disk it is done by
then, and whoever appended goes on as if it had written itself. Where it is not, the frames wait in order
behind the one that stands, and their owner is told in the loop when they are written.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from tidegate.core.clock import Clock
from tidegate.journal.codec import TurnEncoder
from tidegate.journal.record import JournalUnavailable, Stream
from tidegate.journal.segment import JournalWriter

_log = logging.getLogger("tidegate.journal")

MOMENT_S = 0.005
"""How long the loop waits for a write: a page cache takes some microseconds, so what takes longer stands."""

MAX_WAITING_BYTES = 32 << 20
"""Frames kept while the disk stands; beyond it they are refused as on a full disk."""

KNOWN_STALL_S = 0.25
"""A write that stands for so long is no hiccup."""


class Writing:
    """Frames on their way to the disk.

    Attributes:
        error: Why they were not, or not all, written; None while they wait and when they are.
    """

    __slots__ = ("_then", "begun_s", "done", "error", "frames", "size_bytes")

    def __init__(self, frames: Sequence[bytes], begun_s: float) -> None:
        self.frames: Sequence[bytes] = frames
        self.size_bytes = sum(map(len, frames))
        self.begun_s = begun_s
        self.done = False
        self.error: JournalUnavailable | None = None
        self._then: Callable[[Writing], None] | None = None

    def then(self, tell: Callable[[Writing], None]) -> None:
        """Have `tell` called in the loop once it is done."""
        self._then = tell

    def tell(self) -> None:
        """Call whoever waits for it."""
        if self._then is not None:
            self._then(self)


class JournalLane:
    """A writer's one way in, for an event loop that must not wait for the disk."""

    def __init__(
        self,
        writer: JournalWriter,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Clock,
        moment_s: float = MOMENT_S,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """Take a writer, which nobody else may append to.

        Args:
            writer: The writer.
            loop: The loop that everything but the thread runs in.
            clock: Time.
            moment_s: How long `append` waits.
            max_waiting_bytes: Bound of what waits for a disk that stands.
        """
        self._writer = writer
        self._loop = loop
        self._clock = clock
        self._moment_s = moment_s
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Writing] = deque()
        self._waiting_bytes = 0
        # a handshake of two locks, since events and queues cost the loop several times as much
        self._work, self._done = threading.Lock(), threading.Lock()
        self._work.acquire()
        self._done.acquire()
        self._handed: Writing | None = None
        self._tells = False
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False

    def stream(self, stream: Stream) -> TurnEncoder:
        """Return the encoder of a stream; see `JournalWriter.stream`."""
        return self._writer.stream(stream)

    def sync(self) -> None:
        """Wait until all that is written is on the disk; in a thread. See `JournalWriter.sync`."""
        self._writer.sync()

    @property
    def stalled_s(self) -> float:
        """How long the write that stands has stood, seconds; 0 if none does."""
        handed = self._handed
        return 0.0 if handed is None else self._clock.monotonic_s() - handed.begun_s

    @property
    def is_stalled(self) -> bool:
        """Whether the disk is known to stand: who need not wait for it should not."""
        return self._handed is not None and self.stalled_s > KNOWN_STALL_S

    def append(self, frames: Sequence[bytes], *, inline: bool = False) -> Writing | None:
        """Write frames.

        Args:
            frames: As `JournalWriter.append` takes them.
            inline: Write in this thread if nothing waits: for a loop that has nobody else to serve
                meanwhile. It saves the hand-over, some tens of microseconds.

        Returns:
            None if they are written; else what they became, to be told of later.

        Raises:
            JournalUnavailable: As `JournalWriter.append`; or too much waits for a disk that stands.
        """
        if self._handed is None:
            if inline:
                self._writer.append(frames)
                return None
            return self._hand_over(Writing(frames, self._clock.monotonic_s()))
        writing = Writing(frames, self._clock.monotonic_s())
        if self._waiting_bytes + writing.size_bytes > self._max_waiting_bytes:
            raise JournalUnavailable(
                f"The disk of the journal has stood for {self.stalled_s:.1f} s, and no more can wait for it.",
                hint="Check the disk; the journal goes on by itself when it does.",
            )
        self._waiting.append(writing)
        self._waiting_bytes += writing.size_bytes
        return writing

    def withdraw(self, writing: Writing) -> bool:
        """Take back frames whose writing has not begun; tell whether that was so."""
        try:
            self._waiting.remove(writing)
        except ValueError:
            return False
        self._waiting_bytes -= writing.size_bytes
        return True

    def close(self, *, within_s: float = 5.0) -> None:
        """Wait for what is being written, write what waits, and close the writer.

        A disk that stands for longer keeps the rest: nobody was told that it is written.
        """
        give_up_s = self._clock.monotonic_s() + within_s
        if self._handed is not None and not self._done.acquire(timeout=within_s):
            _log.error("journal.not_closed waiting=%d", 1 + len(self._waiting))
            return
        self._handed = None
        while self._waiting and self._clock.monotonic_s() < give_up_s:
            writing = self._waiting.popleft()
            try:
                self._writer.append(writing.frames)
            except JournalUnavailable as error:
                writing.error = error
            writing.done = True
        if self._thread is not None:
            self._closing = True
            self._work.release()
            self._thread.join(1.0)
        self._writer.close()

    # --- the hand-over ---

    def _hand_over(self, writing: Writing) -> Writing | None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
            self._thread.start()
        self._tells = False
        self._handed = writing
        self._work.release()
        if not self._done.acquire(timeout=self._moment_s):
            with self._guard:
                # from here on the thread says so itself, unless it was done just now
                self._tells = not writing.done
            if self._tells:
                return writing
            self._done.acquire()
        self._handed = None
        if writing.error is not None:
            raise writing.error
        return None

    def _write_all(self) -> None:
        while True:
            self._work.acquire()
            if self._closing:
                return
            writing = self._handed
            assert writing is not None
            try:
                self._writer.append(writing.frames)
            except JournalUnavailable as error:
                writing.error = error
            except BaseException as error:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
                _log.exception("journal.failed")
                writing.error = JournalUnavailable(f"The journal failed: {type(error).__name__}.")
            with self._guard:
                writing.done = True
                tells = self._tells
            self._done.release()
            if tells:
                self._loop.call_soon_threadsafe(self._take_back)

    def _take_back(self) -> None:
        """Learn in the loop that the write that stood is done, and hand over what waits behind it."""
        if self._handed is None or not self._done.acquire(blocking=False):
            return  # `close` has learnt it before
        written = [self._handed]
        self._handed = None
        while self._waiting:
            following = self._waiting.popleft()
            self._waiting_bytes -= following.size_bytes
            following.begun_s = self._clock.monotonic_s()
            try:
                if self._hand_over(following) is not None:
                    break  # it stands again
            except JournalUnavailable:
                pass  # it keeps the error, and its owner is told
            written.append(following)
        for writing in written:  # only now: who hears of it may append
            writing.tell()
