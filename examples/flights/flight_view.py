"""What the model is told beside the request, defined once: training joins it, serving looks it up.

Each view names whose events count, from when they were known, and how far back they reach. Serving
knows nothing of these tables: events are put into the online store as they happen.
"""

from __future__ import annotations

from datetime import timedelta

import flight_data
import polars as pl

import tidegate as tg
from tidegate.feature.aggregate import mean, rate
from tidegate.feature.view import FeatureView


class Airport(tg.Input):
    """Whose weather it is."""

    origin: str


class Observation(tg.Input):
    """An hour's weather at an airport."""

    wind_speed: float
    precipitation: float
    visibility: float


class Weather(tg.Output):
    """The latest weather that had been published."""

    wind_speed: float = tg.field(ge=0, unit="mile per hour")
    precipitation: float = tg.field(ge=0, unit="inch per hour")
    visibility: float = tg.field(ge=0, unit="mile")


class Airline(tg.Input):
    """Whose arrivals they are."""

    carrier: str


class Arrival(tg.Input):
    """A flight that has landed."""

    arr_delay: float = tg.field(unit="minute")


class Counter(tg.Input):
    """Whose departures they are: an airline at an airport."""

    carrier: str
    origin: str


class Departure(tg.Input):
    """A flight that has left."""

    dep_delay: float = tg.field(unit="minute")


WEATHER = FeatureView(
    name="weather",
    entity=Airport,
    source=Observation,
    event_time="observed_at",
    created_time="published_at",
    ttl=timedelta(hours=3),
    features=Weather,
    rows=lambda: weather_table(flight_data.read_weather()),
)
CARRIER_DAY = FeatureView(
    name="carrier_day",
    entity=Airline,
    source=Arrival,
    event_time="arrived_at",
    event_id="flight_id",
    transform={"late": pl.col("arr_delay") >= flight_data.LATE_MINUTES},
    aggregates={"carrier_late_rate": rate("late", timedelta(hours=24))},
    rows=lambda: arrivals_table(flight_data.read_flights()),
)
DEPARTURES = FeatureView(
    name="departures",
    entity=Counter,
    source=Departure,
    event_time="departed_at",
    event_id="flight_id",
    aggregates={"carrier_delay": mean("dep_delay", timedelta(hours=3), steps_per_unit=1)},
    rows=lambda: departures_table(flight_data.read_flights()),
)
VIEWS = (WEATHER, CARRIER_DAY, DEPARTURES)


def weather_table(weather: pl.DataFrame) -> pl.DataFrame:
    """Return the events of `WEATHER`: an hour's observation is published at its end."""
    return weather.with_columns(published_at=pl.col("observed_at") + timedelta(hours=1))


def arrivals_table(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the events of `CARRIER_DAY`: flights that arrived, when their wheels touched the ground."""
    in_air = pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
    return flights.filter(pl.col("arr_delay").is_not_null()).select(
        "flight_id", "carrier", "arr_delay", arrived_at=pl.col("sched_dep_at") + in_air
    )


def departures_table(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the events of `DEPARTURES`: flights that left the gate."""
    left = pl.duration(minutes=pl.col("dep_delay"))
    return flights.filter(pl.col("dep_delay").is_not_null()).select(
        "flight_id", "carrier", "origin", "dep_delay", departed_at=pl.col("sched_dep_at") + left
    )


def tables(flights: pl.DataFrame, weather: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the events of each view by its name."""
    return {
        WEATHER.name: weather_table(weather),
        CARRIER_DAY.name: arrivals_table(flights),
        DEPARTURES.name: departures_table(flights),
    }
