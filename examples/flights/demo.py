"""The main job from end to end: train, register, serve, replay October over HTTP, look at the result.

Run it with `make demo`, or `python examples/flights/demo.py`; `--short` replays three days.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import flight_data
import flight_view
import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import replay
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from service import service

from tidegate.bootstrap.client import NoAnswer
from tidegate.bootstrap.client import ask as ask_once
from tidegate.core.error import NotFound
from tidegate.core.home import Home
from tidegate.evaluation.metric import binary_report, brier, log_loss
from tidegate.operation.journal import count, prediction_ids

FOLDER = Path(__file__).parent
N_CLIENTS = 16
SHORT_DAYS = 3
STORED = timedelta(days=2)
"""How far back the online store is filled: a day's arrivals count, and weather keeps for hours."""
SAID_NO = 3
START_S = 60.0
JOIN_S = 60.0
"""Both far beyond what it takes, so that only a failure meets them."""

console = Console(highlight=False)


class Server:
    """A running `tidegate up`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, control_port: int) -> None:
        self.process = process
        self.address = ("127.0.0.1", port)
        self.control_address = ("127.0.0.1", control_port)
        self.control = f"http://127.0.0.1:{control_port}"


@click.command()
@click.option("--short", is_flag=True, help="Replay three days instead of a month.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Data-plane workers.")
@click.option("--clients", type=click.IntRange(1), default=N_CLIENTS, show_default=True, help="Connections.")
@click.option("--home", type=click.Path(path_type=Path), help="Keep the home there; else it is temporary.")
def main(short: bool, workers: int, clients: int, home: Path | None) -> None:
    """Train, register and serve the flights model, replay October 2013, and show what came of it."""
    with contextlib.ExitStack() as stack:
        place = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-demo-")))
        run(place, n_days=SHORT_DAYS if short else 31, n_workers=workers, n_clients=clients)


def run(home: Path, *, n_days: int, n_workers: int, n_clients: int) -> None:
    """Do everything on `home` and end with a summary; exit with 1 if records and answers differ."""
    began_s = time.perf_counter()
    trained = train(home)
    flights = october(n_days)
    fill_store(home, flights)
    with serving(home, n_workers) as server:
        start_s = wait_until_ready(server)
        say(f"Serving on port {server.address[1]} with {n_workers} workers, ready after {start_s:.1f} s.")
        answers, took_s = replay_traffic(server, flights, n_clients)
        late = flights["late"].to_list()
        arrived = [pair for pair in zip(answers, late, strict=True) if pair[1] is not None]
        accepted = send_outcomes(server, [(answer.prediction_id, happened) for answer, happened in arrived])
        joined = wait_until_joined(Home(home), accepted)
    recorded = list(prediction_ids(Home(home).journal, service.name))
    show_traffic(answers, took_s, n_clients, outcomes=(accepted, joined))
    show_quality(
        np.array([happened for _, happened in arrived]),
        np.array([answer.p_late for answer, _ in arrived]),
        trained_rate=float(trained["lineage"]["metrics"]["training_base_rate"]),
        n_unknown=len(answers) - len(arrived),
    )
    check_features(home)
    answered = {answer.prediction_id for answer in answers}
    is_complete = len(recorded) == len(answers) == len(answered) and set(recorded) == answered
    colour, verdict = ("green", "each exactly once") if is_complete else ("red", "they differ")
    say(
        f"[bold {colour}]Journal: {len(recorded):,} records, {len(answers):,} answers: {verdict}.[/] "
        f"All in {time.perf_counter() - began_s:.0f} s."
    )
    if not is_complete:
        sys.exit(1)


def say(text: str) -> None:
    """Print a line."""
    console.print(text)


def train(home: Path) -> dict[str, Any]:
    """Train and register by the command line, and return the version as it was registered."""
    with console.status("Training on January to August 2013 ..."):
        done = tidegate("train", str(FOLDER), "--home", str(home), "--json")
    published: dict[str, Any] = msgspec.json.decode(done)
    version: dict[str, Any] = published["version"]
    for note in published["notes"]:
        say(note)
    metrics = version["lineage"]["metrics"]
    say(
        f"Registered {version['service']} version {version['number']}: {version['changelog']}; "
        f"on September, held out, AUC {metrics['held_out_auc']:.3f}."
    )
    return version


def tidegate(*arguments: str, may_say_no: bool = False) -> bytes:
    """Run the command line and return what it printed; its complaints go to the terminal."""
    line = [sys.executable, "-m", "tidegate", *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=False)
    if done.returncode and not (may_say_no and done.returncode == SAID_NO):
        sys.exit(done.returncode)
    return done.stdout


def fill_store(home: Path, flights: pl.DataFrame) -> None:
    """Put what was known before the first flight into the online store, by the command line."""
    start = flights["sched_dep_at"].dt.truncate("1h")[0]
    since, until = (f"{moment:%Y-%m-%dT%H:%MZ}" for moment in (start - STORED, start))
    with console.status("Filling the online store ..."):
        line = ["features", "backfill", str(FOLDER), "--since", since, "--until", until]
        put = msgspec.json.decode(tidegate(*line, "--home", str(home), "--json"))
    listed = ", ".join(f"{done['n_events']:,} of {name}" for name, done in put.items())
    say(f"Online store filled with the events before October: {listed}.")


def check_features(home: Path) -> None:
    """Compare what was served with what training would have computed, and say so. Exits if it differs."""
    with console.status("Joining the features of every record again ..."):
        report = msgspec.json.decode(
            tidegate("features", "check", str(FOLDER), "--home", str(home), "--json", may_say_no=True)
        )
    counts = [feature["skew"] for feature in report["features"]]
    n_rows, n_wrong = sum(one["n_rows"] for one in counts), sum(one["n_mismatches"] for one in counts)
    say(
        f"Features: {n_rows:,} served values joined again from the tables, {n_wrong:,} differ "
        f"({', '.join(one['feature'] for one in counts)})."
    )
    if n_wrong:
        sys.exit(1)


def october(n_days: int) -> pl.DataFrame:
    """Return the flights of October's first days, in order of scheduled departure."""
    flights = flight_data.load_flights().filter(pl.col("month") == 10)
    first = flights["sched_dep_at"].dt.truncate("1d").min()
    return flights.filter(
        pl.col("sched_dep_at") - first < pl.duration(days=n_days + 1 if n_days > 30 else n_days)
    )


