"""`tidegate features`: what it prints, what it puts, and that doing it again changes nothing."""

from __future__ import annotations

import json
import random
import runpy
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.system.model import write_sum
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import publish
from tidegate.bootstrap.setting import Settings
from tidegate.contract.batch import Batch
from tidegate.core.clock import SystemClock
from tidegate.core.home import Home
from tidegate.core.identifier import uuid7_factory
from tidegate.feature.definition import merged_layout
from tidegate.feature.expression import define
from tidegate.journal.record import Stream, Turn
from tidegate.journal.segment import JournalWriter

SERVICE = """
from datetime import UTC, datetime, timedelta

import polars as pl

import tidegate as tg
from tidegate.feature.view import FeatureView


class Asked(tg.Input):
    a: float
    who: str


class Total(tg.Output):
    total: float


class Person(tg.Input):
    who: str


class Level(tg.Input):
    level: float


class Doubled(tg.Output):
    b: float


def rows():
    at = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    return pl.DataFrame({"who": ["ann", "ann", "bob"], "at": at, "level": [1.0, 2.0, 3.0]})


LEVEL = FeatureView(
    name="level",
    entity=Person,
    source=Level,
    event_time="at",
    ttl=timedelta(hours=30),
    transform={"b": pl.col("level") * 2},
    features=Doubled,
    rows=rows,
)
service = tg.Service("sum", input=Asked, output=Total, features=[LEVEL])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    (place / "service.py").write_text(SERVICE)
    return place


@pytest.fixture
def registered(folder: Path, tmp_path: Path) -> Path:
    service = runpy.run_path(str(folder / "service.py"))["service"]
    home = tmp_path / ".tidegate"
    with Local(Settings(home=str(home))) as local:
        views = [define(view) for view in service.features]
        model = write_sum(tmp_path / "sum.onnx", 0.0)
        publish(local, "sum", model, contract=service.contract, views=views)
    return home


def test_store_is_filled_once_and_read_as_of_a_time(tidegate, folder, registered):
    early = tidegate("features", "backfill", folder, "--until", "2026-01-02", "--home", registered, "--json")
    first = tidegate("features", "materialise", folder, "--home", registered, "--key", "k", "--json")
    again = tidegate("features", "materialise", folder, "--home", registered, "--key", "k", "--json")
    more = tidegate("features", "materialise", folder, "--home", registered)
    fresh = tidegate("features", "get", "level", "ann", "--at", "2026-01-02T06:00Z", "--json")
    stale = tidegate("features", "get", "level", "ann", "--at", "2026-01-05")
    missing = tidegate("features", "get", "level", "eve", "--json")

    assert json.loads(early.out) == {"level": {"n_events": 1, "n_new": 1}}
    assert json.loads(first.out) == {"level": {"n_events": 3, "n_new": 2}}
    assert json.loads(again.out) == json.loads(first.out), "the same key is the same change"
    assert "level: 3 events, 0 of them new" in more.out
    assert json.loads(fresh.out) == {
        "key": {"who": "ann"},
        "state": "fresh",
        "age_us": 6 * 3_600_000_000,
        "values": {"b": 4.0},
    }
    assert stale.out.startswith("stale, 3 d old")
    assert json.loads(missing.out)["state"] == "missing"


def test_event_is_pushed_by_the_registered_transform_and_noted(tidegate, registered):
    event = {"who": "ann", "at": "2026-01-07T00:00:00Z", "level": 8}

    pushed = tidegate("features", "push", "level", json.dumps(event), "--home", registered)
    got = tidegate("features", "get", "level", "ann", "--at", "2026-01-07T01:00Z", "--json")
    refused = tidegate("features", "push", "level", json.dumps({**event, "at": "soon"}), "--home", registered)
    audit = tidegate("audit", "list", "--home", registered, "--json")

    assert "1 events, 1 new" in pushed.out
    assert json.loads(got.out)["values"] == {"b": 16.0}
    assert refused.code == 1
    assert "invalid_feature_data" in refused.err
    assert [entry["action"] for entry in json.loads(audit.out)].count("feature.push") == 1


def test_views_are_listed_with_what_they_need_and_promise(tidegate, registered):
    shown = tidegate("features", "list", "--home", registered)
    listed = json.loads(tidegate("features", "list", "--home", registered, "--json").out)

    assert "level" in shown.out
    assert "30 h" in shown.out
    assert [(each["service"], each["version"]) for each in listed] == [("sum", 1)]


def test_file_is_a_table_and_one_that_does_not_fit_puts_nothing(tidegate, folder, registered, tmp_path):
    (tmp_path / "good.csv").write_text("who,at,level\nann,2026-02-01T00:00:00Z,5.0\n")
    (tmp_path / "bad.csv").write_text("who,at\nann,2026-02-01T00:00:00Z\n")

    good = tidegate("features", "materialise", folder, "--view", "level", "--file", tmp_path / "good.csv")
    bad = tidegate("features", "materialise", folder, "--view", "level", "--file", tmp_path / "bad.csv")

    assert "1 events, 1 of them new" in good.out
    assert bad.code == 1
    assert "'level'" in bad.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["push", "none", "{}"], 1, "no registered service"),
        (["get", "level", "ann", "extra"], 1, "keyed by who"),
        (["get", "level", "ann", "--at", "soon"], 2, "no time"),
        (["push", "level", "[]"], 2, "no JSON object"),
    ],
)
def test_what_cannot_be_is_said_in_words(tidegate, registered, arguments, code, said):
    done = tidegate("features", *arguments, "--home", registered)

    assert done.code == code
    assert said.lower() in done.err.lower()


def test_check_without_predictions_says_so(tidegate, folder, registered):
    done = tidegate("features", "check", folder, "--home", registered)

    assert done.code == 1
    assert "no prediction" in done.err


def test_old_events_are_forgotten_but_not_those_in_use(tidegate, folder, registered):
    tidegate("features", "materialise", folder, "--home", registered)

    gone = tidegate("features", "forget", "level", "--before", "2026-01-03", "--home", registered)
    refused = tidegate("features", "forget", "level", "--before", "2999-01-01", "--home", registered)

    assert "level: 1 events removed" in gone.out, "the last of each key stays"
    assert refused.code == 1
    assert "in use" in refused.err


def test_changed_view_of_the_same_name_is_not_put_beside_the_old_events(tidegate, folder, registered):
    (folder / "service.py").write_text(SERVICE.replace('pl.col("level") * 2', 'pl.col("level") * 3'))

    done = tidegate("features", "materialise", folder, "--home", registered)

    assert done.code == 1
    assert "'level' is not what sum@1 registered" in done.err


def record(home: Path, folder: Path, served: list[float]) -> None:
    """Journal one prediction a value, each of ann on the third of January."""
    service = runpy.run_path(str(folder / "service.py"))["service"]
    plans = [view.plan for view in service.features]
    n_rows, clock = len(served), SystemClock()
    at_us = int(datetime(2026, 1, 3, tzinfo=UTC).timestamp() * 1e6)
    writer = JournalWriter(Home(home).journal, cell="local", node="n", worker=0, clock=clock)
    encoder = writer.stream(
        Stream("sum", 1, service.contract.fingerprint, merged_layout(service.request, plans))
    )
    columns = {
        "a": np.ones(n_rows),
        "who": np.array(["ann"] * n_rows, dtype=object),
        "b": np.array(served),
        "level__state": np.array(["fresh"] * n_rows, dtype=object),
        "level__age_us": np.zeros(n_rows, dtype=np.int64),
    }
    new_id = uuid7_factory(clock, random.Random(0))
    turn = Turn([new_id() for _ in served], [at_us] * n_rows, Batch(columns, n_rows))
    writer.append([encoder.encode(turn)])
    writer.close()


def test_check_names_what_was_served_otherwise_than_trained_and_says_no(tidegate, folder, registered):
    record(registered, folder, [2.0] * 150)

    done = tidegate("features", "check", folder, "--home", registered)
    told = tidegate("features", "check", folder, "--home", registered, "--json")

    assert done.code == told.code == 3
    assert "100.00%" in done.out
    assert "Served otherwise than trained: b." in done.out
    (found,) = json.loads(told.out)["features"]
    assert (found["verdict"], found["skew"]["n_mismatches"]) == ("regressed", 150)
    assert (found["example"]["served"], found["example"]["recomputed"]) == (2.0, 4.0)


def test_check_of_equal_features_says_how_much_it_knows(tidegate, folder, registered):
    record(registered, folder, [4.0] * 150)

    few = tidegate("features", "check", folder, "--home", registered)
    enough = tidegate("features", "check", folder, "--home", registered, "--tolerate", "0.05")

    assert few.code == enough.code == 0
    assert "too few records" in few.out
    assert "Served as trained." in enough.out


def test_check_takes_tables_from_files(tidegate, folder, registered, tmp_path):
    record(registered, folder, [10.0] * 30)
    (tmp_path / "level.csv").write_text("who,at,level\nann,2026-01-02T00:00:00Z,5.0\n")

    done = tidegate(
        "features", "check", folder, "--home", registered, "--json", "--file", f"level={tmp_path}/level.csv"
    )

    assert json.loads(done.out)["features"][0]["skew"]["n_mismatches"] == 0
