"""What two workers with case A's model take, process by process, after some traffic."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import load, model
from benchmarks.contender import Contender, FastApi, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Table
from benchmarks.process import Memory, listens

SHAPE = "named"
PSS_LIMIT_MB, PRIVATE_LIMIT_MB = 60.0, 45.0
TRAFFIC_S, REST_S = 2.0, 1.0
COMMAND_WIDTH = 40


def measure(contender: Contender, options: Options) -> tuple[list[Memory], list[Memory]]:
    """Return the memory of the processes that listen on the port, and of all others of the tree."""
    asked = questions(model.case_a(), SHAPE)
    with running(contender, asked) as up:
        load.closed(up.target, seconds=min(TRAFFIC_S, options.seconds), connections=64)
        time.sleep(REST_S)  # connections are closed and their buffers given back
        found = up.server.memory()
        workers = {each.pid for each in found if listens(each.pid, up.target.port)}
    return [each for each in found if each.pid in workers], [
        each for each in found if each.pid not in workers
    ]


def _shown(command: str) -> str:
    """Return the telling part of a command line: its module or script, not the settings behind it."""
    module = re.search(r" -m (\S+)", command)
    if module:
        return f"python -m {module[1]}"
    parts = [Path(part).name if part.startswith("/") else part for part in command.split()]
    return " ".join(parts)[:COMMAND_WIDTH]


def _table(contender: Contender, workers: Sequence[Memory], others: Sequence[Memory]) -> Table:
    rows = []
    for each in [*workers, *others]:
        role = "listens" if each in workers else ""
        rows.append(
            [_shown(each.command), role, f"{each.pss_mb:.1f}", f"{each.private_mb:.1f}", f"{each.rss_mb:.1f}"]
        )
    whole = [*workers, *others]
    total_pss, total_private = sum(each.pss_mb for each in whole), sum(each.private_mb for each in whole)
    rows.append(["whole tree", "", f"{total_pss:.1f}", f"{total_private:.1f}", ""])
    title = f"Memory of {contender.name}, case A, {len(workers)} processes listening, MB of 10^6 bytes"
    return Table(title, ["process", "", "PSS", "private", "RSS"], rows)


def run(options: Options) -> Iterator[Report]:
    """Measure Tidegate and the service written by hand, one after the other."""
    report = Report("memory")
    contenders: list[Contender] = [
        tidegate_of(model.case_a(), SHAPE, workers=options.workers),
        FastApi(model.case_a(), SHAPE, options.workers),
    ]
    for contender in contenders:
        workers, others = measure(contender, options)
        report.tables.append(_table(contender, workers, others))
        report.raw[contender.name] = {"workers": workers, "others": others}
        if contender.name == "tidegate":
            pss_mb = max((each.pss_mb for each in workers), default=None)
            private_mb = max((each.private_mb for each in workers), default=None)
            report.goals = [
                Goal("memory: the larger worker's PSS, case A", pss_mb, PSS_LIMIT_MB, False, "MB"),
                Goal("memory: the larger worker's private part", private_mb, PRIVATE_LIMIT_MB, False, "MB"),
            ]
    yield report
