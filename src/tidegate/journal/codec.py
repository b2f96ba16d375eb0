"""Frames: one turn's rows of one stream as checksummed bytes, column by column.

A frame is its body's length (u32), a checksum (u32, CRC-32 of the body that starts from the length,
so that neither can be damaged alone) and the body. A body starts with its kind (u8), the format of
that kind (u8) and the stream it belongs to (u16, 0 for none); a reader passes over kinds and formats
that it does not know. All numbers are little-endian.

The body of a turn, its optional sections each announced by a bit of the mask:

    head           see `_HEAD`
    request ids    16 bytes a request
    rows           u32 a request            unless each has one row
    arrived        i64 a request            unless there is one request; the head has the first
    service time   f32 a request            unless all have the head's
    flags          u16 a request            unless all have the head's
    buckets        f64 a row
    key hashes     16 bytes a row
    trace ids      16 bytes a request
    took           f32 a request
    parent ids     8 bytes a request
    answered by    u16 length, UTF-8
    errors         u32 size, texts          a request
    caller ids     u32 size, texts          a request
    outputs        u32 size, columns
    inputs         u32 size, columns        last: whoever counts does not read them
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from zlib import crc32

import msgspec
import numpy as np

from tidegate.core.error import InvalidSetting
from tidegate.journal.column import ColumnCodec, pack, pack_texts
from tidegate.journal.record import Event, Outcome, Refusal, Stream, Turn

FRAME_HEAD = struct.Struct("<II")
BODY_HEAD = struct.Struct("<BBH")
MAX_BODY_BYTES = 1 << 30

HEADER = 1
STREAM = 2
TURN = 3
OUTCOMES = 4
REFUSALS = 5
EVENT = 6
TRAILER = 7

FORMAT = 1

# kind, format, stream, mask, requests, rows, batch rows, flags, service time, first arrival
TURN_HEAD = struct.Struct("<BBHIIIIHfq")

HAS_ROWS = 1
HAS_ARRIVALS = 1 << 1
HAS_SERVICE_TIMES = 1 << 2
HAS_FLAGS = 1 << 3
HAS_BUCKETS = 1 << 4
HAS_KEYS = 1 << 5
HAS_TRACES = 1 << 6
HAS_ANSWERED_BY = 1 << 7
HAS_ERRORS = 1 << 8
HAS_CALLERS = 1 << 9
HAS_OUTPUTS = 1 << 10
HAS_INPUTS = 1 << 11
HAS_TOOK = 1 << 12
HAS_PARENTS = 1 << 13

SIZE = struct.Struct("<I")
COUNTS = struct.Struct("<II")
_F8 = np.dtype("<f8")
SHORT = struct.Struct("<H")
_FLOAT = struct.Struct("<f")  # of one number a third of what an array takes
_json = msgspec.json.Encoder()


def frame(body: bytes) -> bytes:
    """Return `body` as a frame.

    Raises:
        InvalidSetting: It is larger than a reader would believe.
    """
    size = len(body)
    if size > MAX_BODY_BYTES:
        raise InvalidSetting(
            f"A journal frame may have {MAX_BODY_BYTES} bytes, this one has {size}.",
            hint="Lower the service's limit of rows a request.",
        )
    return FRAME_HEAD.pack(size, crc32(body, size)) + body


def _json_frame(kind: int, value: object, *, stream: int = 0) -> bytes:
    return frame(BODY_HEAD.pack(kind, FORMAT, stream) + _json.encode(value))


def encode_stream(stream_id: int, stream: Stream) -> bytes:
    """Return the frame that declares a stream to the readers of a segment."""
    return _json_frame(STREAM, stream, stream=stream_id)


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """Return a frame of outcomes."""
    return _json_frame(OUTCOMES, outcomes)


def encode_refusals(refusals: Sequence[Refusal]) -> bytes:
    """Return a frame of counted refusals."""
    return _json_frame(REFUSALS, refusals)


def encode_event(event: Event) -> bytes:
    """Return the frame of one event."""
    return _json_frame(EVENT, event)


def _sized(pieces: list[bytes]) -> Iterable[bytes]:
    return (SIZE.pack(sum(map(len, pieces))), *pieces)


class TurnEncoder:
    """Encodes the turns of one stream; made by the segment writer, which knows the stream's number."""

    def __init__(self, stream_id: int, stream: Stream) -> None:
        self.stream_id = stream_id
        self.stream = stream
        self._inputs = ColumnCodec(stream.layout.inputs)
        self._outputs = ColumnCodec(stream.layout.outputs)

    def encode(self, turn: Turn) -> bytes:
        """Return the frame of one turn.

        Raises:
            InvalidSetting: It is too large for a frame.
        """
        ids = turn.request_ids
        n_requests = len(ids)
        flags = turn.flags
        service_time = turn.service_time_us
        mask = 0
        pieces = [b"", *ids]
        if turn.rows_per_request is None:
            n_rows = n_requests
        else:
            mask |= HAS_ROWS
            n_rows = sum(turn.rows_per_request)
            pieces.append(pack("I", turn.rows_per_request))
        if n_requests > 1:
            mask |= HAS_ARRIVALS
            pieces.append(pack("q", turn.arrived_us))
        if not isinstance(service_time, float):
            if isinstance(service_time, int):
                service_time = float(service_time)
            else:
                mask |= HAS_SERVICE_TIMES
                pieces.append(pack("f", service_time))
                service_time = 0.0
        if not isinstance(flags, int):
            mask |= HAS_FLAGS
            pieces.append(pack("H", flags))
            flags = 0
        mask |= self._encode_optional(turn, pieces)
        if turn.outputs is not None:
            mask |= HAS_OUTPUTS
            pieces.extend(_sized(self._outputs.encode(turn.outputs)))
        if turn.inputs is not None:
            mask |= HAS_INPUTS
            pieces.extend(_sized(self._inputs.encode(turn.inputs)))
        pieces[0] = TURN_HEAD.pack(
            TURN,
            FORMAT,
            self.stream_id,
            mask,
            n_requests,
            n_rows,
            turn.batch_rows,
            flags,
            service_time,
            turn.arrived_us[0],
        )
        return frame(b"".join(pieces))

    @staticmethod
    def _encode_optional(turn: Turn, pieces: list[bytes]) -> int:
        mask = 0
        if turn.buckets is not None:
            mask |= HAS_BUCKETS
            buckets = turn.buckets
            pieces.append(
                buckets.astype(_F8, copy=False).tobytes()
                if isinstance(buckets, np.ndarray)
                else pack("d", buckets)
            )
        if turn.key_hashes is not None:
            mask |= HAS_KEYS
            pieces.extend(turn.key_hashes)
        if turn.trace_ids is not None:
            mask |= HAS_TRACES
            pieces.extend(turn.trace_ids)
        if turn.took_us is not None:
            mask |= HAS_TOOK
            took = turn.took_us
            pieces.append(_FLOAT.pack(took[0]) if len(took) == 1 else pack("f", took))
        if turn.parent_ids is not None:
            mask |= HAS_PARENTS
            pieces.extend(turn.parent_ids)
        if turn.answered_by:
            mask |= HAS_ANSWERED_BY
            name = turn.answered_by.encode()
            pieces += (SHORT.pack(len(name)), name)
        if turn.errors is not None:
            mask |= HAS_ERRORS
            pieces.extend(_sized([pack_texts(turn.errors)]))
        if turn.caller_ids is not None:
            mask |= HAS_CALLERS
            pieces.extend(_sized([pack_texts(turn.caller_ids)]))
        return mask
