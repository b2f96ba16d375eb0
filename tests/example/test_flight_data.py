"""What a flight's row holds was known at its scheduled departure."""

from __future__ import annotations

from datetime import datetime, timedelta

import flight_data
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2013, 10, 1, 6)
WEATHER = pl.DataFrame(
    {
        "origin": ["EWR"] * 12,
        "observed_at": [START + timedelta(hours=hour) for hour in range(12)],
        "wind_speed": [float(hour) for hour in range(12)],
        "precipitation": [0.0] * 12,
        "visibility": [10.0] * 12,
    }
)

flights_of_a_morning = st.lists(
    st.tuples(
        st.integers(60, 600),  # minutes after START of the scheduled departure
        st.sampled_from(["UA", "B6"]),
        st.sampled_from(["BOS", "SFO"]),
        st.none() | st.integers(-20, 240),  # departure delay; None was cancelled
    ),
    min_size=1,
    max_size=25,
)


def flights_of(rows):
    at = [START + timedelta(minutes=minute) for minute, *_ in rows]
    return pl.DataFrame(
        {
            "year": [2013] * len(rows),
            "month": [10] * len(rows),
            "day": [1] * len(rows),
            "hour": [moment.hour for moment in at],
            "minute": [moment.minute for moment in at],
            "sched_arr_time": [1200] * len(rows),
            "distance": [500] * len(rows),
            "tailnum": ["N1"] * len(rows),
            "carrier": [carrier for _, carrier, _, _ in rows],
            "origin": ["EWR"] * len(rows),
            "dest": [dest for _, _, dest, _ in rows],
            "dep_delay": [delay for *_, delay in rows],
            "arr_delay": [delay for *_, delay in rows],
            "air_time": [60] * len(rows),
            "flight_id": list(range(len(rows))),
            "sched_dep_at": at,
        },
        schema_overrides={"dep_delay": pl.Int64, "arr_delay": pl.Int64},
    )


def mean_of_departures(rows, minute, *, window, matches):
    """The same feature by its definition, one flight at a time."""
    delays = [
        delay
        for sched, carrier, dest, delay in rows
        if delay is not None and minute - window <= sched + delay < minute and matches(carrier, dest)
    ]
    return sum(delays) / len(delays) if delays else float("nan")


def late_rate(rows, minute, mine):
    """The carrier's share of late arrivals in the day before: each is an hour in the air."""
    landed = [
        delay >= 15
        for sched, carrier, _, delay in rows
        if delay is not None and carrier == mine and minute - 1440 <= sched + delay + 60 < minute
    ]
    return sum(landed) / len(landed) if landed else float("nan")


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(flights_of_a_morning)
def test_recent_delays_equal_their_definition(rows):
    in_order = sorted(range(len(rows)), key=lambda position: (rows[position][0], position))

    table = flight_data.add_features(flights_of(rows), WEATHER)

    for row, position in zip(table.iter_rows(named=True), in_order, strict=True):
        minute, carrier, dest, _ = rows[position]
        expected = {
            "origin_delay": mean_of_departures(rows, minute, window=60, matches=lambda *_: True),
            "carrier_delay": mean_of_departures(
                rows, minute, window=180, matches=lambda other, _, mine=carrier: other == mine
            ),
            "dest_delay": mean_of_departures(
                rows, minute, window=180, matches=lambda _, other, mine=dest: other == mine
            ),
            "carrier_late_rate": late_rate(rows, minute, carrier),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=0.051, nan_ok=True), name


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(flights_of_a_morning, st.integers(60, 600), st.integers(1, 500))
def test_features_do_not_change_with_what_happens_later(rows, now, extra):
    def later(row):
        sched, carrier, dest, delay = row
        if delay is None:
            return row if sched < now else (sched, carrier, dest, extra)
        return row if sched + delay < now else (sched, carrier, dest, max(delay, now - sched) + extra)

    known = [*flight_data.FEATURES, "tailnum", "sched_dep_at"]
    at = START + timedelta(minutes=now)

    before = flight_data.add_features(flights_of(rows), WEATHER).filter(pl.col("sched_dep_at") <= at)
    after = flight_data.add_features(flights_of(list(map(later, rows))), WEATHER).filter(
        pl.col("sched_dep_at") <= at
    )

    assert before.select(known).equals(after.select(known))


def test_weather_is_of_the_hour_before():
    table = flight_data.add_features(flights_of([(150, "UA", "BOS", 0)]), WEATHER)  # leaves at 08:30

    assert table["wind_speed"].to_list() == [1.0]  # observed at 07:00


@pytest.mark.parametrize(("delay", "late"), [(14, False), (15, True), (-5, False), (None, None)])
def test_a_flight_is_late_from_fifteen_minutes(delay, late):
    table = flight_data.add_features(flights_of([(150, "UA", "BOS", delay)]), WEATHER)

    assert table["late"].to_list() == [late]


@pytest.mark.slow
def test_the_archive_has_every_flight_once_and_labels_what_arrived(archive):
    flights = archive

    assert flights.height == 336_776
    assert flights["late"].null_count() == 9_430
    assert flights["sched_dep_at"].is_sorted()
    october = flights.filter(pl.col("month") == 10)
    assert october.height == 28_889
    assert october["late"].null_count() == 271
    missing = flights.select(pl.col("tailnum") == flight_data.UNKNOWN_AIRCRAFT).to_series().sum()
    assert missing == 2_512
