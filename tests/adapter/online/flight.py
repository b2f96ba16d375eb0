"""Two views of the flights: hourly weather by origin, and the carrier's trailing day."""

from datetime import timedelta

import flight_data
import polars as pl

import tidegate as tg
from tidegate.feature.aggregate import count, mean, rate
from tidegate.feature.view import FeatureView


class Airport(tg.Input):
    origin: str


class Carrier(tg.Input):
    carrier: str


class Observation(tg.Input):
    wind_speed: float
    precipitation: float
    visibility: float


class Arrival(tg.Input):
    arr_delay: float


class Weather(tg.Output):
    wind_ms: float
    precipitation: float
    visibility: float


WEATHER = FeatureView(
    name="weather",
    entity=Airport,
    source=Observation,
    event_time="observed_at",
    created_time="published_at",
    ttl=timedelta(hours=3),
    transform={"wind_ms": pl.col("wind_speed") * 0.44704},
    features=Weather,
)
DAY = timedelta(hours=24)
CARRIER = FeatureView(
    name="carrier_day",
    entity=Carrier,
    source=Arrival,
    event_time="arrived_at",
    event_id="flight_id",
    transform={"late": pl.col("arr_delay") >= flight_data.LATE_MINUTES},
    aggregates={
        "arrivals": count(DAY),
        "late_rate": rate("late", DAY),
        "mean_delay": mean("arr_delay", timedelta(hours=6)),
    },
)


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return flights by scheduled departure, weather as it is published, and arrivals."""
    flights = flight_data.read_flights().sort("sched_dep_at", maintain_order=True)
    weather = flight_data.read_weather().with_columns(
        published_at=pl.col("observed_at") + timedelta(minutes=10)
    )
    in_air = pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
    arrivals = flights.filter(pl.col("arr_delay").is_not_null()).select(
        "flight_id", "carrier", "arr_delay", arrived_at=pl.col("sched_dep_at") + in_air
    )
    return flights, weather, arrivals
