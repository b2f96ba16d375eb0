"""Turns back from their bytes, many frames at a time.

Frames of one stream that have the same optional sections are put together section by section and
decoded as if they had been one: the cost of Python is per frame and section, that of the values is numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch
from tidegate.core.error import Corrupt
from tidegate.journal import codec
from tidegate.journal.column import Bytes, ColumnCodec, cut_texts, unpack_texts
from tidegate.journal.record import Event, Outcome, Refusal, Stream

Ints = npt.NDArray[np.int64]

_HEAD = np.dtype(
    [
        ("kind", "u1"),
        ("format", "u1"),
        ("stream", "<u2"),
        ("mask", "<u4"),
        ("n_requests", "<u4"),
        ("n_rows", "<u4"),
        ("batch_rows", "<u4"),
        ("flags", "<u2"),
        ("service_us", "<f4"),
        ("arrived_us", "<i8"),
    ]
)

_HEAD_BYTES = _HEAD.itemsize
_EACH_REQUEST, _EACH_ROW = 0, 1
_IDS = 0  # not a bit of the mask: they are always there
# bit, bytes of one, one for each request or row
_FIXED = (
    (_IDS, 16, _EACH_REQUEST),
    (codec.HAS_ROWS, 4, _EACH_REQUEST),
    (codec.HAS_ARRIVALS, 8, _EACH_REQUEST),
    (codec.HAS_SERVICE_TIMES, 4, _EACH_REQUEST),
    (codec.HAS_FLAGS, 2, _EACH_REQUEST),
    (codec.HAS_BUCKETS, 8, _EACH_ROW),
    (codec.HAS_KEYS, 16, _EACH_ROW),
    (codec.HAS_TRACES, 16, _EACH_REQUEST),
    (codec.HAS_TOOK, 4, _EACH_REQUEST),
    (codec.HAS_PARENTS, 8, _EACH_REQUEST),
)
_counts = codec.COUNTS.unpack_from
_size = codec.SIZE.unpack_from
_short = codec.SHORT.unpack_from

_outcomes = msgspec.json.Decoder(list[Outcome])
_refusals = msgspec.json.Decoder(list[Refusal])
_event = msgspec.json.Decoder(Event)
_stream = msgspec.json.Decoder(Stream)


def decode_outcomes(body: memoryview) -> list[Outcome]:
    """Return what `encode_outcomes` was given."""
    return _outcomes.decode(body[codec.BODY_HEAD.size :])


def decode_refusals(body: memoryview) -> list[Refusal]:
    """Return what `encode_refusals` was given."""
    return _refusals.decode(body[codec.BODY_HEAD.size :])


def decode_event(body: memoryview) -> Event:
    """Return what `encode_event` was given."""
    return _event.decode(body[codec.BODY_HEAD.size :])


def decode_stream(body: memoryview) -> Stream:
    """Return what `encode_stream` was given."""
    return _stream.decode(body[codec.BODY_HEAD.size :])


def mask_of(body: memoryview) -> int:
    """Return which optional sections a turn's body has."""
    mask: int = _size(body, 4)[0]
    return mask


