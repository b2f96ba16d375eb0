"""Look into the journal: records one by one, and how far what was counted has come."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tidegate.core.error import NotFound
from tidegate.core.identifier import format_prediction_id, format_uuid
from tidegate.journal import codec
from tidegate.journal.decode import (
    StreamCodec,
    Turns,
    decode_event,
    decode_outcomes,
    decode_refusals,
    decode_stream,
    mask_of,
)
from tidegate.journal.ledger import Ledger, LedgerUnavailable, OutcomeCounts
from tidegate.journal.plain import plain_row
from tidegate.journal.reader import Damage, End, Frame, SegmentReader, list_segments
from tidegate.journal.record import Flag, RecordKind
from tidegate.journal.slice import Sliced, add_sliced, read_slices
from tidegate.journal.tally import Tally, TallyKey
from tidegate.route.route import bucket_of

_ID_BYTES = 16
_MAX_MERGED = 256
"""Segments whose records are brought into one order; each is an open file."""


class Wanted(msgspec.Struct, frozen=True):
    """Which records are looked for; None stands for any.

    Attributes:
        service: Name of the service.
        version: Number of the version.
        kind: What the record tells of.
        since_us: Arrived at this time or later, microseconds UTC.
        until_us: Arrived before this time, microseconds UTC.
        prediction_id: This prediction, and what was reported of it.
        errors_only: Only requests that were answered with an error.
    """

    service: str | None = None
    version: int | None = None
    kind: RecordKind | None = None
    since_us: int | None = None
    until_us: int | None = None
    prediction_id: str | None = None
    errors_only: bool = False


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record, as a person or another program reads it.

    Attributes:
        kind: What it tells of.
        at_us: When the request arrived, or the event happened, microseconds UTC.
        service: Name of the service.
        segment: Name of the segment; with `offset`, the frame's identity everywhere.
        offset: Where its frame begins, bytes.
        version: Number of the version.
        arm: Part of the route.
        share: Part of the keys that the arm had, in [0, 1].
        bucket: Where the row's own key fell on the route's unit interval; None where the caller chose.
        prediction_id: Public id.
        inputs: As stored: without sensitive fields.
        outputs: The answer; empty if there was none.
        error: Code of the error that was answered.
        flags: What was unusual.
        answered_by: Name of the fallback that answered.
        service_us: From arrival to answer, microseconds.
        caller_id: The id that the caller gave.
        detail: Of outcomes, refusals and events: what they say.
    """

    kind: RecordKind
    at_us: int
    service: str
    segment: str
    offset: int
    version: int | None = None
    arm: str = ""
    share: float | None = None
    bucket: float | None = None
    prediction_id: str = ""
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    error: str | None = None
    flags: list[str] = []
    answered_by: str = ""
    service_us: float = 0.0
    caller_id: str = ""
    detail: dict[str, Any] = {}


class JournalView:
    """Reads all segments of a folder, and what is added to them later."""

    def __init__(self, folder: Path, wanted: Wanted | None = None) -> None:
        self._folder = folder
        self._wanted = wanted or Wanted()
        self._open: dict[str, _Segment] = {}
        self._done: set[str] = set()
        self.damages: list[Damage] = []

    def read(self) -> Iterator[Record]:
        """Yield the records that were not yielded before, by the time they were written.

        A damaged segment is read up to the damage, which then stands in `damages`.
        """
        entries = [entry for entry in list_segments(self._folder) if entry.name not in self._done]
        for start in range(0, len(entries), _MAX_MERGED):
            names = []
            for entry in entries[start : start + _MAX_MERGED]:
                if entry.name not in self._open:
                    self._open[entry.name] = _Segment(SegmentReader(entry.path))
                names.append(entry.name)
            parts = [self._open[name].records(self._wanted) for name in names]
            yield from heapq.merge(*parts, key=lambda record: record.at_us)
            for name in names:
                reader = self._open[name].reader
                if reader.damage is not None:
                    self.damages.append(reader.damage)
                if reader.end is not End.GROWING:
                    self._close(name)

    def close(self) -> None:
        """Give the files back."""
        for name in list(self._open):
            self._close(name)

    def _close(self, name: str) -> None:
        self._open.pop(name).reader.close()
        self._done.add(name)


