"""A feature that is served otherwise than it was trained is named, with its rate; the others are not."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import tidegate as tg
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.core.decision import Verdict
from tidegate.feature.aggregate import mean, rate
from tidegate.feature.materialise import materialise
from tidegate.feature.online import read
from tidegate.feature.view import FeatureView
from tidegate.monitoring.skew import check_skew

MPH_PER_KNOT = 1.15078
HOUR_US = 3_600_000_000


class Airport(tg.Input):
    origin: str


class Observation(tg.Input):
    wind_speed: float
    visibility: float


class Airline(tg.Input):
    carrier: str


class Arrival(tg.Input):
    delay: float


WEATHER = FeatureView(
    name="weather",
    entity=Airport,
    source=Observation,
    event_time="seen",
    ttl=timedelta(hours=3),
    features=Observation,
)
DAY = FeatureView(
    name="day",
    entity=Airline,
    source=Arrival,
    event_time="landed",
    event_id="flight",
    transform={"late": pl.col("delay") >= 15},
    aggregates={
        "late_rate": rate("late", timedelta(hours=24)),
        "mean_delay": mean("delay", timedelta(hours=6)),
    },
)
N_HOURS = 72


def weather() -> pl.DataFrame:
    draw = random.Random(1)
    rows = [
        {"origin": origin, "seen": hour * HOUR_US, "wind_speed": draw.uniform(1, 30), "visibility": 10.0}
        for hour in range(N_HOURS)
        for origin in ("EWR", "JFK")
    ]
    return pl.DataFrame(rows)


def arrivals() -> pl.DataFrame:
    draw = random.Random(2)
    rows = [
        {
            "carrier": draw.choice(["UA", "AA"]),
            "landed": draw.randrange(N_HOURS * HOUR_US),
            "flight": number,
            "delay": round(draw.gauss(10, 30)),
        }
        for number in range(1000)
    ]
    return pl.DataFrame(rows).with_columns(pl.col("delay").cast(pl.Float64))


TABLES = {"weather": weather(), "day": arrivals()}
VIEWS = [(WEATHER, TABLES["weather"]), (DAY, TABLES["day"])]


def serve(folder: Path, n_requests: int, **put: pl.DataFrame) -> list[tuple[int, dict[str, Any]]]:
    """Return records of requests that were served from a store filled with these tables."""
    store = SqliteOnlineStore(folder / "online.db")
    for view, table in VIEWS:
        materialise(view, put.get(view.name, table), store)
    draw = random.Random(3)
    records = []
    for _ in range(n_requests):
        at_us = draw.randrange(24 * HOUR_US, N_HOURS * HOUR_US)
        inputs: dict[str, Any] = {"origin": draw.choice(["EWR", "JFK"]), "carrier": draw.choice(["UA", "AA"])}
        for view, _ in VIEWS:
            plan = view.plan
            found = read(plan, store, [plan.key_of([inputs[plan.entity[0].name]])], at_us=at_us)
            inputs |= {name: column[0].item() for name, column in found.columns.items()}
            inputs[f"{view.name}__state"] = "fresh"
        records.append((at_us, inputs))
    store.close()
    return records


def test_feature_in_the_wrong_unit_is_named_with_its_rate_within_200_requests(tmp_path: Path) -> None:
    in_knots = TABLES["weather"].with_columns(pl.col("wind_speed") / MPH_PER_KNOT)

    report = check_skew("flights", serve(tmp_path, 200, weather=in_knots), views=VIEWS)

    assert report.skewed == ("wind_speed",)
    worst, *others = report.features
    assert (worst.skew.n_mismatches, worst.skew.rate) == (200, 1.0)
    assert worst.skew.interval.low > 0.97
    assert worst.example["recomputed"] == pytest.approx(worst.example["served"] * MPH_PER_KNOT)
    assert worst.example["key"]["origin"] in ("EWR", "JFK")
    assert [each.skew.n_mismatches for each in others] == [0, 0, 0]
    assert {each.verdict for each in others} == {Verdict.UNDECIDED}


def test_source_of_an_aggregate_in_the_wrong_unit_names_the_figures_it_changes(tmp_path: Path) -> None:
    in_hours = TABLES["day"].with_columns(pl.col("delay") / 60)

    report = check_skew("flights", serve(tmp_path, 200, day=in_hours), views=VIEWS)

    assert set(report.skewed) == {"late_rate", "mean_delay"}


def test_wrong_at_one_airport_only_is_told_with_its_share(tmp_path: Path) -> None:
    wrong = TABLES["weather"].with_columns(
        pl.when(pl.col("origin") == "JFK").then(pl.col("wind_speed") * 2).otherwise("wind_speed")
    )
    records = serve(tmp_path, 200, weather=wrong)
    n_wrong = sum(inputs["origin"] == "JFK" for _, inputs in records)

    report = check_skew("flights", records, views=VIEWS)

    (worst,) = [each for each in report.features if each.verdict is Verdict.REGRESSED]
    assert (worst.skew.feature, worst.skew.n_mismatches) == ("wind_speed", n_wrong)
    assert worst.skew.interval.low < n_wrong / 200 < worst.skew.interval.high


def test_served_as_trained_is_safe_once_there_are_enough_records(tmp_path: Path) -> None:
    records = serve(tmp_path, 600)

    report = check_skew("flights", records, views=VIEWS)

    assert report.skewed == ()
    assert {each.verdict for each in report.features} == {Verdict.SAFE}


def test_what_could_not_be_read_is_counted_and_not_compared(tmp_path: Path) -> None:
    records = serve(tmp_path, 20)
    for _, inputs in records[:5]:
        inputs |= {"weather__state": "unread", "wind_speed": None, "visibility": None}

    report = check_skew("flights", records, views=VIEWS)

    assert report.unread == {"weather": 5}
    assert {each.skew.feature: each.skew.n_rows for each in report.features} == {
        "wind_speed": 15,
        "visibility": 15,
        "late_rate": 20,
        "mean_delay": 20,
    }
    assert all(each.skew.n_mismatches == 0 for each in report.features)
