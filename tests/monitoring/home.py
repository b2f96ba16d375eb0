"""A home whose journal is real: 50 days of a small service, whose unit breaks on one of them."""

import json
import random
from datetime import timedelta

import msgspec

from tests.journal.fake import FakeClock
from tests.monitoring.stream import CONTRACT, FIRST, records
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.parquet.record import RecordStore
from tidegate.adapter.sql.unit import open_database
from tidegate.contract.batch import Batch
from tidegate.contract.layout import journal_layout
from tidegate.contract.objective import Objectives
from tidegate.core.clock import SystemClock
from tidegate.core.identifier import uuid7_factory
from tidegate.core.principal import local_principal
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Outcome, Stream, Turn
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Tailer
from tidegate.monitoring.declaration import Kpi, Monitoring
from tidegate.operation.register import register
from tidegate.predictor.protocol import Spec
from tidegate.service.manifest import Manifest

N_DAYS, BREAK = 50, 40
LAST = FIRST + timedelta(days=N_DAYS - 1)
OVER = f"{FIRST + timedelta(days=30)}..{LAST}"
REFERENCE = f"{FIRST}..{FIRST + timedelta(days=29)}"


def fill(home, *, revenue=None, **objectives):
    """Register a version, and write the journal of its first days: the unit of `amount` breaks on day 40.

    `revenue(day)` is reported as an outcome of each prediction of a day, beside the label.
    """
    store = LocalArtifactStore(home.artifacts)
    unit = open_database(home.database_url)
    spec = Spec("constant", options={"outputs": {"p": 0.5}})
    kpis = () if revenue is None else (Kpi("revenue", unit="EUR"),)
    manifest = Manifest(
        "loans", CONTRACT, spec, objectives=Objectives(**objectives), monitoring=Monitoring(kpis=kpis)
    )
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
        if revenue is not None:
            told = msgspec.Raw(json.dumps(revenue((rows["arrived_at"][0].date() - FIRST).days)).encode())
            outcomes += [msgspec.structs.replace(each, name="revenue", value=told) for each in outcomes]
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