@contextlib.contextmanager
def serving(home: Path, n_workers: int) -> Iterator[Server]:
    """Run `tidegate up` on free ports until the block ends."""
    port, control_port = free_ports(2)
    line = [sys.executable, "-m", "tidegate", "up", str(FOLDER), "--home", str(home)]
    line += ["--workers", str(n_workers), "--port", str(port), "--control-port", str(control_port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        yield Server(process, port, control_port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_until_ready(server: Server) -> float:
    """Wait until every worker serves, and return how long it took in seconds. Exits if it fails."""
    began_s = time.perf_counter()
    with console.status("Starting the server ..."):
        while time.perf_counter() - began_s < START_S and server.process.poll() is None:
            with contextlib.suppress(NoAnswer):
                status, _ = ask_once(server.control, "/readyz", timeout_s=5)
                if status == 200:
                    return time.perf_counter() - began_s
            time.sleep(0.05)
    sys.exit("The server did not get ready; what it said stands above.")


def replay_traffic(
    server: Server, flights: pl.DataFrame, n_clients: int
) -> tuple[list[replay.Answer], float]:
    """Ask about every flight over HTTP; return the answers in order and the seconds it took."""
    bodies = replay.requests_of(flights, service.request.input.names)
    tables = flight_view.tables(flight_data.read_flights(), flight_data.read_weather())
    known = {
        view.name: (tables[view.name], view.created_time or view.event_time) for view in flight_view.VIEWS
    }
    hours = replay.hours_of(flights, known)
    path = f"/services/{service.name}/predict"
    with progress() as bar:
        task = bar.add_task("Flights of October 2013", total=len(bodies))
        began_s = time.perf_counter()
        answers = uvloop.run(
            replay.ask(
                server.address,
                path,
                bodies,
                control=server.control_address,
                hours=hours,
                n_clients=n_clients,
                on_progress=lambda n_done: bar.update(task, completed=n_done),
            )
        )
        return answers, time.perf_counter() - began_s


def send_outcomes(server: Server, outcomes: list[tuple[str, bool]]) -> int:
    """Report which flights came late, as the airports would later; return how many were accepted."""
    path = f"/services/{service.name}/outcomes"
    with progress() as bar:
        task = bar.add_task("Arrivals, reported later", total=len(outcomes))
        return uvloop.run(
            replay.tell(server.address, path, outcomes, on_told=lambda n_more: bar.advance(task, n_more))
        )


def progress() -> Progress:
    """Return a progress bar in the demo's style."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def wait_until_joined(home: Home, accepted: int) -> int:
    """Wait until the controller has joined every outcome; return how many it has, when it stops."""
    began_s, joined = time.perf_counter(), 0
    with console.status("The controller joins outcomes to predictions ..."):
        while joined < accepted and time.perf_counter() - began_s < JOIN_S:
            with contextlib.suppress(NotFound):  # the controller has not begun yet
                joined = count(home.ledger, service.name).outcomes.joined
            time.sleep(0.2)
    return joined


def show_traffic(
    answers: list[replay.Answer], took_s: float, n_clients: int, *, outcomes: tuple[int, int]
) -> None:
    """Print what the clients saw, and how many outcomes were accepted and joined."""
    latencies_ms = np.array([answer.latency_s for answer in answers]) * 1000
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99])
    n_fallback = sum(bool(answer.answered_by) for answer in answers)
    versions = sorted({answer.version for answer in answers})
    table = Table(title="Traffic", title_justify="left", show_header=False)
    table.add_row("answered", f"{len(answers):,} flights, one a request, {n_clients} connections")
    table.add_row("by version", ", ".join(map(str, versions)) + f"; by the fallback: {n_fallback:,}")
    table.add_row(
        "throughput", f"{len(answers) / took_s:,.0f} requests a second (one client process, in Python)"
    )
    table.add_row("latency", f"p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms, as the clients saw it")
    accepted, joined = outcomes
    table.add_row("outcomes", f"{accepted:,} accepted, {joined:,} joined to their predictions")
    console.print(table)


def show_quality(
    late: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.float64],
    *,
    trained_rate: float,
    n_unknown: int,
) -> None:
    """Print how good the answers were, beside answering everybody the same.

    Args:
        late: What happened, shape (n_flights,).
        predicted: Probabilities that were answered, shape (n_flights,).
        trained_rate: Share of late flights in the training data.
        n_unknown: Flights that were asked about and never arrived.
    """
    report = binary_report(late, predicted)
    rates = {
        "always the training rate": trained_rate,
        "always the replay's own rate": report.base_rate,
    }
    table = Table(title="Quality on the replay", title_justify="left")
    for name in ("answer", "AUC", "log loss", "Brier", "mean", "calib. err."):
        table.add_column(name, justify="left" if name == "answer" else "right")
    for name, rate in rates.items():
        same = np.full(len(late), rate)
        table.add_row(
            name,
            "0.500",
            f"{log_loss(late, same):.4f}",
            f"{brier(late, same):.4f}",
            f"{rate:.3f}",
            f"{abs(rate - report.base_rate):.3f}",
        )
    table.add_row(
        "[bold]the model[/]",
        f"[bold]{report.auc:.3f}[/]",
        f"[bold]{report.log_loss:.4f}[/]",
        f"[bold]{report.brier:.4f}[/]",
        f"{report.mean_prediction:.3f}",
        f"{report.calibration_error:.3f}",
    )
    console.print(table)
    say(
        f"{report.n_rows:,} flights arrived, {report.base_rate:.1%} late; {n_unknown:,} were cancelled "
        "or diverted and have no outcome."
    )


if __name__ == "__main__":
    main()
