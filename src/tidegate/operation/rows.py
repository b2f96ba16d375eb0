"""Rows by their name: a data file's, or a snapshot's; and what is made of them as new snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.data.duplicate import exact_duplicates, near_duplicates
from tidegate.data.label import LabelReport, check_label
from tidegate.data.mislabel import Learner, MislabelReport, check_mislabelled
from tidegate.data.snapshot import scan_snapshot
from tidegate.data.source import frame_source, read_table
from tidegate.data.split import Split
from tidegate.data.store import FileStore
from tidegate.operation.data import NamedSnapshot, find_snapshot, take_snapshot
from tidegate.operation.mutation import UnitOfWork

MAX_SHOWN = 20


class Rows(NamedTuple):
    """A table, and where it came from.

    Attributes:
        table: The rows.
        name: As they were asked for.
        snapshot: Digest of the snapshot; None for a file.
    """

    table: Any
    name: str
    snapshot: Digest | None = None

    @property
    def parents(self) -> tuple[Digest, ...]:
        """The snapshots that whatever is made of these rows comes from."""
        return () if self.snapshot is None else (self.snapshot,)


def load_rows(unit: UnitOfWork, store: FileStore, target: str) -> Rows:
    """Return the rows of a data file or of a snapshot: `name`, `name@number` or a digest.

    Raises:
        NotFound: There is neither.
        UnreadableData: The file cannot be read.
        Corrupt: The snapshot is damaged.
    """
    path = Path(target)
    if path.is_file():
        return Rows(read_table(path), path.name)
    if path.suffix and "@" not in target and len(path.parts) > 1:
        raise NotFound(f"There is no data file {target}.", path=target)
    try:
        digest, snapshot = find_snapshot(unit, store, target)
    except NotFound as error:
        raise NotFound(
            f"There is neither a data file nor a snapshot {target!r}.", hint=error.hint, target=target
        ) from error
    return Rows(scan_snapshot(store, snapshot).collect(), target, digest)


def store_parts(
    unit: UnitOfWork,
    store: FileStore,
    parts: Mapping[str, Any],
    *,
    name: str,
    parents: tuple[Digest, ...],
    note: str,
    principal: Principal,
    key: str,
    clock: Clock,
) -> list[NamedSnapshot]:
    """Store tables as the next snapshots of the data sets `NAME.PART`, or of `NAME` for a part without name.

    Raises:
        TidegateError: As `take_snapshot`; parts that were stored before stay.
    """
    return [
        take_snapshot(
            unit,
            store,
            frame_source(table, name=name),
            name=f"{name}.{part}" if part else name,
            principal=principal,
            key=f"{key}/{part}",
            clock=clock,
            parents=parents,
            note=f"{part} of {note}" if part else note,
        ).result
        for part, table in parts.items()
    ]


def split_parts(rows: Rows, split: Split, *, fold: int | None = None) -> dict[str, Any]:
    """Return the rows of a split's sides by name: `train` and `test`, numbered where there are folds."""
    number = "" if fold is None else str(fold)
    return {f"train{number}": rows.table[split.train], f"test{number}": rows.table[split.test]}


class DuplicateReport(msgspec.Struct, frozen=True):
    """Rows that repeat others.

    Attributes:
        n_rows: Rows.
        n_exact: Rows that equal an earlier one.
        exact: Of them, some with the row that each repeats.
        n_near: Pairs of nearly equal texts; None where no text was looked at.
        near: The most alike of them: two rows and their similarity.
    """

    n_rows: int
    n_exact: int
    exact: tuple[tuple[int, int], ...]
    n_near: int | None = None
    near: tuple[tuple[int, int, float], ...] = ()


def find_duplicates(
    rows: Rows, *, columns: Sequence[str] = (), text: str | None = None, at_least: float = 0.8
) -> DuplicateReport:
    """Find rows that repeat an earlier one, and texts that nearly repeat another.

    Raises:
        InvalidSetting: A column does not exist, or holds no text.
    """
    found = exact_duplicates(rows.table, columns)
    report = DuplicateReport(
        n_rows=len(rows.table),
        n_exact=len(found.rows),
        exact=tuple(
            (int(row), int(first))
            for row, first in zip(found.rows[:MAX_SHOWN], found.first[:MAX_SHOWN], strict=True)
        ),
    )
    if text is None:
        return report
    exact_duplicates(rows.table, [text])  # names a column that does not exist
    pairs = sorted(near_duplicates(rows.table[text], at_least=at_least), key=lambda pair: -pair.similarity)
    return msgspec.structs.replace(
        report, n_near=len(pairs), near=tuple((one, other, alike) for one, other, alike in pairs[:MAX_SHOWN])
    )


class LabelCheck(msgspec.Struct, frozen=True):
    """What a label looks like, and which of its values are likely wrong.

    Attributes:
        label: Its column.
        learner: What it was held against: `boosted` or `linear`.
        report: Missing, constant, rare and skewed.
        mislabelled: Likely errors; None where the label cannot be checked so.
        reason: Why not, in words.
    """

    label: str
    learner: str
    report: LabelReport
    mislabelled: MislabelReport | None = None
    reason: str = ""


def check_labels(
    rows: Rows,
    label: str,
    learner: Learner,
    *,
    learner_name: str,
    features: Sequence[str] | None = None,
    n_folds: int = 5,
) -> LabelCheck:
    """Look at a label, and for values of it that are likely wrong.

    Raises:
        InvalidSetting: A column does not exist.
    """
    exact_duplicates(rows.table, [label, *(features or ())])  # names a column that does not exist
    report = check_label(rows.table[label])
    try:
        found = check_mislabelled(rows.table, label, learner, features=features, n_folds=n_folds)
    except InvalidSetting as error:
        return LabelCheck(label, learner_name, report, reason=error.message)
    return LabelCheck(label, learner_name, report, found)