class StreamCodec:
    """A stream and the codecs of its columns."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.inputs = ColumnCodec(stream.layout.inputs)
        self.outputs = ColumnCodec(stream.layout.outputs)


class Turns:
    """Turns of one stream whose frames have the same sections, as columns over requests and rows.

    Requests are in the order of the frames, rows in the order of the requests.

    Attributes:
        stream: Whose turns they are.
        n_requests, n_rows: How many there are in all.
        heads: What each frame says once, shape (n_frames,).
    """

    def __init__(self, stream: StreamCodec, mask: int, bodies: Sequence[memoryview]) -> None:
        """Take turns' bodies of one stream and one mask; nothing is decoded until it is asked for."""
        self._codec = stream
        self.stream = stream.stream
        self._mask = mask
        self._bodies = bodies
        self.heads = np.frombuffer(b"".join([body[:_HEAD_BYTES] for body in bodies]), _HEAD)
        self.n_requests = int(self.heads["n_requests"].sum())
        self.n_rows = int(self.heads["n_rows"].sum())
        # Frames of as many requests and rows have their sections in the same places, and are cut
        # all at once; a lone request a turn is the common case.
        self._is_even = len(bodies) > 1 and bool(
            (self.heads["n_requests"] == self.heads["n_requests"][0]).all()
            and (self.heads["n_rows"] == self.heads["n_rows"][0]).all()
        )
        sections = [(bit, width, each) for bit, width, each in _FIXED if bit == _IDS or mask & bit]
        self._rest: list[int] = []
        self._fixed = self._cut_even(sections) if self._is_even else self._cut_each(sections)

    @property
    def form(self) -> tuple[StreamCodec, int]:
        """What turns have to have in common to be put together."""
        return self._codec, self._mask

    @classmethod
    def together(cls, parts: Sequence[Turns]) -> Turns:
        """Return turns of one form as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*parts[0].form, [body for part in parts for body in part._bodies])

    def since(self, frame: int) -> Turns:
        """Return the turns from a frame on, by its position."""
        return Turns(self._codec, self._mask, self._bodies[frame:]) if frame else self

    def _cut_even(self, sections: Sequence[tuple[int, int, int]]) -> dict[int, bytes]:
        counts = (int(self.heads["n_requests"][0]), int(self.heads["n_rows"][0]))
        widths = [width * counts[each] for _, width, each in sections]
        end = _HEAD_BYTES + sum(widths)
        self._rest = [end] * len(self._bodies)
        pieces = _slice_all([body[_HEAD_BYTES:end] for body in self._bodies], widths)
        return {bit: piece for (bit, _, _), piece in zip(sections, pieces, strict=True)}

    def _cut_each(self, sections: Sequence[tuple[int, int, int]]) -> dict[int, bytes]:
        pieces: dict[int, list[memoryview]] = {bit: [] for bit, _, _ in sections}
        wanted = [(width, each, pieces[bit].append) for bit, width, each in sections]
        for body in self._bodies:
            counts = _counts(body, 8)
            at = _HEAD_BYTES
            for width, each, append in wanted:
                end = at + width * counts[each]
                append(body[at:end])
                at = end
            self._rest.append(at)
        return {bit: b"".join(found) for bit, found in pieces.items()}

    @property
    def request_ids(self) -> bytes:
        """16 bytes a request."""
        return self._fixed[_IDS]

    @cached_property
    def request_ms(self) -> Ints:
        """The time that each request's id begins with, milliseconds UTC."""
        halves = np.frombuffer(self._fixed[_IDS], ">u8").reshape(-1, 2)
        return (halves[:, 0] >> 16).astype(np.int64)

    @cached_property
    def frame_of_request(self) -> npt.NDArray[np.intp]:
        """Position of each request's frame."""
        return np.repeat(np.arange(len(self.heads)), self.heads["n_requests"])

    @cached_property
    def rows(self) -> Ints:
        """Number of rows of each request."""
        if self._mask & codec.HAS_ROWS:
            return np.frombuffer(self._fixed[codec.HAS_ROWS], "<u4").astype(np.int64)
        return np.ones(self.n_requests, np.int64)

    @cached_property
    def request_of_row(self) -> npt.NDArray[np.intp]:
        """Position of each row's request."""
        return np.repeat(np.arange(self.n_requests), self.rows)

    @cached_property
    def row_in_request(self) -> Ints:
        """Number of each row within its request."""
        first = np.cumsum(self.rows) - self.rows
        return np.arange(self.n_rows) - np.repeat(first, self.rows)

    def _per_request(self, bit: int, dtype: str, name: str) -> npt.NDArray[Any]:
        if self._mask & bit:
            return np.frombuffer(self._fixed[bit], dtype)
        return np.repeat(self.heads[name], self.heads["n_requests"])

    @cached_property
    def arrived_us(self) -> Ints:
        """When each request arrived, microseconds UTC."""
        return self._per_request(codec.HAS_ARRIVALS, "<i8", "arrived_us")

    @cached_property
    def service_us(self) -> npt.NDArray[np.float32]:
        """Duration of the model call that each request was part of, microseconds."""
        return self._per_request(codec.HAS_SERVICE_TIMES, "<f4", "service_us")

    @cached_property
    def took_us(self) -> npt.NDArray[np.float32]:
        """From arrival to answer of each request, microseconds; the model call where that is not known."""
        if self._mask & codec.HAS_TOOK:
            return np.frombuffer(self._fixed[codec.HAS_TOOK], "<f4")
        return self.service_us

    @cached_property
    def flags(self) -> npt.NDArray[np.uint16]:
        """The flags of each request."""
        return self._per_request(codec.HAS_FLAGS, "<u2", "flags")

    @cached_property
    def buckets(self) -> npt.NDArray[np.float64] | None:
        """Where each row fell on the route's unit interval."""
        if not self._mask & codec.HAS_BUCKETS:
            return None
        return np.frombuffer(self._fixed[codec.HAS_BUCKETS], "<f8")

    @property
    def key_hashes(self) -> bytes | None:
        """16 bytes a row."""
        return self._fixed.get(codec.HAS_KEYS)

    @property
    def key_numbers(self) -> npt.NDArray[np.uint64] | None:
        """The first half of each row's key hash, a number that stands for the key; None without keys."""
        hashes = self.key_hashes
        return None if hashes is None else np.frombuffer(hashes, "<u8")[::2]

    @property
    def trace_ids(self) -> bytes | None:
        """16 bytes a request."""
        return self._fixed.get(codec.HAS_TRACES)

    @property
    def parent_ids(self) -> bytes | None:
        """8 bytes a request: the caller's span, zeros where the caller does not sample."""
        return self._fixed.get(codec.HAS_PARENTS)

    @cached_property
    def _texts(self) -> tuple[list[str], list[str | None] | None, list[str | None] | None, list[int]]:
        """Who answered each frame; each request's error and caller's id; where each frame's columns begin."""
        answered: list[str] = []
        columns: dict[int, list[str | None]] = {
            bit: [] for bit in (codec.HAS_ERRORS, codec.HAS_CALLERS) if self._mask & bit
        }
        starts: list[int] = []
        counts = self.heads["n_requests"].tolist()
        for body, start, n_requests in zip(self._bodies, self._rest, counts, strict=True):
            at = start
            if self._mask & codec.HAS_ANSWERED_BY:
                (length,) = _short(body, at)
                at += 2 + length
                answered.append(str(body[at - length : at], "utf-8"))
            for values in columns.values():
                cut: list[memoryview] = []
                at = cut_texts(body, at + 4, n_requests, cut)
                values.extend(unpack_texts(cut[0], cut[1], text=True))
            starts.append(at)
        return answered, columns.get(codec.HAS_ERRORS), columns.get(codec.HAS_CALLERS), starts

    @property
    def answered_by(self) -> list[str] | None:
        """Name of the fallback that answered, one a frame; None if the version itself did."""
        return self._texts[0] if self._mask & codec.HAS_ANSWERED_BY else None

    @property
    def errors(self) -> list[str | None] | None:
        """Code of each request's error; None if there was none at all."""
        return self._texts[1] if self._mask & codec.HAS_ERRORS else None

    @property
    def caller_ids(self) -> list[str | None] | None:
        """The id that the caller gave each request; None if there was none at all."""
        return self._texts[2] if self._mask & codec.HAS_CALLERS else None

    def _columns(self, bit: int, columns: ColumnCodec) -> Batch | None:
        if not self._mask & bit:
            return None
        skips = bit == codec.HAS_INPUTS and self.has_outputs
        even = self._even_columns(columns, skips=skips)
        if even is not None:
            return columns.decode(even, self.n_rows)
        parts = self._column_parts(skips=skips)
        sinks: list[list[memoryview]] = [[] for _ in range(columns.n_pieces)]
        for part, n_rows in zip(parts, self.heads["n_rows"].tolist(), strict=True):
            for sink, piece in zip(sinks, columns.cut(part, n_rows), strict=True):
                sink.append(piece)
        joined: list[Bytes] = [found[0] if len(found) == 1 else b"".join(found) for found in sinks]
        return columns.decode(joined, self.n_rows)

    def _even_columns(self, columns: ColumnCodec, *, skips: bool) -> list[bytes] | None:
        """Cut one side's columns out of all frames at once, if they stand in the same places."""
        if not self._is_even or self._mask & _TEXTS:
            return None
        n_rows = int(self.heads["n_rows"][0])
        widths = columns.widths(n_rows)
        before = self._codec.outputs.widths(n_rows) if skips else []
        if widths is None or before is None:
            return None
        at = self._rest[0] + (4 + sum(before) if skips else 0)
        size = sum(widths)
        end = at + 4 + size
        sizes, *pieces = _slice_all([body[at:end] for body in self._bodies], [4, *widths])
        if sizes != codec.SIZE.pack(size) * len(self._bodies):
            raise Corrupt(f"A frame's columns take {size} bytes, it has others.")
        return pieces

    def _column_parts(self, *, skips: bool) -> list[memoryview]:
        """Return the bytes of one side's columns, one piece a frame."""
        parts: list[memoryview] = []
        starts = self._texts[3] if self._mask & _TEXTS else self._rest
        for body, start in zip(self._bodies, starts, strict=True):
            at = start + 4 + _size(body, start)[0] if skips else start
            end = at + 4 + _size(body, at)[0]
            if end > len(body):
                raise Corrupt("A frame's columns reach beyond its end.")
            parts.append(body[at + 4 : end])
        return parts

    @property
    def has_outputs(self) -> bool:
        """Whether the answers' rows are stored."""
        return bool(self._mask & codec.HAS_OUTPUTS)

    @cached_property
    def outputs(self) -> Batch | None:
        """The answers' rows, as stored; None if there are none."""
        return self._columns(codec.HAS_OUTPUTS, self._codec.outputs)

    @cached_property
    def inputs(self) -> Batch | None:
        """The requests' rows, as stored; None if there are none."""
        return self._columns(codec.HAS_INPUTS, self._codec.inputs)

    @cached_property
    def event_us(self) -> Ints:
        """When each row's event happened: the contract's timestamp, or else the arrival."""
        name = self.stream.layout.event_time
        if name and self.inputs is not None:
            return self.inputs[name].astype(np.int64)
        return self.arrived_us[self.request_of_row]


def _slice_all(parts: Sequence[memoryview], widths: Sequence[int]) -> list[bytes]:
    """Cut parts of the same size into pieces of these widths, and put like pieces together.

    Raises:
        Corrupt: The parts have another size than the widths add up to.
    """
    total = sum(widths)
    joined = b"".join(parts)
    if set(map(len, parts)) != {total}:
        raise Corrupt(f"A frame's sections take {total} bytes, it has others.")
    if len(widths) == 1:
        return [joined]
    table = np.frombuffer(joined, np.uint8).reshape(len(parts), total)
    ends = np.cumsum(widths).tolist()
    return [table[:, end - width : end].tobytes() for width, end in zip(widths, ends, strict=True)]


_TEXTS = codec.HAS_ANSWERED_BY | codec.HAS_ERRORS | codec.HAS_CALLERS
