"""The rows of a training, from a snapshot."""

from __future__ import annotations

from pathlib import Path

from tidegate.bootstrap.local import Local
from tidegate.contract.schema import Contract
from tidegate.core.digest import Digest, digest_file, is_digest
from tidegate.core.error import NotFound
from tidegate.data.snapshot import read_snapshot, scan_snapshot
from tidegate.data.source import Source, file_source, frame_source, read_table
from tidegate.operation.data import find_snapshot, take_snapshot
from tidegate.operation.train import SnapshotRows
from tidegate.service.declare import Service


def training_rows(local: Local, service: Service, data: str | Path, *, key: str) -> SnapshotRows | Path:
    """Return the rows that `data` names, from a snapshot.

    A file becomes the next snapshot of the data set `SERVICE.data`, so that the run can be repeated when
    the file has changed or is gone. Of a service with sensitive inputs nothing is copied: the trainer
    gets the file.

    Args:
        local: The home.
        service: Whose trainer gets them.
        data: A data file, or a snapshot: `name`, `name@number` or a digest.
        key: Idempotency key of the snapshot.

    Raises:
        NotFound: There is neither.
        UnreadableData: The file cannot be read.
    """
    path = Path(data)
    if not path.is_file():
        return _stored(local, str(data))
    if _is_sensitive(service.contract):
        return path
    source = _source(path)
    taken = take_snapshot(
        local.unit,
        local.artifacts,
        source,
        name=f"{service.name}.data",
        principal=local.principal,
        key=key,
        clock=local.clock,
    ).result
    rows = snapshot_rows(local, taken.digest)
    return SnapshotRows(rows.rows, taken.digest, taken.label, path, source.origin.digest or digest_file(path))


def snapshot_rows(local: Local, digest: Digest) -> SnapshotRows:
    """Return the rows of a stored snapshot.

    Raises:
        NotFound: There is none under `digest`, or a part of it is missing.
        Corrupt: It is damaged.
    """
    snapshot = read_snapshot(local.artifacts, digest)
    return SnapshotRows(scan_snapshot(local.artifacts, snapshot).collect(), digest, "")


def _stored(local: Local, name: str) -> SnapshotRows:
    if is_digest(name):
        return snapshot_rows(local, Digest(name))
    try:
        digest, _ = find_snapshot(local.unit, local.artifacts, name)
    except NotFound as error:
        raise NotFound(
            f"There is neither a data file nor a snapshot {name!r}.",
            hint="`tidegate data list` lists the snapshots.",
            data=name,
        ) from error
    return snapshot_rows(local, digest)._replace(label=name)


def _source(path: Path) -> Source:
    if path.suffix != ".json":
        return file_source(path)
    return frame_source(read_table(path), name=path.name)


def _is_sensitive(contract: Contract) -> bool:
    return any(field.sensitive for field in contract.input.fields)
