"""Profiles by minute, hour and day, of everything and of each slice, all in the bins of one reference.

A coarser period is the sum of its finer ones, a whole the sum of its slices: hours are what is kept,
days and months follow from them. They are to be looked at. What decides is the day (`watch`), for
hours of a day differ from each other more than from what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.slicing import MAX_VALUES, Slicing
from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.monitoring.profile import Profile, block_counts, grids_of
from tidegate.monitoring.subject import AT, FAILED
from tidegate.statistics import drift
from tidegate.statistics.histogram import CategoryGrid, Counts, Grid, NumberGrid, category_grid

_US_PER_MINUTE = 60_000_000
_FAR = 1e308  # JSON has no infinity
WHOLE = ("", "")
"""Slice that everything is in."""


class Span(IntEnum):
    """Length of a period, minutes."""

    MINUTE = 1
    HOUR = 60
    DAY = 1440


class Anchor(msgspec.Struct, frozen=True):
    """What profiles are counted against; profiles of one anchor add up.

    Attributes:
        first, last: Days of the reference.
        grids: Bins of each field.
        slices: Bins of each field by which records are counted apart.
    """

    first: date
    last: date
    grids: dict[str, Grid]
    slices: dict[str, Grid] = {}

    @property
    def digest(self) -> Digest:
        """Identity: other bins, another anchor."""
        return digest_bytes(canonical_json(self))


class PeriodProfile(msgspec.Struct, frozen=True):
    """The profile of one period and one slice.

    Attributes:
        minute: Where the period begins, minutes since 1970 UTC.
        part: Field and value of the slice; `WHOLE` for everything.
        profile: Its counts.
    """

    minute: int
    part: tuple[str, str]
    profile: Profile


class ProfileStore(Protocol):
    """Keeps profiles by hour, so that a day's rows are read once."""

    def kept(self, service: str, anchor: Anchor, day: date) -> tuple[int, list[PeriodProfile]] | None:
        """Return the hours of a day and of how many rows they are; None where there are none."""
        ...

    def keep(
        self, service: str, anchor: Anchor, day: date, n_rows: int, profiles: Sequence[PeriodProfile]
    ) -> None:
        """Keep the hours of a day in place of those that are kept."""
        ...


def anchor_of(reference: pl.DataFrame, fields: Sequence[str], slicing: Slicing) -> Anchor:
    """Return the bins that a reference gives.

    Args:
        reference: Its records.
        fields: Columns that are profiled.
        slicing: By what records are counted apart; parts of numbers follow from the contract.
    """
    days = reference[AT].cast(pl.Date)
    slices: dict[str, Grid] = {}
    for slice_ in slicing.fields:
        name = f"input.{slice_.field}"
        if name not in reference.columns:
            continue
        if slice_.cuts:
            slices[slice_.field] = NumberGrid((-_FAR, *slice_.cuts, _FAR))
        else:
            counted = reference[name].drop_nulls().cast(pl.String).value_counts()
            pairs = zip(counted.to_series(0).to_list(), counted.to_series(1).to_list(), strict=True)
            slices[slice_.field] = category_grid(list(pairs), max_categories=MAX_VALUES)
    grids = grids_of(reference, [name for name in fields if name in reference.columns])
    first, last = days.min(), days.max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    return Anchor(first, last, grids, slices)


def profiles_of(table: pl.DataFrame, anchor: Anchor, slicing: Slicing, span: Span) -> list[PeriodProfile]:
    """Return the profiles of each period and slice that has records, by time.

    Requests that were answered with an error are left out, as the monitors do.
    """
    if FAILED in table.columns:
        table = table.filter(~pl.col(FAILED).fill_null(False))
    if not table.height:
        return []
    starts = _minutes(table) // span * span
    everything = _Cut(WHOLE[0], [WHOLE[1]], np.zeros(table.height, np.int64))
    found = _of_blocks(table, anchor, starts, everything)
    for slice_ in slicing.fields:
        grid, name = anchor.slices.get(slice_.field), f"input.{slice_.field}"
        if grid is not None and name in table.columns:
            names = _names(grid, slice_.names)
            found += _of_blocks(table, anchor, starts, _Cut(slice_.field, names, _codes(table[name], grid)))
    return sorted(found, key=lambda each: (each.minute, each.part))


def _minutes(table: pl.DataFrame) -> npt.NDArray[np.int64]:
    return table[AT].dt.epoch("us").to_numpy() // _US_PER_MINUTE


