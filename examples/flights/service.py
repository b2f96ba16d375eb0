"""Will this flight arrive 15 or more minutes late? Asked when it is scheduled to leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flight_data
import polars as pl
from sklearn.compose import ColumnTransformer  # type: ignore[import-untyped]  # no stubs
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]  # no stubs
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]  # no stubs
from sklearn.preprocessing import OrdinalEncoder  # type: ignore[import-untyped]  # no stubs
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # no stubs

import tidegate as tg
from tidegate.core.digest import digest_bytes
from tidegate.evaluation.metric import binary_report


class Flight(tg.Input):
    """A flight as it is known at its scheduled departure."""

    carrier: str = tg.category(
        *("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"),
        doc="IATA code of the airline",
    )
    origin: str = tg.category("EWR", "JFK", "LGA", doc="airport it leaves from")
    dest: str = tg.field(pattern="^[A-Z]{3}$", doc="airport it goes to")
    sched_dep_minute: int = tg.field(ge=0, lt=1440, unit="minute of day", doc="scheduled departure, local")
    weekday: int = tg.field(ge=1, le=7, doc="1 is Monday")
    sched_minutes: int = tg.field(
        ge=0, lt=1440, unit="minute", doc="scheduled arrival less departure, both local"
    )
    distance: int = tg.field(gt=0, unit="mile")
    origin_delay: float | None = tg.field(
        unit="minute", doc="mean departure delay at this airport in the last hour"
    )
    carrier_delay: float | None = tg.field(
        unit="minute", doc="mean departure delay of this airline at this airport in the last 3 hours"
    )
    dest_delay: float | None = tg.field(
        unit="minute", doc="mean departure delay of flights to the same place in the last 3 hours"
    )
    wind_speed: float | None = tg.field(ge=0, unit="mile per hour", doc="an hour before")
    precipitation: float | None = tg.field(ge=0, unit="inch per hour", doc="an hour before")
    visibility: float | None = tg.field(ge=0, unit="mile", doc="an hour before")
    tailnum: str = tg.field(max_length=8, doc="the aircraft, or UNKNOWN while none is assigned")


class Delay(tg.Output):
    """How likely the flight is late."""

    p_late: float = tg.field(ge=0, le=1, doc="probability of arriving 15 or more minutes late")


service = tg.Service(
    "flight-delay",
    input=Flight,
    output=Delay,
    key="tailnum",
    objectives=tg.Objectives(latency_p99_ms=25, availability=0.999, outcome_within="1d"),
    fallback=tg.Lookup(by=["carrier", "origin"], table="delay_rates"),
)


@service.trainer
def train(data: pl.DataFrame | None, params: Mapping[str, Any]) -> tg.Trained:
    """Fit on January to August 2013, measure on September, then fit again on both.

    Args:
        data: Rows as `flight_data.load_flights` gives them; None loads them.
        params: `max_iter`, `learning_rate`, `min_samples_leaf`, `seed`.
    """
    flights = flight_data.load_flights() if data is None else data
    known = flights.filter(pl.col("late").is_not_null() & (pl.col("month") <= 9))
    chosen = {"max_iter": 100, "learning_rate": 0.1, "min_samples_leaf": 100, "seed": 0, **params}

    held_out = known.filter(pl.col("month") == 9).with_columns(day=pl.col("sched_dep_at").dt.date())
    rehearsed = known.filter(pl.col("month") < 9)
    predicted = _rehearse(rehearsed, chosen)(held_out)
    report = binary_report(held_out["late"].to_numpy(), predicted)

    rates = known.group_by("carrier", "origin").agg(p_late=pl.col("late").mean()).sort("carrier", "origin")
    return tg.Trained(
        model=_fit(known, chosen),
        sample=known.select(service.contract.input.names).sample(2_000, seed=0),
        metrics={
            "september_auc": report.auc,
            "september_log_loss": report.log_loss,
            "september_base_rate": report.base_rate,
            "training_base_rate": float(known["late"].to_numpy().mean()),
            "n_rows": known.height,
        },
        parameters=chosen,
        tables={"delay_rates": rates},
        data_digest=digest_bytes(known.write_csv().encode()),
        notes=f"{known.height:,} flights of January to September 2013",
        trial=tg.Trial(
            train=rehearsed,
            test=held_out,
            target="late",
            predicted=predicted,
            group="day",  # a storm delays a whole day's flights: they are no independent evidence
            fit=lambda rows: _rehearse(rows, chosen),
        ),
    )


def _rehearse(rows: pl.DataFrame, params: Mapping[str, Any]) -> Callable[[pl.DataFrame], Any]:
    model = _fit(rows, params)
    return lambda asked: model.predict_proba(asked.select(flight_data.FEATURES))[:, 1]


def _fit(rows: pl.DataFrame, params: Mapping[str, Any]) -> Pipeline:
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(
        ColumnTransformer([("codes", codes, list(flight_data.CATEGORIES))], remainder="passthrough"),
        HistGradientBoostingClassifier(
            max_iter=params["max_iter"],
            learning_rate=params["learning_rate"],
            min_samples_leaf=params["min_samples_leaf"],
            random_state=params["seed"],
        ),
    )
    # One thread: OpenMP's threads wait for each other by spinning, which on a busy machine of two
    # cores was seen to turn four seconds into a hundred.
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(rows.select(flight_data.FEATURES), rows["late"].to_numpy())
