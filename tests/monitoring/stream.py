"""A small service with a known model, whose days resemble themselves."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Contract, Schema
from tidegate.monitoring.subject import subject_of

FIRST = date(2026, 1, 1)
CONTRACT = Contract(
    Schema(
        (
            Field("amount", DataType.FLOAT64),
            Field("age", DataType.FLOAT64),
            Field("channel", DataType.CATEGORY, categories=("web", "shop", "phone")),
        )
    ),
    Schema((Field("p", DataType.FLOAT64, ge=0, le=1),)),
)


def subject(**changes):
    from tidegate.monitoring.declaration import Monitoring

    return subject_of("loans", CONTRACT, monitoring=Monitoring(**changes))


def records(n_days, *, seed=0, first=FIRST, per_day=120, change=None, on=0):
    """Rows of `n_days`; `change(columns, chance)` alters those from day `on` on, chance is the truth."""
    rng = np.random.default_rng(seed)
    parts = []
    for day in range(n_days):
        mood = rng.normal(scale=0.3)  # rows of a day resemble each other
        columns = {
            "input.amount": rng.gamma(2.0, 50.0 * np.exp(mood / 3), per_day),
            "input.age": rng.normal(45 + 3 * mood, 12, per_day),
            "input.channel": rng.choice(["web", "shop", "phone"], per_day, p=[0.5, 0.3, 0.2]).astype(object),
        }
        if change is not None and day >= on:
            columns = change(columns)
        logit = columns["input.amount"] / 60 - columns["input.age"] / 20 + 0.2
        p = 1 / (1 + np.exp(-np.nan_to_num(logit)))
        chance = columns.pop("chance", lambda p: p)(p)
        at = datetime(first.year, first.month, first.day, 8, tzinfo=UTC) + timedelta(days=day)
        times = [at + timedelta(seconds=5 * row) for row in range(per_day)]
        parts.append(
            pl.DataFrame(
                {
                    **columns,
                    "output.p": p,
                    "arrived_at": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
                    "label": (rng.random(per_day) < chance).astype(float),
                    "labelled_at": pl.Series(
                        [time + timedelta(hours=6) for time in times], dtype=pl.Datetime("us", "UTC")
                    ),
                }
            )
        )
    return pl.concat(parts)
