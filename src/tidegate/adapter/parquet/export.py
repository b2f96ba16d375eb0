"""Write the journal's predictions as Parquet: a file for each service, day and contract."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from tidegate.adapter.parquet.table import TIME, schema_of, table_of
from tidegate.core.digest import Digest
from tidegate.core.error import NotFound, TidegateError
from tidegate.journal.codec import FORMAT, STREAM, TURN
from tidegate.journal.decode import StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import Damage, Frame, SegmentEntry, SegmentReader, list_segments
from tidegate.journal.record import RecordKind, Stream

_quad = struct.Struct("<Q").unpack_from
_US_PER_DAY = 86_400_000_000
_BATCH_BYTES = 8 << 20
_PART_ROWS = 100_000  # some 30 MB of 40 columns before they are written
_LEVEL = 1  # of zstd: half the default's time, and 1% larger with numbers that are hardly compressible
_UNREADABLE = (TidegateError, ValueError, IndexError, struct.error, pl.exceptions.PolarsError)


class ExportedFile(msgspec.Struct, frozen=True):
    """One written file.

    Attributes:
        path: Where it is.
        service: Whose records they are.
        day: Day of the requests' arrival, UTC.
        contract: The first eight digits of the fingerprint of their contract.
        rows: Number of records.
    """

    path: Path
    service: str
    day: date
    contract: str
    rows: int


class ExportReport(msgspec.Struct, frozen=True):
    """What an export wrote.

    Attributes:
        files: The files, by path.
        damages: Where the journal could not be read.
    """

    files: list[ExportedFile]
    damages: list[Damage]

    @property
    def rows(self) -> int:
        """Number of records in all files."""
        return sum(file.rows for file in self.files)


class _Sheet:
    """One file in the making: rows in memory, and parts that are on disk already."""

    def __init__(self, service: str, day: date, contract: str, folder: Path) -> None:
        self.service = service
        self.day = day
        self.contract = contract
        self.rows = 0
        self._folder = folder
        self._tables: list[pl.DataFrame] = []
        self._n_held = 0
        self._parts: list[Path] = []

    def add(self, table: pl.DataFrame) -> None:
        self._tables.append(table)
        self._n_held += table.height
        self.rows += table.height
        if self._n_held >= _PART_ROWS:
            self._write_part()

    def _write_part(self) -> None:
        if self._tables:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{len(self._parts)}.parquet"
            table = pl.concat(self._tables)
            if not table["arrived_at"].is_sorted():
                table = table.sort("arrived_at", maintain_order=True)
            table.write_parquet(path, compression_level=_LEVEL)
            self._parts.append(path)
        self._tables = []
        self._n_held = 0

    def finish(self, path: Path) -> ExportedFile:
        """Put the parts together and move the file to its place."""
        self._write_part()
        whole = self._parts[0]
        if len(self._parts) > 1:
            whole = self._folder / "whole.parquet"
            pl.scan_parquet(self._parts, glob=False).sink_parquet(whole, compression_level=_LEVEL)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(path)
        return ExportedFile(path, self.service, self.day, self.contract, self.rows)


class _Export:
    """One run: the open sheets and the damage met."""

    def __init__(
        self,
        folder: Path,
        since_us: int | None,
        until_us: int | None,
        service: str | None,
        *,
        shadows: bool,
    ) -> None:
        self._folder = folder
        self._shadows = shadows
        self._since_us = since_us
        self._until_us = until_us
        self._service = service
        self.sheets: dict[tuple[str, int, str], _Sheet] = {}
        self.damages: list[Damage] = []

    def read(self, entry: SegmentEntry) -> None:
        """Add the records of one segment."""
        if not self._may_hold(entry):
            return
        try:
            reader = SegmentReader(entry.path)
        except NotFound:  # cleared away since it was listed
            return
        with reader:
            streams: dict[int, StreamCodec] = {}
            for frames in _batches(reader):
                for group in self._groups(frames, streams).values():
                    codec = streams.get(_number(group[0].body))
                    if codec is not None and self._wants(codec.stream) and group[0].body[1] == FORMAT:
                        self._add(entry.name, codec, mask_of(group[0].body), group)
            if reader.damage is not None:
                self.damages.append(reader.damage)

    def _may_hold(self, entry: SegmentEntry) -> bool:
        """Tell by when a segment was begun and last written whether it can hold what is wanted."""
        begun = entry.name.partition("-")[0]
        if self._until_us is not None and begun.isdecimal() and int(begun) > self._until_us + _US_PER_DAY:
            return False
        if self._since_us is None:
            return True
        try:
            return entry.path.stat().st_mtime * 1e6 + 1e6 >= self._since_us
        except FileNotFoundError:  # renamed since it was listed: it was being written just now
            return True

    def _groups(self, frames: Iterable[Frame], streams: dict[int, StreamCodec]) -> dict[int, list[Frame]]:
        """Put turns by kind, format, stream and mask, which are the first eight bytes."""
        groups: dict[int, list[Frame]] = {}
        for frame in frames:
            body = frame.body
            if body[0] == TURN:
                key = _quad(body)[0]
                group = groups.get(key)
                if group is None:
                    group = groups[key] = []
                group.append(frame)
            elif body[0] == STREAM and body[1] == FORMAT:
                streams[_number(body)] = StreamCodec(decode_stream(body))
        return groups

    def _wants(self, stream: Stream) -> bool:
        if stream.kind is RecordKind.SHADOW and not self._shadows:
            return False
        return self._service in (None, stream.service)

    def _add(self, segment: str, codec: StreamCodec, mask: int, frames: Sequence[Frame]) -> None:
        try:
            self._add_table(segment, codec, mask, frames)
        except _UNREADABLE as error:
            if len(frames) == 1:
                reason = f"the frame is whole but cannot be understood: {error}"
                self.damages.append(Damage(segment, frames[0].offset, reason))
                return
            for frame in frames:
                self._add(segment, codec, mask, [frame])

    def _add_table(self, segment: str, codec: StreamCodec, mask: int, frames: Sequence[Frame]) -> None:
        turns = Turns(codec, mask, [frame.body for frame in frames])
        table = table_of(turns, segment, np.array([frame.offset for frame in frames]))
        arrived = pl.col("arrived_at")
        if self._since_us is not None:
            table = table.filter(arrived >= pl.lit(self._since_us).cast(TIME))
        if self._until_us is not None:
            table = table.filter(arrived < pl.lit(self._until_us).cast(TIME))
        if not table.height:
            return
        days = np.unique(turns.arrived_us // _US_PER_DAY).tolist()
        for day in days:
            start, end = (pl.lit(bound * _US_PER_DAY).cast(TIME) for bound in (day, day + 1))
            part = table if len(days) == 1 else table.filter((arrived >= start) & (arrived < end))
            if part.height:
                self._sheet(turns.stream, day).add(part)

    def _sheet(self, stream: Stream, day: int) -> _Sheet:
        contract = contract_digits(stream.contract)
        key = (stream.service, day, contract)
        sheet = self.sheets.get(key)
        if sheet is None:
            on = datetime.fromtimestamp(day * 86400, UTC).date()
            folder = self._folder / f"{len(self.sheets)}"
            sheet = self.sheets[key] = _Sheet(stream.service, on, contract, folder)
        return sheet


def contract_digits(fingerprint: Digest) -> str:
    """Return what tells a contract from others in the name of a file."""
    return fingerprint.rpartition(":")[2][:8]


def _number(body: memoryview) -> int:
    return int.from_bytes(body[2:4], "little")


def _batches(reader: SegmentReader) -> Iterator[list[Frame]]:
    """Give a segment's frames some megabytes at a time: numpy's cost is per batch."""
    held: list[Frame] = []
    size = 0
    while frames := reader.read():
        held += frames
        size += frames[-1].end - frames[0].offset
        if size >= _BATCH_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def export_journal(
    folder: Path,
    target: Path,
    *,
    service: str | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    shadows: bool = False,
) -> ExportReport:
    """Write predictions that are in the journal now.

    The files are `target/SERVICE/DAY-CONTRACT.parquet`, the contract by the first eight digits of its
    fingerprint: what is in one file has one set of columns. A file that is there is replaced as a
    whole. Rows are in order of arrival within each part of 100,000.

    Args:
        folder: Where the segments are.
        target: Where the files go; made if it is not there.
        service: Only records of this service.
        since_us: Only records that arrived at this time or later, microseconds UTC.
        until_us: Only records that arrived before this time.
        shadows: Also what versions answered in the shadow; the inputs stand with the prediction alone.
    """
    target.mkdir(parents=True, exist_ok=True)
    drafts = Path(tempfile.mkdtemp(prefix=".export-", dir=target))
    try:
        export = _Export(drafts, since_us, until_us, service, shadows=shadows)
        for entry in list_segments(folder):
            export.read(entry)
        files = [
            sheet.finish(target / sheet.service / f"{sheet.day.isoformat()}-{sheet.contract}.parquet")
            for sheet in export.sheets.values()
        ]
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    return ExportReport(sorted(files, key=lambda file: file.path), export.damages)


__all__ = ["ExportReport", "ExportedFile", "contract_digits", "export_journal", "schema_of"]
