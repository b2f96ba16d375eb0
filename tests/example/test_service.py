"""The declaration of the flights' service fits the archive."""

from __future__ import annotations

import polars as pl
import pytest
import service as flights

from tidegate.contract.infer import columns_of
from tidegate.contract.validate import Validator

pytestmark = pytest.mark.slow


def test_every_flight_of_the_archive_fulfils_the_contract(archive):
    validator = Validator(flights.service.contract.input)
    rows = archive.select(flights.service.contract.input.names)

    batch = validator.coerce(columns_of(rows))

    assert batch.n_rows == 336_776
    assert validator.violations(batch) == []


def test_the_model_sees_nothing_after_august_and_no_unknown_outcome(archive, monkeypatch):
    seen = []

    def fit(rows, params):
        seen.append(rows.select("month", "late"))
        return FakeModel()

    class FakeModel:
        def predict_proba(self, rows):
            return pl.DataFrame({"no": [0.7] * rows.height, "yes": [0.3] * rows.height}).to_numpy()

    monkeypatch.setattr(flights, "_fit", fit)

    trained = flights.service.train(archive, {})

    (fitted_on,) = seen
    assert fitted_on["month"].max() == 8
    assert fitted_on["late"].null_count() == 0
    assert trained.metrics["n_rows"] == fitted_on.height == 217_727
    assert trained.trial.test["month"].unique().to_list() == [9]
    assert trained.sample["sched_dep_minute"].len() == 2_000


def test_the_fallback_knows_every_carrier_at_every_airport_it_flew_from(archive, monkeypatch):
    monkeypatch.setattr(flights, "_fit", lambda rows, params: Constant())

    class Constant:
        def predict_proba(self, rows):
            return pl.DataFrame({"no": [0.7] * rows.height, "yes": [0.3] * rows.height}).to_numpy()

    rates = flights.service.train(archive, {}).tables["delay_rates"]

    flown = (
        archive.filter(pl.col("month") <= 9, pl.col("late").is_not_null())
        .select("carrier", "origin")
        .unique()
    )
    assert rates.height == flown.select("carrier", "origin").n_unique()
    assert rates["p_late"].is_between(0, 1).all()
