"""A guard against poisoned batches: is this batch like those that its source sent before?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
import polars as pl

from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting
from tidegate.data.distribution import binned, population_stability_index, psi_by_chance
from tidegate.data.snapshot import Snapshot, scan_snapshot
from tidegate.data.store import FileStore
from tidegate.data.summary import ColumnSummary, summarise
from tidegate.statistics.special import student_quantile

MIN_BATCHES = 3
"""Earlier batches from which on one can say how much batches differ anyway."""

MAX_BATCHES = 12
"""Earlier batches that count: a source's habits of years ago excuse nothing today."""

MAX_ROWS = 50_000
"""Rows of an earlier batch that are looked at, evenly spread: shares are known to half a percent."""

PSI_FLOOR = 0.1
"""A PSI below is no departure, however alike the earlier batches were (Siddiqi, Credit Risk Scorecards,
2006, calls it no significant change)."""

MARGIN = 2.0
"""A batch may be this many times as far from the others as the most unusual earlier one was."""

RATE_FLOOR = 0.01
"""A change of a label's share below is no departure, whatever its significance."""

MAX_CLASSES = 20


class DepartureKind(StrEnum):
    """In what way a batch departs."""

    COLUMNS = "columns"  # columns came or went, or changed their type
    DISTRIBUTION = "distribution"
    LABEL_RATE = "label-rate"


class Departure(msgspec.Struct, frozen=True):
    """One way in which a batch is unlike the earlier ones.

    Attributes:
        kind: Which.
        column: Where; of a label rate with its value.
        figure: PSI in nats, or the share of the label in the batch.
        usual: The largest PSI of an earlier batch against the others, or the mean share of the label.
        limit: Beyond which it is a departure: the PSI, or the distance of the shares.
        message: The same in words.
    """

    kind: DepartureKind
    column: str
    figure: float
    usual: float
    limit: float
    message: str


class GuardReport(msgspec.Struct, frozen=True):
    """What a batch looks like beside those before it.

    Attributes:
        verdict: Safe, regressed (it departs), or undecided (too few earlier batches).
        n_batches: Earlier batches that it was held against.
        n_rows: Rows of the batch.
        departures: By falling distance over the limit.
        not_judged: Columns of which no distribution is kept: names, times, nested values.
    """

    verdict: Verdict
    n_batches: int
    n_rows: int
    departures: tuple[Departure, ...] = ()
    not_judged: tuple[str, ...] = ()


class _Distance(NamedTuple):
    psi: float
    by_chance: float


def guard_batch(
    batch: pl.DataFrame,
    history: Sequence[pl.DataFrame],
    *,
    label: str | None = None,
    hidden: Collection[str] = (),
    level: float = 0.01,
) -> GuardReport:
    """Hold a batch against the earlier batches of its source.

    A column departs when its PSI against all earlier batches together is above chance (at `level` over
    all columns), above `PSI_FLOOR`, and above `MARGIN` times what the most unusual earlier batch had
    against the others: sources differ in how much they vary anyway. A label's share departs when it lies
    outside the prediction interval of a new batch, by how much the shares of earlier batches vary beyond
    sampling.

    Args:
        batch: The new rows.
        history: Earlier batches, oldest first; the last `MAX_BATCHES` count.
        label: Column of classes whose shares are watched.
        hidden: Columns of which nothing may be said.
        level: Chance of holding a batch that is like the others; of distributions and of shares each.

    Raises:
        InvalidSetting: The label is no column of the batch, or has too many values.
    """
    if label is not None and label not in batch.columns:
        raise InvalidSetting(f"There is no column {label!r}.", hint=f"Columns: {', '.join(batch.columns)}.")
    known = [_thinned(each) for each in history[-MAX_BATCHES:]]
    if len(known) < MIN_BATCHES or not len(batch):
        return GuardReport(Verdict.UNDECIDED, len(known), len(batch))
    departures = list(_changed_columns(batch, known[-1]))
    shared = [
        name
        for name in batch.columns
        if name not in hidden and all(_family(each, name) == _family(batch, name) for each in known)
    ]
    not_judged = []
    for name in shared:
        if name == label and batch[name].n_unique() <= MAX_CLASSES:
            continue  # its shares are watched, more closely
        columns = [_plain(each[name]) for each in known]
        whole = summarise(pl.concat(columns))
        distance = _distance(whole, _plain(batch[name]), level=level / len(shared))
        if distance is None:
            not_judged.append(name)
        else:
            departures += _judged(name, distance, columns)
    if label is not None and label in shared:
        departures += _label_rates(batch[label], [each[label] for each in known], level)
    return GuardReport(
        Verdict.REGRESSED if departures else Verdict.SAFE,
        len(known),
        len(batch),
        tuple(sorted(departures, key=lambda each: -_excess(each))),
        tuple(not_judged),
    )


