"""What a process of its own costs a model, and what it gains that all workers share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks import load, model
from benchmarks.batching import mark, mean_batch
from benchmarks.contender import Running, Tidegate, questions, running
from benchmarks.measure import Goal, Options, Report, Table, interleave, paired, summarise
from benchmarks.model import Model
from benchmarks.process import program

OVERHEAD_LIMIT_US = 150.0
SHARED_FACTOR = 1.0
CONNECTIONS = 64

_PUBLISH = (
    "import sys; from pathlib import Path; import tidegate as tg; "
    "from tidegate.bootstrap.local import Local; "
    "from tidegate.bootstrap.publish import publish; from tidegate.bootstrap.setting import Settings; "
    "local = Local(Settings(home=sys.argv[1])); "
    "publish(local, sys.argv[3], Path(sys.argv[2]), placement=tg.Placement(isolated=True))"
)


class Isolated(msgspec.Struct, frozen=True):
    """`tidegate up` with a model that was declared to have a process of its own."""

    model: Model
    workers: int = 2
    name: str = "isolated"

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def path(self) -> str:
        return f"/services/{self.model.name}/predict"

    def preparation(self, home: Path) -> list[list[str]]:
        return [[program("python"), "-c", _PUBLISH, str(home), str(self.model.path), self.model.name]]

    def command(self, port: int, control_port: int, home: Path) -> list[str]:
        return [
            *(program("tidegate"), "up", "--workers", str(self.workers), "--home", str(home)),
            *("--port", str(port), "--control-port", str(control_port)),
        ]


def overhead(options: Options) -> Report:
    """Measure case A at one connection, in the workers' loop and in a runner."""
    asked = questions(model.case_a(), "vector")
    with ExitStack() as stack:
        up = {
            "in the loop": stack.enter_context(
                running(Tidegate(model.case_a().path, "case-a", options.workers, "inline"), asked)
            ),
            "in a runner": stack.enter_context(running(Isolated(model.case_a(), options.workers), asked)),
        }
        measured: dict[str, Callable[[], load.Load]] = {
            name: lambda each=each: load.closed(  # type: ignore[misc]  # binds each one's own
                each.target, seconds=options.seconds, connections=1
            ).require_clean()
            for name, each in up.items()
        }
        rounds = interleave(measured, rounds=options.rounds)
    p50s = {name: [found.latency_us.p50 for found in rounds[name]] for name in up}
    over_us = summarise(b - a for a, b in zip(p50s["in the loop"], p50s["in a runner"], strict=True))
    report = Report("runner overhead", raw={"rounds": rounds})
    rows = [[name, summarise(found).show(0)] for name, found in p50s.items()]
    report.tables.append(
        Table(f"Case A, one connection; {options.show()}", ["", "p50 us"], [*rows, ["more", over_us.show(0)]])
    )
    report.goals = [
        Goal("runner: case A, p50 alone over the loop's", over_us.median, OVERHEAD_LIMIT_US, False, "us")
    ]
    return report


class Crowd(msgspec.Struct, frozen=True):
    """One load of case B."""

    rate_per_s: float
    batch: float


def _shared(up: Running, seconds: float) -> Crowd:
    before = mark(up.home)
    found = load.closed(up.target, seconds=seconds, connections=CONNECTIONS).require_clean()
    return Crowd(found.rate_per_s, mean_batch(up.home, before) or 0.0)


def _each_alone(ups: list[Running], seconds: float) -> Crowd:
    before = [mark(up.home) for up in ups]
    share = CONNECTIONS // len(ups)
    with ExitStack() as stack:
        loads = [stack.enter_context(load.start(load.Arrivals(up.target, seconds, share))) for up in ups]
        found = [each.result().require_clean() for each in loads]
    batches = [mean_batch(up.home, since) or 0.0 for up, since in zip(ups, before, strict=True)]
    return Crowd(sum(each.rate_per_s for each in found), sum(batches) / len(batches))


def shared(options: Options) -> Report:
    """Measure case B: two workers with one runner, beside two workers with a runner each."""
    asked = questions(model.case_b(), "vector")
    with ExitStack() as stack:
        both = stack.enter_context(running(Tidegate(model.case_b().path, "case-b", 2, "shared"), asked))
        alone = [
            stack.enter_context(running(Tidegate(model.case_b().path, "case-b", 1, f"alone-{number}"), asked))
            for number in range(2)
        ]
        measured: dict[str, Callable[[], Crowd]] = {
            "2 workers, one runner": lambda: _shared(both, options.seconds),
            "2 workers, a runner each": lambda: _each_alone(alone, options.seconds),
        }
        for warm in measured.values():
            warm()
        rounds = interleave(measured, rounds=options.rounds)
    one, each = rounds["2 workers, one runner"], rounds["2 workers, a runner each"]
    factor = paired([found.rate_per_s for found in one], [found.rate_per_s for found in each])
    report = Report("shared runner", raw={"rounds": rounds})
    report.tables.append(
        Table(
            f"Case B, {CONNECTIONS} connections in all; {options.show()}",
            ["", "rows/s", "rows a call"],
            [
                [
                    name,
                    summarise(found.rate_per_s for found in crowds).show(0),
                    summarise(found.batch for found in crowds).show(1),
                ]
                for name, crowds in rounds.items()
            ],
        )
    )
    report.goals = [
        Goal("runner: case B, rows/s of one runner over one each", factor.median, SHARED_FACTOR, True, "x")
    ]
    return report


def run(options: Options) -> Iterator[Report]:
    """Measure both."""
    yield overhead(options)
    yield shared(options)
