"""Look into the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidegate.core.identifier import format_prediction_id
from tidegate.journal.codec import STREAM, TURN
from tidegate.journal.decode import StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import SegmentReader, list_segments
from tidegate.journal.record import RecordKind

_ID_BYTES = 16


def prediction_ids(folder: Path, service: str) -> Iterator[str]:
    """Yield the public id of every prediction of a service in the journal, as often as it is there.

    Segments are read up to their end or first damage.
    """
    for segment in list_segments(folder):
        with SegmentReader(segment.path) as reader:
            yield from _of_segment(reader, service)


def _of_segment(reader: SegmentReader, service: str) -> Iterator[str]:
    streams: dict[int, StreamCodec] = {}
    for frame in reader.frames():
        kind, number = frame.body[0], int.from_bytes(frame.body[2:4], "little")
        if kind == STREAM:
            streams[number] = StreamCodec(decode_stream(frame.body))
        elif kind == TURN:
            stream = streams[number]
            if stream.stream.service != service or stream.stream.kind is not RecordKind.PREDICTION:
                continue
            turns = Turns(stream, mask_of(frame.body), [frame.body])
            ids = turns.request_ids
            for request, row in zip(
                turns.request_of_row.tolist(), turns.row_in_request.tolist(), strict=True
            ):
                at = request * _ID_BYTES
                yield format_prediction_id(ids[at : at + _ID_BYTES], row)
