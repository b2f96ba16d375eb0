"""Segments: append-only files of frames, each written by one process and read by any.

A segment begins with `MAGIC` and a header frame (its identity), and ends, if it was closed in
order, with a trailer frame that counts what it holds. While it may grow its name ends in `.open`
and its writer holds a lock on it, so a reader can tell a segment that is being written from one
whose writer died; a closed one is renamed. A frame is acknowledged only when the system has all of
its bytes, so after kill -9 the last frames that a writer answered for are there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.error import InvalidSetting
from tidegate.journal.codec import BODY_HEAD, FORMAT, HEADER, TRAILER, TurnEncoder, encode_stream, frame
from tidegate.journal.record import JournalUnavailable, SegmentIdentity, Stream

MAGIC = b"TGJRNL\x00\x01"
OPEN_SUFFIX = ".open"
SEALED_SUFFIX = ".journal"
DRAFT_SUFFIX = ".draft"

_MAX_STREAMS = 0xFFFF
_RETRY_S = 1.0
_NO_STREAM = b"\x00\x00"
# where a frame's bytes name its stream: after length, checksum, kind and format
_STREAM_AT = slice(10, 12)


class Trailer(msgspec.Struct, frozen=True):
    """What a closed segment holds.

    Attributes:
        frames: Number of frames between header and trailer.
        size_bytes: Where the trailer begins.
        closed_us: When it was closed, microseconds UTC.
    """

    frames: int
    size_bytes: int
    closed_us: int


class Files(Protocol):
    """The calls by which a writer touches the disk; a test puts its own in their place."""

    def create(self, path: Path) -> int: ...

    def write(self, descriptor: int, data: bytes | memoryview) -> int: ...

    def truncate(self, descriptor: int, size: int) -> None: ...

    def sync(self, descriptor: int) -> None: ...

    def close(self, descriptor: int) -> None: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def sync_folder(self, folder: Path) -> None: ...


class SystemFiles:
    """The operating system's own calls."""

    def create(self, path: Path) -> int:
        """Make a file that must not be there, and lock it for as long as the process has it open."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Segment:
    """The segment being written."""

    __slots__ = ("begun_s", "broken", "declared", "descriptor", "frames", "identity", "path", "size_bytes")

    def __init__(self, descriptor: int, path: Path, identity: SegmentIdentity, begun_s: float) -> None:
        self.descriptor = descriptor
        self.path = path
        self.identity = identity
        self.begun_s = begun_s
        self.size_bytes = 0
        self.frames = 0
        self.broken = False
        self.declared = {_NO_STREAM}


class JournalWriter:
    """Appends frames to the segments of one process.

    One thread calls everything but `sync`, which another thread may call at any time.

    Attributes:
        incarnation: Hexadecimal digits that no other process draws.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cell: str,
        node: str,
        worker: int,
        clock: Clock,
        max_bytes: int = 64
        << 20,  # small enough that retention and export can follow by the minute under load
        max_age_s: float = 3600.0,  # an idle service's records reach the closed files within the hour
        incarnation: str | None = None,
        files: Files | None = None,
    ) -> None:
        """Begin the first segment, if that is possible; if not, the next append tries again.

        So a worker starts on a full disk too, and answers as its services' journal modes say.

        Args:
            folder: Where segments are; made if it is not there.
            cell: Name of the cell.
            node: Name of the machine.
            worker: Slot of the worker, or another number of its own for a process that is none.
            clock: Wall time for names and headers, monotonic time for age.
            max_bytes: Size at which a segment is closed; one turn may pass it.
            max_age_s: Age at which a segment is closed, at the next append.
            incarnation: For tests; drawn by default.
            files: For tests; the operating system by default.
        """
        self._folder = folder
        self._place = (cell, node, worker)
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._files: Files = files or SystemFiles()
        self.incarnation = incarnation or secrets.token_hex(8)
        self._sequence = 0
        self._last_us = 0
        self._streams: dict[Stream, TurnEncoder] = {}
        self._declarations: dict[bytes, bytes] = {}
        self._segment: _Segment | None = None
        self._retry_at_s = 0.0
        self._syncs = False
        self._lost: JournalUnavailable | None = None
        self._swap = threading.Lock()  # keeps a descriptor from being closed under a sync
        with suppress(JournalUnavailable):
            self._begin()

    def stream(self, stream: Stream) -> TurnEncoder:
        """Return the encoder of a stream; equal streams share one.

        Raises:
            InvalidSetting: This process has seen 65,535 streams.
        """
        encoder = self._streams.get(stream)
        if encoder is None:
            number = len(self._streams) + 1
            if number > _MAX_STREAMS:
                raise InvalidSetting(
                    f"A worker's journal holds {_MAX_STREAMS} streams at most.", hint="Restart the worker."
                )
            encoder = self._streams[stream] = TurnEncoder(number, stream)
            declaration = encode_stream(number, stream)
            self._declarations[declaration[_STREAM_AT]] = declaration
        return encoder

    def append(self, frames: Sequence[bytes], *, durable: bool = False) -> None:
        """Write frames, all with one call of the system. When it returns they survive the process.

        Args:
            frames: Made by this writer's encoders, or frames that belong to no stream.
            durable: Wait until they survive the machine as well.

        Raises:
            JournalUnavailable: Some or all could not be written (`written` says how many were), or
                could not be synced. The segment stays readable up to them; the next append tries again.
        """
        segment = self._segment
        if segment is None or segment.broken or (segment.frames and self._is_full(segment)):
            segment = self._roll()
        declared = segment.declared
        pieces: Sequence[bytes] = frames
        new: list[bytes] = []
        for piece in frames:
            stream = piece[_STREAM_AT]
            if stream not in declared and stream not in new:
                new.append(stream)
        if new:
            pieces = [*(self._declarations[stream] for stream in new), *frames]
        self._write(segment, pieces, n_declared=len(new))
        segment.frames += len(pieces)
        declared.update(new)
        if durable:
            self.sync()

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk.

        Raises:
            JournalUnavailable: The disk says it is not. What was appended since the last sync must be
                taken for lost: after a failed sync the system may forget the pages, and a second
                sync would succeed without them. So the next append begins a new segment.
        """
        with self._swap:
            self._syncs = True
            segment = self._segment
            if segment is not None and not segment.broken:
                self._sync(segment)
            lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _sync(self, segment: _Segment) -> None:
        try:
            self._files.sync(segment.descriptor)
        except OSError as error:
            segment.broken = True
            self._lost = self._unavailable("synced", error, segment.path)
            self._lost.__cause__ = error

    def close(self) -> None:
        """Close the segment in order. An append afterwards begins a new one."""
        segment = self._segment
        if segment is None:
            return
        if segment.broken:
            with self._swap:
                self._abandon(segment)
        else:
            self._seal(segment)

    @property
    def path(self) -> Path | None:
        """The file being written, if there is one."""
        return self._segment.path if self._segment else None

    def _is_full(self, segment: _Segment) -> bool:
        if segment.size_bytes >= self._max_bytes:
            return True
        return self._clock.monotonic_s() - segment.begun_s >= self._max_age_s

    def _unavailable(self, verb: str, error: OSError, path: Path, *, written: int = 0) -> JournalUnavailable:
        return JournalUnavailable(
            f"The journal segment {path.name} could not be {verb}: {error.strerror or error}.",
            hint="Check free space and permissions of the journal's folder.",
            written=written,
            path=str(path),
        )

    def _roll(self) -> _Segment:
        segment = self._segment
        if segment is not None and segment.broken:
            with self._swap:
                self._abandon(segment)
        elif segment is not None:
            self._seal(segment)
        elif self._clock.monotonic_s() < self._retry_at_s:
            raise JournalUnavailable(
                "The journal has no segment to write to, and the last attempt to begin one was just now.",
                hint="Check free space and permissions of the journal's folder.",
                path=str(self._folder),
            )
        return self._begin()

    def _begin(self) -> _Segment:
        now_us = max(self._clock.wall_us(), self._last_us + 1)
        identity = SegmentIdentity(*self._place, self.incarnation, self._sequence, now_us)
        path = self._folder / (identity.name + OPEN_SUFFIX)
        draft = self._folder / (identity.name + DRAFT_SUFFIX)
        self._sequence += 1  # used up even if this fails: a name is never tried twice
        self._last_us = now_us
        descriptor: int | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._files.create(draft)
            segment = _Segment(descriptor, path, identity, self._clock.monotonic_s())
            header = MAGIC + frame(BODY_HEAD.pack(HEADER, FORMAT, 0) + msgspec.json.encode(identity))
            self._write_all(segment, header)
            # only now: whoever sees it open sees it locked and with its header
            self._files.rename(draft, path)
            self._files.sync_folder(self._folder)
        except OSError as error:
            self._retry_at_s = self._clock.monotonic_s() + _RETRY_S
            if descriptor is not None:
                self._close_quietly(descriptor)
                draft.unlink(missing_ok=True)
            raise self._unavailable("begun", error, path) from error
        self._segment = segment
        return segment

    def _write_all(self, segment: _Segment, data: bytes) -> None:
        """Write `data`, in several calls if need be; `size_bytes` counts what was."""
        written = self._files.write(segment.descriptor, data)
        segment.size_bytes += written
        while written < len(data):
            more = self._files.write(segment.descriptor, memoryview(data)[written:])
            if more == 0:
                raise OSError(0, "nothing was written")
            written += more
            segment.size_bytes += more

    def _write(self, segment: _Segment, pieces: Sequence[bytes], *, n_declared: int) -> None:
        before = segment.size_bytes
        try:
            self._write_all(segment, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except OSError as error:
            written = self._keep_whole(segment, pieces, before)
            raise self._unavailable(
                "written", error, segment.path, written=max(0, written - n_declared)
            ) from error

    def _keep_whole(self, segment: _Segment, pieces: Sequence[bytes], before: int) -> int:
        """Cut a torn frame off the end, or leave the segment; return how many pieces are in it.

        Whole frames stay: a reader may have counted them already.
        """
        end, whole = before, 0
        while whole < len(pieces) and end + len(pieces[whole]) <= segment.size_bytes:
            end += len(pieces[whole])
            whole += 1
        if end != segment.size_bytes:
            try:
                self._files.truncate(segment.descriptor, end)
            except OSError:
                self._abandon(segment)
            segment.size_bytes = end
        segment.frames += whole
        segment.declared.update(piece[_STREAM_AT] for piece in pieces[:whole])
        return whole

    def _abandon(self, segment: _Segment) -> None:
        """Leave a segment as it is: without trailer and under its open name, but no longer locked."""
        self._segment = None
        self._close_quietly(segment.descriptor)

    def _close_quietly(self, descriptor: int) -> None:
        try:
            self._files.close(descriptor)
        except OSError:  # the descriptor is gone all the same, and there is no more to lose
            return

    def _seal(self, segment: _Segment) -> None:
        """Write the trailer and give the segment its closed name.

        A failure leaves it as if the process had died: readable, not known to be complete.
        """
        trailer = Trailer(segment.frames, segment.size_bytes, self._clock.wall_us())
        body = BODY_HEAD.pack(TRAILER, FORMAT, 0) + msgspec.json.encode(trailer)
        before = segment.size_bytes
        with self._swap:
            self._segment = None
            try:
                if self._syncs:
                    self._sync(segment)
                self._write_all(segment, frame(body))
                self._files.rename(segment.path, segment.path.with_suffix(SEALED_SUFFIX))
            except OSError:
                self._drop_trailer(segment, before)
            finally:
                self._close_quietly(segment.descriptor)

    def _drop_trailer(self, segment: _Segment, before: int) -> None:
        if segment.size_bytes == before:
            return
        try:
            self._files.truncate(segment.descriptor, before)
        except OSError:  # a torn trailer reads as the torn end of a dead writer's segment, which it is
            return
