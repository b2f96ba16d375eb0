"""A quarter at speed: October to December 2013 replayed with its outcomes as planes land, then the report.

`python examples/flights/quarter.py report.html` trains on January to June, writes the journal that a
server would have written from July on, lets the controller's own code count and keep it, and has the
monitors go through the quarter day by day; July to September is what they compare it with.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import click
import flight_data
import msgspec
import numpy as np
import polars as pl
from service import service

from tidegate.adapter.parquet.record import RecordStore
from tidegate.bootstrap.evaluate import find_version, model_of
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.monitor import examined
from tidegate.bootstrap.setting import read_settings
from tidegate.contract.layout import journal_layout
from tidegate.contract.validate import Validator
from tidegate.core.home import Home
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Outcome, Stream, Turn
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Tailer
from tidegate.monitoring.report import render

FOLDER = Path(__file__).parent
REFERENCE = date(2013, 7, 1), date(2013, 9, 30)
QUARTER = date(2013, 10, 1), date(2013, 12, 31)
TAXI = timedelta(minutes=20)
"""About what passes on the ground between the gate and the runway, both ends together."""
ROWS_PER_TURN = 500


class ReplayClock:
    """A clock that the replay sets."""

    def __init__(self) -> None:
        self.now_us = 0

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return self.now_us / 1e6


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--home", type=click.Path(path_type=Path), help="Keep the home there; else it is temporary.")
@click.option("--days", type=click.IntRange(1, 92), default=92, help="Only the first days of the quarter.")
def main(target: Path, home: Path | None, days: int) -> None:
    """Replay the quarter and write its report to TARGET."""
    with contextlib.ExitStack() as stack:
        place = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-quarter-")))
        run(place, target, last=QUARTER[0] + timedelta(days=days - 1))


def run(home: Path, target: Path, *, last: date) -> None:
    """Do everything on `home`."""
    line = [sys.executable, "-m", "tidegate", "train", str(FOLDER), "--home", str(home)]
    subprocess.run([*line, "--param", "held_out_month=7"], check=True, stdout=subprocess.DEVNULL)
    with Local(read_settings({"home": str(home)}).settings) as local:
        flights = asked(last)
        clock = ReplayClock()
        n_rows, n_outcomes = write_journal(local, flights, clock)
        click.echo(f"Journal: {n_rows:,} predictions, {n_outcomes:,} outcomes.")
        follow(local.home, clock)
        result = examined(local, service.name, over=(QUARTER[0], last), reference=REFERENCE, keep=True)
    target.write_text(render(result), encoding="utf-8")
    for signal in reversed(result.signals):
        until = signal.resolved_on or "open"
        click.echo(f"{signal.first_on} to {until}  {signal.severity.value:<8} {signal.title}")
    click.echo(f"{target}: {result.n_rows:,} predictions, {len(result.signals)} signals.")


def asked(last: date) -> pl.DataFrame:
    """Return the flights from July on, in order of departure, with the moment each landed."""
    landed = (
        flight_data.read_flights()
        .with_row_index("row")
        .sort("sched_dep_at", "row")
        .select(
            landed_at=pl.col("sched_dep_at")
            + pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
            + TAXI
        )
    )
    flights = pl.concat([flight_data.load_flights(), landed], how="horizontal")
    at = pl.col("sched_dep_at").dt.date()
    return flights.filter(at.is_between(REFERENCE[0], last))


def write_journal(local: Local, flights: pl.DataFrame, clock: ReplayClock) -> tuple[int, int]:
    """Write what a worker would have written; returns how many predictions and outcomes."""
    version, manifest = find_version(local, service.name)
    contract = manifest.contract
    checked = Validator(contract.input)
    writer = JournalWriter(local.home.journal, cell="local", node="replay", worker=0, clock=clock)
    layout = journal_layout(contract)
    encoder = writer.stream(Stream(service.name, version.number, contract.fingerprint, layout))
    new_id = uuid7_factory(clock, random.Random(0))
    flying: list[tuple[int, Outcome]] = []
    n_outcomes = 0
    with model_of(local, manifest) as predict:
        for hour in hours(flights):
            columns = {name: _column(hour[name]) for name in contract.input.names if name in hour.columns}
            inputs = checked.coerce(columns)
            at_us = hour["sched_dep_at"].dt.epoch("us").to_list()
            ids = []
            for clock.now_us in at_us:
                ids.append(new_id())
            turn = Turn(ids, at_us, inputs, predict(inputs), service_time_us=300.0, batch_rows=hour.height)
            writer.append([encoder.encode(turn)])
            flying += landings(hour, ids)
            n_outcomes += tell(writer, flying, clock.now_us)
    clock.now_us = max([clock.now_us, *(at for at, _ in flying)])
    n_outcomes += tell(writer, flying, clock.now_us)
    writer.close()
    return flights.height, n_outcomes


def hours(flights: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Give the flights an hour at a time, as many as go into one turn."""
    for _, hour in flights.group_by(pl.col("sched_dep_at").dt.truncate("1h"), maintain_order=True):
        yield from hour.iter_slices(ROWS_PER_TURN)


def landings(hour: pl.DataFrame, ids: list[bytes]) -> list[tuple[int, Outcome]]:
    """Return the outcome of each flight that landed, and when that was."""
    told = zip(hour["landed_at"].dt.epoch("us").to_list(), hour["late"].to_list(), ids, strict=True)
    return [
        (at, Outcome(service.name, "late", msgspec.Raw(b"true" if late else b"false"), at, request))
        for at, late, request in told
        if at is not None and late is not None
    ]


def tell(writer: JournalWriter, flying: list[tuple[int, Outcome]], now_us: int) -> int:
    """Write the outcomes of planes that have landed by now, and take them off the list."""
    landed = sorted((pair for pair in flying if pair[0] <= now_us), key=lambda pair: pair[0])
    if landed:
        writer.append([encode_outcomes([outcome for _, outcome in landed])])
        flying[:] = [pair for pair in flying if pair[0] > now_us]
    return len(landed)


def follow(home: Home, clock: ReplayClock) -> None:
    """Count, join and keep the journal, as the controller does."""
    store = RecordStore(home.records, clock=clock)
    ledger = Ledger(home.ledger)
    tailer = Tailer(home.journal, ledger, clock=clock, sink=store)
    while tailer.poll(settle_now=True).read_bytes:
        pass
    store.flush()
    counts = ledger.outcome_counts(service.name)
    click.echo(f"Outcomes: {counts.joined:,} of {counts.delivered:,} joined.")
    tailer.close()
    ledger.close()
    store.close()


def _column(series: pl.Series) -> np.ndarray:
    if series.dtype == pl.String:
        return series.to_numpy()
    if series.dtype.is_temporal():
        return series.dt.replace_time_zone(None).dt.epoch("us").to_numpy()
    return series.to_numpy()


if __name__ == "__main__":
    main()