def _names(grid: Grid, parts: Sequence[str]) -> list[str]:
    """Return what the codes of `_codes` are called: as the live counts call them."""
    return list(parts) if isinstance(grid, NumberGrid) else list(grid.names)


def _codes(column: pl.Series, grid: Grid) -> npt.NDArray[np.int64]:
    if isinstance(grid, NumberGrid):
        codes = np.searchsorted(np.asarray(grid.cuts[1:-1]), _floats(column), side="right")
        codes[np.isnan(_floats(column))] = len(grid.cuts) - 1
        return codes.astype(np.int64)
    assert isinstance(grid, CategoryGrid)
    return grid.codes(column.cast(pl.String).to_numpy()).astype(np.int64)


def _floats(column: pl.Series) -> npt.NDArray[np.float64]:
    return column.cast(pl.Float64).to_numpy()


class _Cut(NamedTuple):
    """By what records are counted apart: the field, its values' names, and the code of each row."""

    field: str
    names: Sequence[str]
    codes: npt.NDArray[np.int64]


def _of_blocks(
    table: pl.DataFrame, anchor: Anchor, starts: npt.NDArray[np.int64], cut: _Cut
) -> list[PeriodProfile]:
    names = cut.names
    keys, block = np.unique(starts * len(names) + cut.codes, return_inverse=True)
    present = {name: grid for name, grid in anchor.grids.items() if name in table.columns}
    counts = block_counts(table, present, block.astype(np.int64), n_blocks=len(keys))
    rows = np.bincount(block, minlength=len(keys)).tolist()
    return [
        PeriodProfile(
            int(key // len(names)),
            (cut.field, names[int(key % len(names))]),
            Profile(n_rows, {name: found[place].tolist() for name, found in counts.items()}),
        )
        for place, (key, n_rows) in enumerate(zip(keys.tolist(), rows, strict=True))
    ]


def coarser(profiles: Iterable[PeriodProfile], span: Span) -> list[PeriodProfile]:
    """Return the profiles of longer periods: the sums of shorter ones."""
    found: dict[tuple[int, tuple[str, str]], Profile] = {}
    for each in profiles:
        found.setdefault((each.minute // span * span, each.part), Profile()).add(each.profile)
    return [PeriodProfile(minute, part, profile) for (minute, part), profile in sorted(found.items())]


def summed(profiles: Iterable[PeriodProfile]) -> dict[tuple[str, str], Profile]:
    """Return the profile of each slice over all periods."""
    found: dict[tuple[str, str], Profile] = {}
    for each in profiles:
        found.setdefault(each.part, Profile()).add(each.profile)
    return found


class Moved(msgspec.Struct, frozen=True):
    """How far one field of one period lies from the reference; to be looked at, not to decide by.

    Attributes:
        field: Its name.
        psi: Population stability index, nats.
        beyond: What of it independent rows would not have by chance; at least 0. Rows of a period resemble
            each other, so that some of it is left without any drift.
        bin: What moved most, in words, and its share in the reference and the period.
    """

    field: str
    psi: float
    beyond: float
    bin: tuple[str, float, float]


def moved(profile: Profile, reference: Profile, grids: Mapping[str, Grid]) -> list[Moved]:
    """Return how far each field lies from the reference, the farthest first."""
    found = []
    for name, grid in grids.items():
        counts = np.asarray(profile.counts.get(name, ()), np.int64)
        before = np.asarray(reference.counts.get(name, ()), np.int64)
        if counts.sum() and before.sum():
            found.append(_moved(name, counts, before, grid))
    return sorted(found, key=lambda each: (-each.beyond, -each.psi, each.field))


def _moved(name: str, counts: Counts, before: Counts, grid: Grid) -> Moved:
    psi = float(drift.psi(before, counts))
    n_used = int(np.count_nonzero((counts + before) > 0))
    chance = (n_used - 1) * (1 / int(counts.sum()) + 1 / int(before.sum()))
    p, q = before / before.sum(), counts / counts.sum()
    most = int(np.argmax(np.abs(q - p)))
    return Moved(name, psi, max(0.0, psi - chance), (grid.names[most], float(p[most]), float(q[most])))


def same_hour(profiles: Iterable[PeriodProfile]) -> dict[tuple[int, tuple[str, str]], Profile]:
    """Return the profiles of a reference by hour of the day (UTC) and slice: what hours stand beside."""
    found: dict[tuple[int, tuple[str, str]], Profile] = {}
    for each in profiles:
        key = (each.minute % Span.DAY // Span.HOUR, each.part)
        found.setdefault(key, Profile()).add(each.profile)
    return found
