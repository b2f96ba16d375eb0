"""`python -m benchmarks [NAME ...] [--short]`: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import compileall
import importlib
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

import tidegate
from benchmarks import load
from benchmarks.measure import RESULTS, Options, Report, machine, show_machine

NAMES = {
    "case_a": "a model of microseconds beside FastAPI by hand: requests/s, CPU a request, latency alone",
    "case_b": "a model of milliseconds: rows a CPU second and a lone request beside the bare session",
    "memory": "what the workers and the whole tree take",
    "start": "from the command to the first right answer",
    "overload": "goodput at 1, 3 and 10 times the capacity",
    "release": "flights, live: a good retrain is promoted unattended, five bad candidates are taken back",
    "shadow": "latency of answers beside a shadow that is quick, slow or stopped",
    "rollback": "from the command to the last answer of the version taken away, at 10 times the capacity",
    "runner": "what a process of its own costs a fast model; one runner for two workers beside one each",
    "many": "8,000 small models within 512 MB: hits, cold loads, memory",
    "monitoring": "detections, false alarms and quality without labels on real streams; speed",
    "decisions": "traffic until a release is decided, false verdicts, the rules that others use",
    "ingest": "journal segments to tallies and Parquet",
    "feature": "the point-in-time join of a year of flights, reads from both online stores",
}


def _parse() -> argparse.Namespace:
    listing = "\n".join(f"  {name:<10} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Tidegate on this machine. Nothing else should run on it meanwhile.",
        epilog=f"names:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; all if none is given")
    parser.add_argument("--short", action="store_true", help="a smoke run: one round of a second")
    parser.add_argument("--rounds", type=int, help="interleaved repetitions (5)")
    parser.add_argument("--seconds", type=float, help="length of one load (5)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of every server (2)")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}; known: {', '.join(NAMES)}")
    return arguments


def _summary(reports: list[Report], *, short: bool) -> str:
    goals = [goal for report in reports for goal in report.goals]
    lines = [goal.show() for goal in goals]
    if short:
        return "\n".join(["== targets: a smoke run shows that the harness works and decides nothing", *lines])
    reached = sum(goal.reached is True for goal in goals)
    title = f"== {reached} of {len(goals)} targets reached; every server with its defaults, nothing tuned"
    return "\n".join([title, *lines])


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Run what was asked for.

    Returns:
        Exit status: 1 if something could not be measured. A missed target is a finding, not a failure.
    """
    arguments = _parse()
    signal.signal(signal.SIGTERM, _end)  # the servers are stopped on the way out
    # as pip does with what it installs: a process that compiled our source first would start later than yours
    compileall.compile_dir(Path(tidegate.__file__).parent, quiet=1)
    options = Options(
        short=arguments.short,
        rounds=arguments.rounds or (1 if arguments.short else 5),
        seconds=arguments.seconds or (1.0 if arguments.short else 5.0),
        workers=arguments.workers,
    )
    facts = machine()
    print(show_machine(facts))
    print(f"load generator: {load.describe()}\n", flush=True)
    reports: list[Report] = []
    failures: dict[str, str] = {}
    for name in arguments.names or NAMES:
        case = importlib.import_module(f"benchmarks.{name}")
        try:
            for report in case.run(options):
                reports.append(report)
                print(report.show(), flush=True)
        except Exception as error:  # noqa: BLE001 - one benchmark that cannot run leaves the others
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"== {name} could not be measured: {failures[name]}\n", file=sys.stderr, flush=True)
    if reports:
        print(_summary(reports, short=options.short))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    content = {"machine": facts, "options": options, "reports": reports, "failures": failures}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    print(f"\nfigures of every round: {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