class _Segment:
    """A segment that is being read, and the streams that it has declared so far."""

    def __init__(self, reader: SegmentReader) -> None:
        self.reader = reader
        self._streams: dict[int, StreamCodec] = {}

    def records(self, wanted: Wanted) -> Iterator[Record]:
        for frame in self.reader.frames():
            kind, number = frame.body[0], int.from_bytes(frame.body[2:4], "little")
            if kind == codec.STREAM:
                self._streams[number] = StreamCodec(decode_stream(frame.body))
            elif frame.body[1] != codec.FORMAT:
                continue
            elif kind == codec.TURN:
                stream = self._streams.get(number)
                if stream is not None:  # the controller reports one that was never declared
                    yield from self._turn(stream, frame, wanted)
            else:
                yield from (each for each in self._other(kind, frame) if _matches(each, wanted))

    def _turn(self, stream: StreamCodec, frame: Frame, wanted: Wanted) -> Iterator[Record]:
        told = stream.stream
        if (
            wanted.service not in (None, told.service)
            or wanted.version not in (None, told.version)
            or wanted.kind not in (None, told.kind)
        ):
            return
        turns = Turns(stream, mask_of(frame.body), [frame.body])
        ids, errors, callers = turns.request_ids, turns.errors, turns.caller_ids
        answered = turns.answered_by
        for row, (request, position) in enumerate(
            zip(turns.request_of_row.tolist(), turns.row_in_request.tolist(), strict=True)
        ):
            raw = ids[request * _ID_BYTES : (request + 1) * _ID_BYTES]
            error = errors[request] if errors else None
            head = Record(
                kind=told.kind,
                at_us=int(turns.arrived_us[request]),
                service=told.service,
                segment=self.reader.name,
                offset=frame.offset,
                version=told.version,
                arm=told.arm,
                prediction_id=format_prediction_id(raw, position),
                error=error,
            )
            if not _matches(head, wanted):
                continue
            yield msgspec.structs.replace(
                head,
                inputs=plain_row(turns.inputs, row),
                outputs=plain_row(turns.outputs, row),
                flags=[flag.name.lower() for flag in Flag(int(turns.flags[request])) if flag.name],
                answered_by=answered[0] if answered else "",
                service_us=round(float(turns.service_us[request]), 1),
                caller_id=(callers[request] if callers else None) or "",
                share=told.share,
                bucket=_bucket_of(turns, row, request),
            )

    def _other(self, kind: int, frame: Frame) -> Iterator[Record]:
        place = (self.reader.name, frame.offset)
        if kind == codec.OUTCOMES:
            for outcome in decode_outcomes(frame.body):
                named = format_prediction_id(outcome.request, outcome.row) if outcome.request else ""
                detail = {"name": outcome.name, "value": msgspec.json.decode(outcome.value)}
                if outcome.event_us:
                    detail["event_us"] = outcome.event_us
                yield Record(
                    RecordKind.OUTCOME,
                    outcome.received_us,
                    outcome.service,
                    *place,
                    prediction_id=named,
                    detail=detail,
                )
        elif kind == codec.REFUSALS:
            for refusal in decode_refusals(frame.body):
                yield Record(
                    RecordKind.REFUSAL,
                    refusal.at_us,
                    refusal.service,
                    *place,
                    error=refusal.code,
                    detail={"count": refusal.count} | ({"field": refusal.field} if refusal.field else {}),
                )
        elif kind == codec.EVENT:
            event = decode_event(frame.body)
            yield Record(
                RecordKind.EVENT,
                event.at_us,
                event.service,
                *place,
                detail={"name": event.name, **event.detail},
            )


