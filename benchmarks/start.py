"""From the command to the first right answer: with an empty home, and again with the same one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import model
from benchmarks.contender import Contender, FastApi, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Table, interleave, summarise
from benchmarks.model import CACHE

SHAPE = "vector"  # a bare model file: `tidegate up MODEL.onnx` on a fresh machine
LIMIT_S = 2.0


def run(options: Options) -> Iterator[Report]:
    """Measure Tidegate's first and later starts and the start of the service written by hand."""
    asked = questions(model.case_a(), SHAPE)
    ours = tidegate_of(model.case_a(), SHAPE, workers=options.workers)
    theirs = FastApi(model.case_a(), SHAPE, options.workers)

    def start(contender: Contender, home: Path | None) -> float:
        with running(contender, asked, home=home) as up:
            return up.first_right_answer_s

    with tempfile.TemporaryDirectory(prefix="home-", dir=CACHE) as folder:
        kept = Path(folder) / "home"
        start(ours, kept)
        measured: dict[str, Callable[[], float]] = {
            "tidegate, empty home": lambda: start(ours, None),
            "tidegate, same home again": lambda: start(ours, kept),
            "fastapi": lambda: start(theirs, None),
        }
        rounds = interleave(measured, rounds=options.rounds)
    report = Report("start", raw={"seconds": rounds})
    title = f"From the command to the first right answer, case A, {options.workers} workers, {options.show()}"
    report.tables.append(
        Table(title, ["", "seconds"], [[name, summarise(found).show(2)] for name, found in rounds.items()])
    )
    first, again = (summarise(rounds[name]).median for name in list(rounds)[:2])
    report.goals = [
        Goal("start: `up` with an empty home to the first right answer", first, LIMIT_S, False, "s"),
        Goal("start: `up` again to the first right answer", again, LIMIT_S, False, "s"),
    ]
    yield report
