"""Releases of flight models, live over HTTP: one good retrain and five bad candidates, each unattended.

Passengers ask all the time, one flight a request, keyed by aircraft. Each candidate is released by
`tidegate release start`, and nobody looks at it again until the release has ended. What is shown of each:
how it ended, after how long, the largest share it was given, how often it answered, what callers were
told, and what the evidence says.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from benchmarks.measure import Goal, Options, Report, Table
from tests.system import flight
from tests.system.flight import BAD, CAUSES, GOOD, SERVICE, Passengers
from tests.system.model import deploy
from tests.system.server import Server, running
from tidegate.operation.replay import replay_decision
from tidegate.operation.version import list_decisions

RETRAIN = "equally good retrain"
LIMIT_S = 240.0


class Ended(msgspec.Struct, frozen=True):
    """How the release of one candidate went.

    Attributes:
        ending: In one word.
        took_s: From the command to the end, seconds.
        largest_share: It was ever given, in [0, 1].
        answered: Requests that it answered.
        requests: Requests that were answered in all.
        failed: Answers that were no 2xx, and connections that broke.
        reason: What the evidence says.
        same: Whether every decision replays to the same verdict.
    """

    ending: str
    took_s: float
    largest_share: float
    answered: int
    requests: int
    failed: int
    reason: str
    same: bool


def _release(server: Server, flights: pl.DataFrame, name: str, fitted: dict[str, Any], body: str) -> Ended:
    version = flight.register_model(server, name, fitted, body).number
    with Passengers(server.port, flights) as passengers:
        began_s = time.monotonic()
        flight.start_release(server, version)
        state = flight.wait_ended(server, version, within_s=LIMIT_S)
        took_s = time.monotonic() - began_s
        if state.is_open:
            server.command("release", "abort", SERVICE, "--reason", "it takes too long to measure")
    with server.local() as local:
        found = [each for each in list_decisions(local.unit, SERVICE) if each.decision.version == version]
        same = all(replay_decision(local.unit, each.id).is_same for each in found)
    shares = [
        arm["share"]
        for each in found
        for evidence in each.decision.evidence
        if evidence.rule == "route-changed"
        for arm in evidence.observed["to"]["arms"].values()
        if arm["version"] == version
    ]
    statuses = passengers.statuses
    return Ended(
        ending=str(state.ending or f"still {state.stage}"),
        took_s=took_s,
        largest_share=max(shares, default=0.0),
        answered=passengers.versions[version],
        requests=statuses.total(),
        failed=sum(count for status, count in statuses.items() if status >= 500) + len(passengers.broken),
        reason=state.reason,
        same=same,
    )


def run(options: Options) -> Iterator[Report]:
    """Release each candidate; of a smoke run only the good one and one bad one."""
    flights = flight.read_flights()
    first, second = flight.halves(flights)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-release-"))
    bad = dict(list(BAD.items())[:1]) if options.short else BAD
    results: dict[str, Ended] = {}
    try:
        with running(folder, n_workers=1) as server:
            flight.register_model(server, "first", flight.fit(first))
            deploy(server, SERVICE, version=1)
            server.start()
            fitted = flight.fit(second)
            for name, body in {**bad, RETRAIN: GOOD}.items():
                results[name] = _release(server, flights, name, fitted, body)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield _report(results)


def _report(results: dict[str, Ended]) -> Report:
    report = Report("release", raw=dict(results))
    rows = [
        [
            name,
            ended.ending,
            f"{ended.took_s:.1f}",
            f"{ended.largest_share:.0%}",
            f"{ended.answered:,} of {ended.requests:,}",
            str(ended.failed),
            "yes" if ended.same else "NO",
            ended.reason,
        ]
        for name, ended in results.items()
    ]
    columns = ["candidate", "ended", "s", "most share", "it answered", "5xx", "replays the same", "evidence"]
    report.tables.append(Table("Releases on flights, unattended", columns, rows))
    for name, ended in results.items():
        wanted = "promoted" if name == RETRAIN else "rolled-back"
        right = ended.ending == wanted and (
            name == RETRAIN or any(cause in ended.reason for cause in CAUSES[name])
        )
        report.goals.append(Goal(f"release, {name}: {wanted}, the cause named", float(right), 1.0, True))
        report.goals.append(Goal(f"release, {name}: 5xx to callers", float(ended.failed), 0.0, False))
    return report