def _bucket_of(turns: Turns, row: int, request: int) -> float | None:
    """Return the bucket of a row, computed where one arm had all keys and none was stored."""
    if turns.buckets is not None:
        return float(turns.buckets[row])
    if not turns.stream.salt:
        return None
    keys = turns.key_hashes
    identity = turns.request_ids[16 * request :][:16] if keys is None else keys[16 * row :][:16]
    return bucket_of(identity, turns.stream.salt)


def _matches(record: Record, wanted: Wanted) -> bool:
    return (
        wanted.service in (None, record.service)
        and wanted.version in (None, record.version)
        and wanted.kind in (None, record.kind)
        and (wanted.since_us is None or record.at_us >= wanted.since_us)
        and (wanted.until_us is None or record.at_us < wanted.until_us)
        and wanted.prediction_id in (None, record.prediction_id)
        and (record.error is not None or not wanted.errors_only)
    )


def prediction_ids(folder: Path, service: str) -> Iterator[str]:
    """Yield the public id of every prediction of a service, as often as it is in the journal.

    Segments are read up to their end or first damage.
    """
    for entry in list_segments(folder):
        with SegmentReader(entry.path) as reader:
            streams: dict[int, StreamCodec] = {}
            for frame in reader.frames():
                kind, number = frame.body[0], int.from_bytes(frame.body[2:4], "little")
                if kind == codec.STREAM:
                    streams[number] = StreamCodec(decode_stream(frame.body))
                elif kind == codec.TURN and frame.body[1] == codec.FORMAT:
                    yield from _ids(streams[number], frame, service)


def _ids(stream: StreamCodec, frame: Frame, service: str) -> Iterator[str]:
    if stream.stream.service != service or stream.stream.kind is not RecordKind.PREDICTION:
        return
    turns = Turns(stream, mask_of(frame.body), [frame.body])
    for request, n_rows in enumerate(turns.rows.tolist()):
        raw = turns.request_ids[request * _ID_BYTES : (request + 1) * _ID_BYTES]
        name = format_uuid(raw)
        yield name
        for row in range(1, n_rows):
            yield f"{name}.{row}"


class SegmentView(msgspec.Struct, frozen=True):
    """A segment, and how far it was counted.

    Attributes:
        name: The segment's name.
        size_bytes: Its size now.
        counted_bytes: Bytes that the ledger holds; None without a ledger.
        end: How it ends, as far as one can tell now.
        damage: Where reading stops, in words; empty if it does not.
        n_frames: Whole frames in it.
    """

    name: str
    size_bytes: int
    counted_bytes: int | None
    end: End
    damage: str
    n_frames: int


def check_segments(folder: Path, ledger: Path) -> list[SegmentView]:
    """Read every segment to its end, and say how it ends."""
    counted = None
    if ledger.exists():
        with closing(_opened(ledger)) as opened:
            counted = {each.name: each.position for each in opened.segments()}
    found = []
    for entry in list_segments(folder):
        with SegmentReader(entry.path) as reader:
            n_frames = sum(1 for _ in reader.frames())
            damage = reader.damage
            found.append(
                SegmentView(
                    entry.name,
                    reader.size_bytes,
                    None if counted is None else counted.get(entry.name, 0),
                    reader.end,
                    "" if damage is None else f"at {damage.offset}: {damage.reason}",
                    n_frames,
                )
            )
    return found


class Counted(msgspec.Struct, frozen=True):
    """What the ledger holds of a service.

    Attributes:
        tallies: Counts by service, version, arm, kind and minute.
        outcomes: What became of the outcomes that were delivered.
    """

    tallies: list[tuple[TallyKey, Tally]]
    outcomes: OutcomeCounts


def count(ledger: Path, service: str | None = None, *, since_minute: int | None = None) -> Counted:
    """Return what the ledger holds.

    Args:
        ledger: Its path.
        service: Name of the service; None for all.
        since_minute: Minutes since 1970 UTC, from this one on; None for all. Outcomes count by when they
            were received.

    Raises:
        NotFound: There is no ledger yet.
    """
    with closing(_opened(ledger)) as opened:
        return Counted(
            opened.tallies(service, since_minute=since_minute),
            opened.outcome_counts(service, since_minute=since_minute),
        )


