"""Snapshots: data sets that never change, named by what they contain."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import polars as pl

from tidegate.core.digest import Digest, canonical_json, digest_bytes, digest_file
from tidegate.core.error import InvalidSetting
from tidegate.data.source import Origin, Source, UnreadableData, readable
from tidegate.data.store import FileStore
from tidegate.data.summary import ColumnSummary, summarise

PART_ROWS = 1_000_000
"""Rows of a part file: some tens of MB, so that a file is written from memory and read by several threads."""

_ROW_GROUP_ROWS = 131_072


class Part(msgspec.Struct, frozen=True):
    """One Parquet file.

    Attributes:
        digest: Of its bytes.
        n_rows: Rows in it.
        size_bytes: Its length.
    """

    digest: Digest
    n_rows: int
    size_bytes: int


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """The manifest of a data set; its digest is the snapshot's.

    It holds no time and no name: the same rows from the same place are the same snapshot.

    Attributes:
        n_rows: Rows in all parts.
        columns: A summary each, in order.
        parts: Files in the order of their rows.
        origin: Where the rows came from.
        parents: Snapshots they were made from.
        note: How they were made from the parents or the origin, in words.
    """

    n_rows: int
    columns: tuple[ColumnSummary, ...]
    parts: tuple[Part, ...]
    origin: Origin
    parents: tuple[Digest, ...] = ()
    note: str = ""

    @property
    def digest(self) -> Digest:
        """The snapshot's name."""
        return digest_bytes(self.to_json())

    @property
    def content(self) -> Digest:
        """Digest of the rows alone, wherever they came from."""
        return digest_bytes(canonical_json([part.digest for part in self.parts]))

    @property
    def by_name(self) -> dict[str, ColumnSummary]:
        """The summaries by column."""
        return {column.name: column for column in self.columns}

    def to_json(self) -> bytes:
        """Return the canonical JSON form, UTF-8."""
        return canonical_json(self)


def write_snapshot(
    source: Source,
    store: FileStore,
    *,
    parents: tuple[Digest, ...] = (),
    note: str = "",
    hidden: Collection[str] = (),
    part_rows: int = PART_ROWS,
) -> Snapshot:
    """Store the rows of `source`, read piece by piece, and their manifest, which comes last.

    A process that dies on the way leaves files that no snapshot names, never a snapshot without its
    files.

    Args:
        source: The rows.
        store: Takes the files.
        parents: Snapshots that the rows were made from.
        note: How, in words.
        hidden: Sensitive columns: their summary has counts and no values.
        part_rows: Rows of a part file.

    Raises:
        UnreadableData: The source cannot be read to its end.
        InvalidSetting: It has no columns.
    """
    if source.lossy:
        raise UnreadableData(
            f"{source.origin.location} is not UTF-8.",
            hint="Convert it first; `tidegate data check` shows the damaged rows.",
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-snapshot-") as name:
        with readable(source.origin.location or "The source"):
            files = list(_write_parts(source.frame, Path(name), part_rows))
            columns = tuple(_summaries(files, hidden))
        if not columns:
            raise InvalidSetting(
                f"{source.origin.location or 'The source'} has no columns.",
                hint="An empty file is no data set; a header alone would be.",
            )
        parts = tuple(
            Part(store.put_file(path), n_rows=n_rows, size_bytes=path.stat().st_size)
            for path, n_rows in files
        )
    _check_unchanged(source)
    snapshot = Snapshot(
        n_rows=sum(part.n_rows for part in parts),
        columns=columns,
        parts=parts,
        origin=source.origin,
        parents=parents,
        note=note,
    )
    store.put_bytes(snapshot.to_json())
    return snapshot


def _check_unchanged(source: Source) -> None:
    if source.path is not None and digest_file(source.path) != source.origin.digest:
        raise UnreadableData(
            f"{source.path.name} was changed while it was read.",
            hint="Take the snapshot of a file that nobody writes to.",
            path=str(source.path),
        )


def _write_parts(frame: pl.LazyFrame, folder: Path, part_rows: int) -> Iterator[tuple[Path, int]]:
    """Write files of exactly `part_rows` rows, but the last, whatever pieces polars reads in."""
    waiting = frame.collect_schema().to_frame()
    n_files = 0

    def write(rows: pl.DataFrame) -> tuple[Path, int]:
        nonlocal n_files
        path = folder / f"{n_files:06}.parquet"
        rows.rechunk().write_parquet(path, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
        n_files += 1
        return path, len(rows)

    for batch in frame.collect_batches(chunk_size=min(part_rows, 100_000), maintain_order=True):
        waiting = waiting.vstack(batch)
        while len(waiting) >= part_rows:
            yield write(waiting.head(part_rows))
            waiting = waiting.slice(part_rows)
    if len(waiting) or not n_files:
        yield write(waiting)


def _summaries(files: list[tuple[Path, int]], hidden: Collection[str]) -> Iterator[ColumnSummary]:
    # Column by column: memory is one column's, and a sum does not depend on how threads shared it out.
    paths = [path for path, _ in files]
    for name in pl.scan_parquet(paths).collect_schema():
        column = pl.read_parquet(paths, columns=[name]).to_series().rechunk()
        yield summarise(column, hidden=name in hidden)


def read_snapshot(store: FileStore, digest: Digest) -> Snapshot:
    """Return a stored manifest.

    Raises:
        NotFound: There is none under `digest`.
        Corrupt: It is damaged.
        InvalidSetting: What is stored there is no snapshot.
    """
    try:
        return msgspec.json.decode(store.read_bytes(digest), type=Snapshot)
    except msgspec.MsgspecError as error:
        raise InvalidSetting(f"{digest} is no snapshot: {error}", digest=digest) from error


def scan_snapshot(store: FileStore, snapshot: Snapshot) -> pl.LazyFrame:
    """Return the rows of a snapshot, in their order, after checking its files.

    Raises:
        NotFound: A part is missing.
        Corrupt: A part is damaged.
    """
    return pl.scan_parquet([store.open(part.digest) for part in snapshot.parts])
