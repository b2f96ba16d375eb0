"""Reading a segment: every whole frame up to its end or its first damage, and where that is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from zlib import crc32

import msgspec

from tidegate.core.error import NotFound
from tidegate.journal.codec import BODY_HEAD, FRAME_HEAD, HEADER, MAX_BODY_BYTES, TRAILER
from tidegate.journal.record import SegmentIdentity
from tidegate.journal.segment import MAGIC, OPEN_SUFFIX, SEALED_SUFFIX, Trailer

_identity = msgspec.json.Decoder(SegmentIdentity)
_trailer = msgspec.json.Decoder(Trailer)
_frame_head = FRAME_HEAD.unpack_from
_new = tuple.__new__  # half the price of a named tuple's own, paid for each frame
_MIN_BODY_BYTES = BODY_HEAD.size
_HEADER_BYTES = 1 << 16


class Damage(msgspec.Struct, frozen=True):
    """Bytes that are not what was written. Nothing after them in the segment can be trusted.

    Attributes:
        segment: The segment's name.
        offset: Where the first frame that cannot be read begins, bytes from the segment's start.
        reason: What is wrong with it.
    """

    segment: str
    offset: int
    reason: str


class End(StrEnum):
    """How a segment ends, as far as one can tell now."""

    GROWING = "growing"  # its writer lives; more may come
    COMPLETE = "complete"  # its writer closed it, and everything is there
    ENDED = "ended"  # its writer is gone, and what is there is whole
    DAMAGED = "damaged"


class Frame(NamedTuple):
    """One frame.

    Attributes:
        offset: Where it begins, bytes from the segment's start.
        end: Where the next one begins.
        body: Its body.
    """

    offset: int
    end: int
    body: memoryview


class SegmentEntry(NamedTuple):
    """A segment in a folder."""

    name: str
    path: Path


def list_segments(folder: Path) -> list[SegmentEntry]:
    """Return the segments in a folder, by time of creation."""
    found: dict[str, Path] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, dot, suffix = entry.name.rpartition(".")
                if dot + suffix in (OPEN_SUFFIX, SEALED_SUFFIX):
                    found[name] = Path(entry.path)
    except FileNotFoundError:
        return []
    return [SegmentEntry(name, found[name]) for name in sorted(found)]


def _decode_identity(body: memoryview) -> SegmentIdentity | None:
    try:
        return _identity.decode(body[BODY_HEAD.size :]) if body[:1] == bytes([HEADER]) else None
    except msgspec.MsgspecError:
        return None


def _open(path: Path) -> tuple[int, bool]:
    """Open a segment under either of its names; say whether it was the closed one."""
    sealed, growing = path.with_suffix(SEALED_SUFFIX), path.with_suffix(OPEN_SUFFIX)
    # the closed name twice: it may be renamed between the first and the second try
    for candidate in (sealed, growing, sealed):
        try:
            return os.open(candidate, os.O_RDONLY | os.O_CLOEXEC), candidate is sealed
        except FileNotFoundError:
            continue
    raise NotFound(f"There is no journal segment {path.stem!r} in {path.parent}.", path=str(path))


class SegmentReader:
    """Reads the frames of one segment, which may be growing.

    Attributes:
        name: The segment's name.
        identity: What its header says; None if that cannot be read.
        position: Where the next frame to be read begins. May be set to such a place before `read`.
        end: How the last reading ended.
        damage: Where reading stopped for good, if it did.
    """

    def __init__(self, path: Path, *, position: int = 0, chunk_bytes: int = 1 << 20) -> None:
        """Open a segment and read its header.

        Args:
            path: The file, under its open or its closed name; the other one is tried as well.
            position: Where to begin: 0, or what `position` or a frame's `end` once said.
            chunk_bytes: How much to read at a time. A larger frame is read whole.

        Raises:
            NotFound: There is no such segment.
        """
        self.name = path.stem
        self._descriptor, self._sealed = _open(path)
        self._final = self._sealed
        self._chunk_bytes = chunk_bytes
        self._want = chunk_bytes
        self._suspect = -1
        self._n_frames: int | None = None  # counted only where reading begins at the first frame
        self.identity: SegmentIdentity | None = None
        self.damage: Damage | None = None
        self.end = End.GROWING
        self.position = 0
        self._read_header()
        if position > self.position:
            self.position = position
            self._n_frames = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    @property
    def size_bytes(self) -> int:
        """Size of the file now."""
        return os.fstat(self._descriptor).st_size

    def frames(self) -> Iterator[Frame]:
        """Read the frames from `position` on until there are no more now."""
        while found := self.read():
            yield from found

    def read(self) -> list[Frame]:
        """Read the next frames, about a chunk of them; none if there are none now.

        After none, `end` says whether there can be more later. Header and trailer are not given.
        """
        try:
            while not self._is_over():
                found = self._read_chunk()
                if found:
                    return found
                if self._is_over() or self._is_exhausted():
                    break
        except OSError as error:  # a bad sector: the other segments can still be read
            self._stop(self.position, f"it cannot be read: {error.strerror}")
        return []

    def _is_over(self) -> bool:
        return self.end is End.DAMAGED or self.end is End.COMPLETE

    def _read_header(self) -> None:
        magic = os.pread(self._descriptor, len(MAGIC), 0)
        if magic != MAGIC:
            self._stop(0, "it does not begin as a journal segment")
            return
        self.position = len(MAGIC)
        data = os.pread(self._descriptor, _HEADER_BYTES, self.position)
        if len(data) >= FRAME_HEAD.size:
            size, checksum = FRAME_HEAD.unpack_from(data)
            body = memoryview(data)[FRAME_HEAD.size : FRAME_HEAD.size + size]
            if crc32(body, size) == checksum:
                self.identity = _decode_identity(body)
            if self.identity is not None:
                self.position += FRAME_HEAD.size + size
                self._n_frames = 0
                return
        self._stop(self.position, "its header cannot be read")

    def _read_chunk(self) -> list[Frame]:
        start = self.position
        data = os.pread(self._descriptor, self._want, start)
        self._want = self._chunk_bytes
        view = memoryview(data)
        found: list[Frame] = []
        at, n_bytes, head_bytes = 0, len(data), FRAME_HEAD.size
        while n_bytes - at >= head_bytes:
            size, checksum = _frame_head(data, at)
            end = at + head_bytes + size
            if not _MIN_BODY_BYTES <= size <= MAX_BODY_BYTES:
                self._suspect_at(start + at, f"the length {size} is none that a frame can have")
                break
            if end > n_bytes:
                if at == 0 and start + end <= self.size_bytes:
                    self._want = end
                break
            body = view[at + head_bytes : end]
            if crc32(body, size) != checksum:
                self._suspect_at(start + at, "the checksum does not match")
                break
            if body[0] == TRAILER:
                self._close_at(start + at, start + end, body, n_before=len(found))
                break
            found.append(_new(Frame, (start + at, start + end, body)))
            at = end
        self.position = start + at
        if self._n_frames is not None:
            self._n_frames += len(found)
        return found

    def _stop(self, offset: int, reason: str) -> None:
        self.end = End.DAMAGED
        self.damage = Damage(self.name, offset, reason)

    def _suspect_at(self, offset: int, reason: str) -> None:
        """Call it damage at the second look, if its writer lives.

        A writer that ran out of space cuts a torn frame off and writes another in its place; a read
        that falls between the two sees a mixture.
        """
        if self._final or self._suspect == offset:
            self._stop(offset, reason)
        self._suspect = offset

    def _close_at(self, offset: int, end: int, body: memoryview, *, n_before: int) -> None:
        try:
            trailer = _trailer.decode(body[BODY_HEAD.size :])
        except msgspec.MsgspecError:
            self._stop(offset, "its closing mark cannot be read")
            return
        n_frames = None if self._n_frames is None else self._n_frames + n_before
        if trailer.size_bytes != offset or n_frames not in (None, trailer.frames):
            self._stop(offset, "its closing mark counts other frames than there are")
        elif self.size_bytes > end:
            self._stop(end, "there are bytes after its closing mark")
        else:
            self.end = End.COMPLETE

    def _is_exhausted(self) -> bool:
        """Tell whether there is nothing more to read now, and find out how the segment ends."""
        rest = self.size_bytes - self.position
        if self._want > self._chunk_bytes or self._has_whole(rest):
            return False
        if not self._final:
            if self._is_being_written():
                self.end = End.GROWING
                return True
            self._final = True  # it can no longer grow, but may have since the last look
            return False
        if rest < 0:
            self._stop(self.position, f"it is {-rest} bytes shorter than it was")
        elif rest:
            self._stop(self.position, f"the last frame is cut off after {rest} bytes")
        elif self._sealed:
            self._stop(self.position, "it was closed, and its closing mark is not there")
        else:
            self.end = End.ENDED
        return True

    def _has_whole(self, rest: int) -> bool:
        if rest < FRAME_HEAD.size:
            return False
        (size, _) = FRAME_HEAD.unpack(os.pread(self._descriptor, FRAME_HEAD.size, self.position))
        return rest >= FRAME_HEAD.size + int(size)

    def _is_being_written(self) -> bool:
        """Tell whether a process has the segment open for writing, by the lock that it holds."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False
