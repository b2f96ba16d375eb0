"""Profiles of finer periods and slices add up to those of coarser ones and of everything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.monitoring.stream import CONTRACT, FIRST, records, subject
from tidegate.adapter.sqlite.profile import SqliteProfileStore
from tidegate.contract.slicing import slicing_of
from tidegate.core.error import InvalidSetting
from tidegate.monitoring.period import WHOLE, Anchor, Span, anchor_of, coarser, profiles_of, summed
from tidegate.monitoring.profile import Profile, merge, profile_of
from tidegate.monitoring.subject import TableHistory
from tidegate.operation.profile import ProfileBook

SUBJECT = subject(slices=("channel", "age"), reference_days=10)
SLICING = slicing_of(CONTRACT, ("channel", "age"))
FIELDS = (*SUBJECT.inputs, *SUBJECT.outputs)


def spread(table: pl.DataFrame) -> pl.DataFrame:
    """Spread each day's records over its hours."""
    hours = pl.Series(np.arange(table.height) % 14)
    return table.with_columns(pl.col("arrived_at") + pl.duration(hours=hours)).sort("arrived_at")


BASIS = spread(records(10))
ANCHOR: Anchor = anchor_of(BASIS, FIELDS, SLICING)


class CountedTable(TableHistory):
    """A history in memory that counts how often it is read."""

    def __init__(self, table: pl.DataFrame) -> None:
        super().__init__(table)
        self.n_reads = 0

    def n_records(self, day: date) -> int:
        return super().records(day, day).height

    def records(self, since: date, until: date) -> pl.DataFrame:
        self.n_reads += 1
        return super().records(since, until)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteProfileStore]:
    found = SqliteProfileStore(tmp_path / "profiles.db")
    yield found
    found.close()


def book(table: pl.DataFrame, store: SqliteProfileStore) -> ProfileBook:
    return ProfileBook(CountedTable(table), SUBJECT, SLICING, store)


def test_minutes_make_hours_hours_make_days_and_slices_make_the_whole() -> None:
    table = spread(records(3, seed=1, first=FIRST + timedelta(days=20)))
    by_span = {span: profiles_of(table, ANCHOR, SLICING, span) for span in Span}

    assert coarser(by_span[Span.MINUTE], Span.HOUR) == by_span[Span.HOUR]
    assert coarser(by_span[Span.HOUR], Span.DAY) == by_span[Span.DAY]
    whole = summed(by_span[Span.MINUTE])
    assert whole[WHOLE] == profile_of(table, ANCHOR.grids)
    for field in ("channel", "age"):
        assert merge(p for part, p in whole.items() if part[0] == field) == whole[WHOLE]


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), n_parts=st.integers(1, 6))
def test_any_partition_of_the_records_adds_up_to_the_whole(seed: int, n_parts: int) -> None:
    table = spread(records(2, seed=3))
    which = pl.Series(np.random.default_rng(seed).integers(0, n_parts, table.height))
    parts = [table.filter(which == part) for part in range(n_parts)]

    found = coarser(
        (each for part in parts for each in profiles_of(part, ANCHOR, SLICING, Span.HOUR)), Span.HOUR
    )

    assert found == profiles_of(table, ANCHOR, SLICING, Span.HOUR)


def test_an_hour_of_twenty_fields_takes_kilobytes(store: SqliteProfileStore, tmp_path: Path) -> None:
    table = pl.concat(
        [records(5, seed=4)]
        + [
            records(5, seed=seed).select(
                pl.col("input.amount").alias(f"input.a{seed}"), pl.col("input.age").alias(f"input.b{seed}")
            )
            for seed in range(9)
        ],
        how="horizontal",
    )
    anchor = anchor_of(
        table, [name for name in table.columns if name[:2] in ("in", "ou")], slicing_of(CONTRACT, ())
    )
    hours = profiles_of(table, anchor, slicing_of(CONTRACT, ()), Span.HOUR)
    store.keep("loans", anchor, FIRST, 600, hours)
    sizes = [size for (size,) in store._connection.execute("SELECT length(body) FROM profile")]

    assert len(anchor.grids) >= 20
    assert max(sizes) < 4000


def test_a_day_is_counted_once_and_again_when_more_of_it_comes(store: SqliteProfileStore) -> None:
    table = spread(records(12))
    day = FIRST + timedelta(days=11)
    history = CountedTable(table.filter(pl.col("arrived_at").dt.date() < day))
    early = ProfileBook(history, SUBJECT, SLICING, store)
    n_reads = history.n_reads
    again = ProfileBook(history, SUBJECT, SLICING, store)

    assert history.n_reads == n_reads + 1  # the bins follow from the reference's rows; its hours are kept
    assert again.reference == early.reference
    full = book(table, store)
    assert summed(full.hours(day))[WHOLE].n_rows == 120
    half = CountedTable(pl.concat([table, table.filter(pl.col("arrived_at").dt.date() == day)]))
    assert summed(ProfileBook(half, SUBJECT, SLICING, store).hours(day))[WHOLE].n_rows == 240


def test_hours_stand_beside_the_same_hours_and_a_break_is_seen_in_its_hour(store: SqliteProfileStore) -> None:
    table = spread(records(12))
    day = FIRST + timedelta(days=11)
    broken = (pl.col("arrived_at").dt.date() == day) & (pl.col("arrived_at").dt.hour() >= 18)
    table = table.with_columns(
        pl.when(broken)
        .then(pl.col("input.amount") * 100)
        .otherwise(pl.col("input.amount"))
        .alias("input.amount")
    )

    views = book(table, store).periods((day, day), Span.HOUR)

    by_hour = {view.minute % Span.DAY // 60: view for view in views if view.minute is not None}
    assert set(by_hour) == set(range(8, 22))
    assert all(by_hour[hour].moved[0].field == "input.amount" for hour in range(18, 22))
    assert min(by_hour[h].moved[0].beyond for h in range(18, 22)) > max(
        by_hour[h].moved[0].beyond for h in range(8, 18)
    )
    assert all(view.n_reference < 10 * 120 / 4 for view in views)


def test_the_slice_that_moved_comes_first(store: SqliteProfileStore) -> None:
    table = spread(records(12))
    broken = (pl.col("arrived_at").dt.date() > FIRST + timedelta(days=9)) & (
        pl.col("input.channel") == "phone"
    )
    table = table.with_columns(
        pl.when(broken)
        .then(pl.col("input.amount") * 10)
        .otherwise(pl.col("input.amount"))
        .alias("input.amount")
    )
    over = (FIRST + timedelta(days=10), FIRST + timedelta(days=11))

    views = book(table, store).slices(over, "channel")

    assert views[0].part == ("channel", "phone")
    assert views[0].moved[0].field == "input.amount"
    assert views[0].moved[0].beyond > 5 * max(view.moved[0].beyond for view in views[1:])
    with pytest.raises(InvalidSetting, match="not profiled by"):
        book(table, store).slices(over, "amount")


def test_a_period_without_records_has_no_profile(store: SqliteProfileStore) -> None:
    later = FIRST + timedelta(days=300)

    assert book(BASIS, store).periods((later, later), Span.MINUTE) == []
    assert profiles_of(BASIS.clear(), ANCHOR, SLICING, Span.DAY) == []
    assert summed([]) == {}
    assert merge([]) == Profile()
