"""Where predictions are: found by their id's time, or by their key, without a row for each.

A request's id begins with the millisecond of its arrival, and a segment's frames are nearly in that
order. So the ledger keeps, for each block of some 64 KiB of a segment, the least and the greatest
time in it, and a prediction is found by reading the few blocks that its time falls into.

For keys it keeps sorted blocks of key hash, event time and id, as long as `key_window_s` lets them be.
How old a block is goes by event time, too, but no event counts as later than its arrival there: else one
prediction for a far day would make all others old.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tidegate.core.error import Corrupt, NotFound
from tidegate.core.identifier import uuid7_time_ms
from tidegate.journal.codec import FORMAT, STREAM, TURN, TURN_HEAD
from tidegate.journal.decode import Ints, StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.ledger import Ledger
from tidegate.journal.plain import plain, plain_row
from tidegate.journal.reader import Frame, SegmentReader
from tidegate.journal.record import Flag, RecordKind, Stream
from tidegate.journal.tally import US_PER_MINUTE, TallyKey

_BLOCK_BYTES = 1 << 16
_MS_PER_MINUTE = 60_000
_NEAR_MS = 1000  # predictions no further apart than this are looked for together
_KEY_BLOCK_ROWS = 1 << 13
# what one key entry is: 8 bytes of key hash (one collision in 2 ** 64), event time, request and row
_KEY = np.dtype([("hash", "<u8"), ("event_us", "<i8"), ("request", "V16"), ("row", "<u4")])


class Block(NamedTuple):
    """A stretch of whole frames of one segment, and the times of the request ids in it."""

    start: int
    stop: int
    min_ms: int
    max_ms: int

    @property
    def span(self) -> int:
        """Least number for which the block's times lie within 2 to its power, milliseconds.

        Blocks that hold a time are then found by an ordinary index: of those of one span, the
        greatest time is at most so much later.
        """
        return (self.max_ms - self.min_ms).bit_length()


class Match(NamedTuple):
    """A recorded prediction that was looked for."""

    stream: Stream
    arrived_us: int
    outputs: dict[str, Any]
    instead: bool = False  # somebody else answered in the version's place
    parts: Mapping[str, Any] = {}  # the inputs by which its stream is counted apart

    @property
    def key(self) -> TallyKey:
        """Whose tally it is counted in."""
        stream = self.stream
        minute = self.arrived_us // US_PER_MINUTE
        return TallyKey(stream.service, stream.version, stream.arm, stream.kind, minute)


class _Place(NamedTuple):
    """Where a block is."""

    segment: int
    name: str
    start: int
    stop: int


Target = tuple[bytes, int]
"""A prediction: its request's 16 bytes, and its row."""


