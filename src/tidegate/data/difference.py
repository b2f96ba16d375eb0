"""What changed between two snapshots."""

from __future__ import annotations

import msgspec
import polars as pl

from tidegate.data.distribution import binned, population_stability_index, psi_by_chance
from tidegate.data.snapshot import Snapshot, scan_snapshot
from tidegate.data.store import FileStore
from tidegate.data.summary import ColumnSummary


class ColumnChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column that both snapshots have.

    Attributes:
        name: Of the column.
        old, new: Its summaries.
        psi: Distance of the new values from the old, in nats; None where they cannot be binned.
        by_chance: What `psi` exceeds once in a hundred times without any change.
    """

    name: str
    old: ColumnSummary
    new: ColumnSummary
    psi: float | None = None
    by_chance: float | None = None

    @property
    def moved(self) -> bool:
        """Whether the values moved by more than chance explains."""
        return self.psi is not None and self.by_chance is not None and self.psi > self.by_chance


class Difference(msgspec.Struct, frozen=True):
    """What changed.

    Attributes:
        n_rows: Rows before and after.
        same_content: The rows are the same, one by one.
        n_shared_parts: Part files that both have.
        added, removed: Columns that only one has.
        changed: Columns of both whose type or values differ.
    """

    n_rows: tuple[int, int]
    same_content: bool
    n_shared_parts: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[ColumnChange, ...]


def compare_snapshots(store: FileStore, old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots, column by column.

    Raises:
        NotFound: A part is missing.
        Corrupt: A part is damaged.
    """
    before, after = old.by_name, new.by_name
    changed: list[ColumnChange] = []
    if old.content != new.content:
        rows = scan_snapshot(store, new)
        for name, summary in before.items():
            if name in after and after[name] != summary:
                changed.append(_change(summary, after[name], rows))
    return Difference(
        n_rows=(old.n_rows, new.n_rows),
        same_content=old.content == new.content,
        n_shared_parts=len({part.digest for part in old.parts} & {part.digest for part in new.parts}),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(changed),
    )


def _change(old: ColumnSummary, new: ColumnSummary, rows: pl.LazyFrame) -> ColumnChange:
    counts = binned(old, rows.select(old.name).collect().to_series())
    if counts is None or not sum(counts[0]) or not sum(counts[1]):
        return ColumnChange(old.name, old, new)
    expected, actual = counts
    n_bins = sum(1 for pair in zip(expected, actual, strict=True) if any(pair))
    return ColumnChange(
        old.name,
        old,
        new,
        psi=population_stability_index(expected, actual),
        by_chance=psi_by_chance(sum(expected), sum(actual), n_bins=n_bins),
    )
