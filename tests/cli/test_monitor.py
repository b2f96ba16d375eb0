"""`tidegate monitor`, `report`, `signals` and `watch` over a home whose journal is real."""

import json
import random
from datetime import timedelta

import msgspec
import pytest

from tests.journal.fake import FakeClock
from tests.monitoring.stream import CONTRACT, FIRST, records
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.parquet.record import RecordStore
from tidegate.adapter.sql.unit import open_database
from tidegate.contract.batch import Batch
from tidegate.contract.layout import journal_layout
from tidegate.core.clock import SystemClock
from tidegate.core.home import Home
from tidegate.core.identifier import uuid7_factory
from tidegate.core.principal import local_principal
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Outcome, Stream, Turn
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Tailer
from tidegate.operation.register import register
from tidegate.predictor.protocol import Spec
from tidegate.service.manifest import Manifest

N_DAYS, BREAK = 50, 40
LAST = FIRST + timedelta(days=N_DAYS - 1)
OVER = f"{FIRST + timedelta(days=30)}..{LAST}"
REFERENCE = f"{FIRST}..{FIRST + timedelta(days=29)}"


def fill(home):
    """Register a version, and write the journal of its first days: the unit of `amount` breaks on day 40."""
    store = LocalArtifactStore(home.artifacts)
    unit = open_database(home.database_url)
    manifest = Manifest("loans", CONTRACT, Spec("constant", options={"outputs": {"p": 0.5}}))
    register(
        unit,
        store,
        service="loans",
        manifest=manifest.to_json(),
        artifacts=(),
        contract=CONTRACT.fingerprint,
        principal=local_principal(),
        key="first",
        clock=SystemClock(),
    )
    unit.close()
    clock = FakeClock()
    writer = JournalWriter(home.journal, cell="local", node="here", worker=0, clock=clock)
    encoder = writer.stream(Stream("loans", 1, CONTRACT.fingerprint, journal_layout(CONTRACT)))
    new_id = uuid7_factory(clock, random.Random(0))
    table = records(
        N_DAYS,
        per_day=60,
        on=BREAK,
        change=lambda columns: columns | {"input.amount": columns["input.amount"] * 100},
    )
    for rows in table.iter_slices(60):
        at = rows["arrived_at"].dt.epoch("us").to_list()
        clock.now_us = at[0]
        ids = [new_id() for _ in at]
        inputs = {name: rows[f"input.{name}"].to_numpy() for name in CONTRACT.input.names}
        turn = Turn(ids, at, Batch(inputs, 60), Batch({"p": rows["output.p"].to_numpy()}, 60))
        writer.append([encoder.encode(turn)])
        known = zip(ids, rows["labelled_at"].dt.epoch("us").to_list(), rows["label"].to_list(), strict=True)
        outcomes = [
            Outcome("loans", "outcome", msgspec.Raw(json.dumps(bool(label)).encode()), when, request)
            for request, when, label in known
        ]
        clock.now_us = outcomes[-1].received_us
        writer.append([encode_outcomes(outcomes)])
    writer.close()
    kept = RecordStore(home.records, clock=clock)
    ledger = Ledger(home.ledger)
    tailer = Tailer(home.journal, ledger, clock=clock, sink=kept)
    while tailer.poll(settle_now=True).read_bytes:
        pass
    kept.flush()
    tailer.close()
    ledger.close()
    kept.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    fill(home)
    return home.root


def examined(tidegate, filled, *options):
    return tidegate(
        "monitor", "run", "loans", "--over", OVER, "--reference", REFERENCE, "--home", filled, *options
    )


def test_a_broken_unit_is_found_kept_and_dealt_with(tidegate, filled):
    ran = examined(tidegate, filled, "--keep", "--json")
    result = json.loads(ran.out)
    assert ran.code == 3
    assert sum(day["n_rows"] for day in result["days"]) == 20 * 60
    # labels come from the ledger; a day's are used once the next day is over
    assert sum(day.get("n_labelled", 0) for day in result["days"][1:]) == 19 * 60

    listed = json.loads(tidegate("signals", "list", "loans", "--json", "--home", filled).out)
    signal = next(each for each in listed if each["kind"] == "input")
    assert signal["first_on"] == (FIRST + timedelta(days=BREAK)).isoformat()
    assert signal["subjects"][0] == "amount"

    again = examined(tidegate, filled, "--keep")
    assert "Inputs moved: amount" in again.out
    assert len(json.loads(tidegate("signals", "list", "--json", "--home", filled).out)) == len(listed)

    name = signal["id"]
    assert "acknowledged" in tidegate("signals", "ack", name[:6], "--home", filled).out
    assert "muted until" in tidegate("signals", "mute", name[:6], "--for", "2d", "--home", filled).out
    shown = tidegate("signals", "show", name[:6], "--home", filled)
    assert "check the unit" in shown.out
    assert "tidegate monitor run loans --over" in shown.out
    ended = tidegate("signals", "resolve", name[:6], "--reason", "fixed upstream", "--home", filled)
    assert "resolved" in ended.out
    assert name not in tidegate("signals", "list", "--home", filled).out
    past = tidegate("signals", "list", "--all", "--json", "--home", filled)
    assert next(each for each in json.loads(past.out) if each["id"] == name)["resolution"] == "fixed upstream"
    refused = tidegate("signals", "ack", name, "--home", filled)
    assert refused.code == 1
    assert "was resolved" in refused.err


def test_report_is_one_page(tidegate, filled, tmp_path):
    made = tidegate("report", "loans", "--over", OVER, "--reference", REFERENCE, "--home", filled)

    (page,) = tmp_path.glob("loans-*.html")
    assert page.name in made.out
    assert "Inputs moved: amount" in page.read_text()


def test_a_day_that_is_no_day_is_refused(tidegate, filled):
    assert tidegate("report", "loans", "--over", "yesterday", "--home", filled).code == 2
    assert tidegate("report", "loans", "--over", "2026-02-02..2026-01-01", "--home", filled).code == 2


def test_an_unknown_service_and_signal_are_told(tidegate, filled):
    assert "No version of 'nothing'" in tidegate("monitor", "run", "nothing", "--home", filled).err
    assert "0 signals have an id" in tidegate("signals", "show", "zzz", "--home", filled).err