def blocks_of(offsets: Ints, ends: Ints, least: Ints, greatest: Ints) -> list[Block]:
    """Put frames of one segment, in order, together into blocks.

    A block ends after 64 KiB, and where the minute changes: so the times within one are near each
    other even if there is little traffic.

    Args:
        offsets: Where each frame begins, shape (n_frames,), ascending.
        ends: Where each ends.
        least: The least time of a request id in each, milliseconds UTC.
        greatest: The greatest.
    """
    places, minutes = offsets // _BLOCK_BYTES, greatest // _MS_PER_MINUTE
    cuts = np.flatnonzero((np.diff(places) != 0) | (np.diff(minutes) != 0)) + 1
    firsts = np.concatenate(([0], cuts))
    lasts = np.concatenate((cuts, [len(offsets)])) - 1
    columns = (
        offsets[firsts],
        ends[lasts],
        np.minimum.reduceat(least, firsts),
        np.maximum.reduceat(greatest, firsts),
    )
    return [Block(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class PredictionIndex:
    """Adds to the index and looks up in it; changes happen within the ledger's transaction."""

    def __init__(self, folder: Path, ledger: Ledger, *, key_window_s: float) -> None:
        self._folder = folder
        self._ledger = ledger
        self._key_window_us = int(key_window_s * 1e6)
        self._codecs: dict[bytes, StreamCodec] = {}
        self._spans: set[int] = set()
        self._knows_spans = False

    def add_blocks(self, segment: int, blocks: Sequence[Block]) -> None:
        """Add the blocks of one segment, which follow those it has."""
        execute = self._ledger.connection.execute
        last = execute(
            "SELECT start, stop, min_ms, max_ms FROM block WHERE segment = ? ORDER BY start DESC LIMIT 1",
            (segment,),
        ).fetchone()
        if last is not None and _belong_together(Block(*last), blocks[0]):
            first = blocks[0]
            joined = Block(last[0], first.stop, min(last[2], first.min_ms), max(last[3], first.max_ms))
            blocks = [joined, *blocks[1:]]
        self._ledger.connection.executemany(
            "INSERT OR REPLACE INTO block (segment, start, stop, min_ms, max_ms, span)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(segment, *block, block.span) for block in blocks],
        )
        self._spans.update(block.span for block in blocks)

    def add_keys(self, turns: Turns) -> None:
        """Add the keys of predictions that were answered."""
        if (
            turns.key_hashes is None
            or turns.outputs is None
            or turns.stream.kind is not RecordKind.PREDICTION
        ):
            return
        entries = np.empty(turns.n_rows, _KEY)
        halves = np.frombuffer(turns.key_hashes, "<u8").reshape(-1, 2)
        entries["hash"] = halves[:, 0]
        entries["event_us"] = turns.event_us
        entries["request"] = np.frombuffer(turns.request_ids, "V16")[turns.request_of_row]
        entries["row"] = turns.row_in_request
        has_key = halves.any(axis=1)  # all zero stands for no key
        entries = entries[has_key]
        if len(entries):
            arrived_us = turns.arrived_us[turns.request_of_row][has_key]
            latest_us = int(np.minimum(entries["event_us"], arrived_us).max())
            self._add_key_block(turns.stream.service, entries, latest_us, int(arrived_us.max()))

    def _add_key_block(
        self, service: str, entries: npt.NDArray[Any], latest_us: int, arrived_us: int
    ) -> None:
        execute = self._ledger.connection.execute
        last = execute(
            "SELECT id, max_us, rows FROM key_block WHERE service = ? ORDER BY id DESC LIMIT 1", (service,)
        ).fetchone()
        number = None
        if last is not None and len(last[2]) < _KEY_BLOCK_ROWS * _KEY.itemsize:
            number = last[0]
            latest_us = max(latest_us, last[1])
            entries = np.concatenate((np.frombuffer(last[2], _KEY), entries))
        entries = entries[np.lexsort((entries["event_us"], entries["hash"]))]
        execute(
            "INSERT OR REPLACE INTO key_block (id, service, min_us, max_us, rows) VALUES (?, ?, ?, ?, ?)",
            (number, service, int(entries["event_us"].min()), latest_us, entries.tobytes()),
        )
        execute(
            # an older program kept times beyond the arrival here
            "DELETE FROM key_block WHERE service = :service AND max_us <"
            " (SELECT max(min(max_us, :arrived_us)) FROM key_block WHERE service = :service) - :window",
            {"service": service, "arrived_us": arrived_us, "window": self._key_window_us},
        )

    def find_by_key(
        self, service: str, wanted: Iterable[tuple[bytes, int]]
    ) -> dict[tuple[bytes, int], Target]:
        """Return, for each key hash and time, the key's latest prediction at or before that time."""
        found: dict[tuple[bytes, int], tuple[int, Target]] = {}
        wanted = list(wanted)
        rows = self._ledger.connection.execute(
            "SELECT min_us, rows FROM key_block WHERE service = ? AND min_us <= ? ORDER BY max_us DESC",
            (service, max((event_us for _, event_us in wanted), default=0)),
        )
        for min_us, stored in rows:
            entries = np.frombuffer(stored, _KEY)
            hashes, times = entries["hash"], entries["event_us"]
            max_us = int(times.max())
            for key in wanted:
                key_hash, event_us = key
                best = found.get(key)
                if event_us < min_us or (best is not None and best[0] >= max_us):
                    continue
                number = np.uint64(int.from_bytes(key_hash[:8], "little"))
                first, last = (
                    np.searchsorted(hashes, number, "left"),
                    np.searchsorted(hashes, number, "right"),
                )
                place = first + np.searchsorted(times[first:last], event_us, "right") - 1
                if place < first:
                    continue
                entry = entries[place]
                at_us = int(times[place])
                if best is None or at_us > best[0]:
                    found[key] = (at_us, (entry["request"].tobytes(), int(entry["row"])))
        return {key: target for key, (_, target) in found.items()}

    def find(self, targets: Iterable[Target]) -> dict[Target, list[Match]]:
        """Return all records of the predictions that are in the journal: the prediction and its shadows."""
        by_request: dict[bytes, list[int]] = {}
        for request, row in targets:
            by_request.setdefault(request, []).append(row)
        requests = sorted(by_request)  # which is by time
        times = [uuid7_time_ms(request) for request in requests]
        found: dict[Target, list[Match]] = {}
        at = 0
        for end in range(1, len(times) + 1):
            if end < len(times) and times[end] - times[end - 1] <= _NEAR_MS:
                continue
            for place, min_ms, max_ms in self._blocks_between(times[at], times[end - 1]):
                first, last = bisect_left(times, min_ms, at, end), bisect_right(times, max_ms, at, end)
                if first < last:
                    wanted = {request: by_request[request] for request in requests[first:last]}
                    self._search(place, wanted, found)
            at = end
        return found

    def _blocks_between(self, first_ms: int, last_ms: int) -> list[tuple[_Place, int, int]]:
        """Return the blocks that hold times between two, in the order in which they stand."""
        execute = self._ledger.connection.execute
        if not self._knows_spans:
            self._spans.update(span for (span,) in execute("SELECT DISTINCT span FROM block"))
            self._knows_spans = True
        found = []
        for span in self._spans:
            rows = execute(
                "SELECT segment, name, start, stop, min_ms, max_ms FROM block"
                " JOIN segment ON segment.id = block.segment"
                " WHERE span = :span AND max_ms BETWEEN :first AND :last + (1 << :span) AND min_ms <= :last",
                {"span": span, "first": first_ms, "last": last_ms},
            )
            found += [(_Place(*row[:4]), row[4], row[5]) for row in rows]
        return sorted(found)

    def turns_between(self, first_ms: int, last_ms: int) -> Iterator[Turns]:
        """Give the turns of all blocks that may hold requests which began between two times, once each.

        Others are among them. What cannot be read is left out: whoever counted it has said so.
        """
        self._knows_spans = False  # another one may have added blocks
        for place, _, _ in self._blocks_between(first_ms, last_ms):
            groups: dict[tuple[int, int], list[memoryview]] = {}
            for frame in self._frames(place):
                body = frame.body
                groups.setdefault((int.from_bytes(body[2:4], "little"), mask_of(body)), []).append(body)
            for (number, mask), bodies in groups.items():
                codec = self.codec_of(place.segment, number)
                if codec is not None:
                    with suppress(Corrupt):
                        yield Turns(codec, mask, bodies)

    def _frames(self, place: _Place) -> Iterator[Frame]:
        """Give the turns' frames of one block; none where the segment has been cleared away since."""
        try:
            reader = SegmentReader(
                self._folder / f"{place.name}.open",
                position=place.start,
                chunk_bytes=place.stop - place.start,
            )
        except NotFound:
            return
        with reader:
            for frame in reader.read():
                if frame.offset < place.stop and frame.body[0] == TURN and frame.body[1] == FORMAT:
                    yield frame

    def _search(
        self, place: _Place, wanted: Mapping[bytes, Sequence[int]], found: dict[Target, list[Match]]
    ) -> None:
        groups: dict[tuple[int, int], list[memoryview]] = {}
        for frame in self._frames(place):
            body = frame.body
            if _has(body, wanted):
                groups.setdefault((int.from_bytes(body[2:4], "little"), mask_of(body)), []).append(body)
        for (number, mask), bodies in groups.items():
            codec = self.codec_of(place.segment, number)
            if codec is not None:
                _pick(Turns(codec, mask, bodies), wanted, found)

    def codec_of(self, segment: int, number: int) -> StreamCodec | None:
        """Return the codec of a stream that a segment has declared."""
        row = self._ledger.connection.execute(
            "SELECT declaration FROM stream WHERE segment = ? AND number = ?", (segment, number)
        ).fetchone()
        return None if row is None else self.codec_for(row[0])

    def codec_for(self, declaration: bytes) -> StreamCodec:
        """Return the codec of a declared stream; equal declarations share one."""
        codec = self._codecs.get(declaration)
        if codec is None:
            codec = self._codecs[declaration] = StreamCodec(decode_stream(memoryview(declaration)))
        return codec


def declaration_of(body: memoryview) -> bytes:
    """Return a stream's declaration without the number that it has in one process."""
    return bytes((STREAM, FORMAT, 0, 0)) + bytes(body[4:])


def _belong_together(last: Block, first: Block) -> bool:
    return (
        last.stop == first.start
        and first.stop - last.start <= _BLOCK_BYTES
        and last.max_ms // _MS_PER_MINUTE == first.max_ms // _MS_PER_MINUTE
    )


def _has(body: memoryview, wanted: Container[bytes]) -> bool:
    """Tell whether a turn has one of the requests that are looked for."""
    ids = bytes(body[TURN_HEAD.size : TURN_HEAD.size + 16 * int.from_bytes(body[8:12], "little")])
    if len(ids) == 16:
        return ids in wanted
    return any(ids[at : at + 16] in wanted for at in range(0, len(ids), 16))


def _pick(turns: Turns, wanted: Mapping[bytes, Sequence[int]], found: dict[Target, list[Match]]) -> None:
    ids = turns.request_ids
    rows: list[int] = []
    firsts: list[int] = []
    flags: list[int] = []
    for position in range(turns.n_requests):
        request = ids[16 * position : 16 * position + 16]
        if request not in wanted:
            continue
        if not rows:
            rows = turns.rows.tolist()
            flags = turns.flags.tolist()
            firsts = (np.cumsum(turns.rows) - turns.rows).tolist()
        for row in wanted[request]:
            if row < rows[position]:
                match = Match(
                    turns.stream,
                    int(turns.arrived_us[position]),
                    plain_row(turns.outputs, firsts[position] + row),
                    bool(flags[position] & Flag.FALLBACK),
                    _parts(turns, firsts[position] + row),
                )
                found.setdefault((request, row), []).append(match)


def _parts(turns: Turns, row: int) -> dict[str, Any]:
    """Return what a row has in the fields by which its stream is counted apart."""
    fields = turns.stream.slicing.fields
    inputs = turns.inputs if fields else None
    if inputs is None:
        return {}
    return {each.field: plain(inputs[each.field][row]) for each in fields if each.field in inputs.columns}