class SliceView(msgspec.Struct, frozen=True):
    """One slice of a service's traffic beside the rest of it.

    Attributes:
        field, value: Which records.
        rows: How many.
        share: Of all rows, in [0, 1].
        failed, fallback: Rows answered with an error; by somebody else than the version.
        mean_us: Mean service time, microseconds.
        mean_score: Mean of the judged output; None where it is no number.
        joined: Rows that have an outcome.
        mean_outcome: Mean of those outcomes.
        mean_loss: Mean of (outcome - output)^2 over them, or the share of wrong answers.
        rest_loss: The same of all other rows.
    """

    field: str
    value: str
    rows: int
    share: float
    failed: int
    fallback: int
    mean_us: float
    mean_score: float | None
    joined: int
    mean_outcome: float | None
    mean_loss: float | None
    rest_loss: float | None

    @property
    def gap(self) -> float | None:
        """By how much its mean loss is above that of the rest."""
        if self.mean_loss is None or self.rest_loss is None:
            return None
        return self.mean_loss - self.rest_loss


def slices(
    ledger: Path, service: str, *, version: int | None = None, since_minute: int = 0
) -> list[SliceView]:
    """Return what the ledger holds of each slice of a service, by field, the worst first.

    Args:
        ledger: Its path.
        service: Name of the service.
        version: Only this version's.
        since_minute: Minutes since 1970 UTC, from this one on.

    Raises:
        NotFound: There is no ledger yet.
    """
    with closing(_opened(ledger)) as opened:
        return slices_since(opened, service, version=version, since_minute=since_minute)


def slices_since(
    ledger: Ledger, service: str, *, version: int | None = None, since_minute: int = 0
) -> list[SliceView]:
    """Return what an open ledger holds of each slice of a service; see `slices`.

    Raises:
        LedgerUnavailable: It cannot be read.
    """
    total: Sliced = {}
    try:
        found = read_slices(ledger.connection, service, version=version, since_minute=since_minute)
    except sqlite3.Error as error:
        raise unreadable(ledger.path, error) from error
    for key, sliced in found:
        if key.kind is RecordKind.PREDICTION:
            add_sliced(total, sliced)
    views = []
    for field, values in total.items():
        n_rows = sum(tally.rows for tally in values.values())
        n_joined = sum(tally.joined for tally in values.values())
        loss = sum(tally.loss_sum for tally in values.values())
        for value, tally in values.items():
            others = n_joined - tally.joined
            views.append(
                SliceView(
                    field=field,
                    value=value,
                    rows=tally.rows,
                    share=tally.rows / max(1, n_rows),
                    failed=tally.failed,
                    fallback=tally.fallback,
                    mean_us=tally.service_us / max(1, tally.rows),
                    mean_score=tally.mean_score,
                    joined=tally.joined,
                    mean_outcome=tally.mean_outcome,
                    mean_loss=tally.mean_loss,
                    rest_loss=(loss - tally.loss_sum) / others if others else None,
                )
            )
    return sorted(views, key=lambda one: (one.field, -(one.gap or 0.0), -one.rows, one.value))


def unreadable(path: Path, error: sqlite3.Error) -> LedgerUnavailable:
    """Return what is told of a ledger that cannot be read."""
    return LedgerUnavailable(
        f"The ledger {path} cannot be read: {error}.",
        hint="An older Tidegate wrote it? `tidegate up` brings it up to date.",
        path=str(path),
    )


def _opened(path: Path) -> Ledger:
    if not path.exists():
        raise NotFound(
            f"There is no ledger at {path}.",
            hint="The controller makes it; has `tidegate up` run in this home?",
            path=str(path),
        )
    return Ledger(path, read_only=True)