def _excess(departure: Departure) -> float:
    if departure.kind is DepartureKind.COLUMNS:
        return math.inf
    moved = abs(departure.figure - departure.usual)
    figure = departure.figure if departure.kind is DepartureKind.DISTRIBUTION else moved
    return figure / departure.limit if departure.limit else math.inf


def _thinned(batch: pl.DataFrame) -> pl.DataFrame:
    return batch.gather_every(max(1, -(-len(batch) // MAX_ROWS)))


def _changed_columns(batch: pl.DataFrame, last: pl.DataFrame) -> Iterator[Departure]:
    for name in dict.fromkeys([*last.columns, *batch.columns]):
        if _family(last, name) != _family(batch, name):
            before, after = (each.schema.get(name, "absent") for each in (last, batch))
            message = f"{name!r} was {before}, is {after}."
            yield Departure(DepartureKind.COLUMNS, name, 0.0, 0.0, 0.0, message)


def _family(table: pl.DataFrame, name: str) -> str:
    """Return what kind of type a column has: of a CSV file, whole numbers are now integers, now floats."""
    kind = table.schema.get(name)
    if kind is None:
        return ""
    return "number" if kind.is_numeric() else "time" if kind.is_temporal() else str(kind)


def _plain(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64) if column.dtype.is_numeric() else column


def read_history(store: FileStore, snapshots: Sequence[Snapshot]) -> list[pl.DataFrame]:
    """Return the rows of earlier batches, of each so many as the guard looks at.

    Raises:
        NotFound: A file of a snapshot is gone.
        Corrupt: A file is damaged.
    """
    return [
        scan_snapshot(store, each).gather_every(max(1, -(-each.n_rows // MAX_ROWS))).collect()
        for each in snapshots[-MAX_BATCHES:]
    ]


def _distance(reference: ColumnSummary, column: pl.Series, *, level: float) -> _Distance | None:
    counts = binned(reference, column)
    if counts is None or not sum(counts[0]) or not sum(counts[1]):
        return None
    expected, actual = counts
    n_bins = sum(1 for pair in zip(expected, actual, strict=True) if any(pair))
    chance = psi_by_chance(sum(expected), sum(actual), n_bins=max(n_bins, 2), level=level)
    return _Distance(population_stability_index(expected, actual), chance)


def _judged(name: str, found: _Distance, columns: Sequence[pl.Series]) -> Iterator[Departure]:
    if found.psi <= max(found.by_chance, PSI_FLOOR):
        return
    usual = 0.0
    for place, column in enumerate(columns):
        others = summarise(pl.concat([each for at, each in enumerate(columns) if at != place]))
        distance = _distance(others, column, level=0.01)
        usual = max(usual, 0.0 if distance is None else distance.psi)
    limit = max(found.by_chance, PSI_FLOOR, MARGIN * usual)
    if found.psi > limit:
        message = (
            f"{name!r} has moved: PSI {found.psi:.3g} against {len(columns)} earlier batches, of which the "
            f"most unusual had {usual:.3g}."
        )
        yield Departure(DepartureKind.DISTRIBUTION, name, found.psi, usual, limit, message)


def _label_rates(batch: pl.Series, history: Sequence[pl.Series], level: float) -> Iterator[Departure]:
    classes = pl.concat([batch, *history]).drop_nulls().unique().sort().to_list()
    if len(classes) > MAX_CLASSES:
        if batch.dtype.is_numeric():
            return  # a number: its distribution is watched as that of any column
        raise InvalidSetting(f"The label {batch.name!r} has {len(classes)} values.", hint="Name a class.")
    k = len(history)
    quantile = student_quantile(1 - level / (2 * len(classes)), k - 1)
    for value in classes if len(classes) > 2 else classes[-1:]:
        share = _share(value)
        n_rows = [max(1, len(each) - each.null_count()) for each in history]
        rates = [share(each) for each in history]
        mean = sum(rates) / k
        variance = sum((rate - mean) ** 2 for rate in rates) / (k - 1)
        n_new = max(1, len(batch) - batch.null_count())
        # A rate that never moved is still known no better than its rows tell, by one row each.
        noise = max(mean * (1 - mean), 1 / sum(n_rows))
        between = max(0.0, variance - noise * sum(1 / n for n in n_rows) / k)
        spread = math.sqrt(between * (1 + 1 / k) + noise * (1 / n_new + 1 / sum(n_rows)))
        limit = max(RATE_FLOOR, quantile * spread)
        rate = share(batch)
        if abs(rate - mean) > limit:
            message = (
                f"{batch.name} = {value} in {rate:.2%} of the rows, in earlier batches in {min(rates):.2%} "
                f"to {max(rates):.2%}; a batch like them lies within {mean:.2%} ± {limit:.2%}."
            )
            yield Departure(DepartureKind.LABEL_RATE, f"{batch.name} = {value}", rate, mean, limit, message)


def _share(value: object) -> Callable[[pl.Series], float]:
    def share(column: pl.Series) -> float:
        n_rows = len(column) - column.null_count()
        return float((column == value).sum()) / n_rows if n_rows else 0.0

    return share
