"""Case A: a model of microseconds, one row a request, so that what is measured is the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import msgspec

from benchmarks import bare, load, model
from benchmarks.contender import Contender, FastApi, listed, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Summary, Table, interleave, paired, summarise
from benchmarks.process import Absorber

CONNECTIONS = 64
SHAPES = ("named", "vector")
FLOOR = "constant from C, 1 process"  # what the sockets of this machine cost by themselves
CPU_LIMIT_US = 30.0
RATE_FACTOR = 3.0
OVER_BARE_LIMIT_MS = 0.10


class Sample(msgspec.Struct, frozen=True):
    """One contender in one round.

    Attributes:
        crowd: The load of 64 connections.
        alone: The load of one connection.
        cpu_us: CPU time of the whole process tree for one request of the crowd.
    """

    crowd: load.Load
    alone: load.Load
    cpu_us: float


def sample(target: load.Target, cpu_s: Callable[[], float], options: Options) -> Sample:
    """Measure a server that is up: 64 connections with its CPU time, then one connection."""
    before_s = cpu_s()
    crowd = load.closed(target, seconds=options.seconds, connections=CONNECTIONS).require_clean()
    used_s = cpu_s() - before_s
    alone = load.closed(target, seconds=options.seconds / 2, connections=1).require_clean()
    return Sample(crowd, alone, used_s / crowd.answered * 1e6)


def compare(contenders: Sequence[Contender], shape: str, options: Options) -> Report:
    """Measure contenders and the bare call side by side, all up at once and asked in turn."""
    asked = questions(model.case_a(), shape)
    with ExitStack() as stack:
        up = {each.name: stack.enter_context(running(each, asked)) for each in contenders}
        for each in up.values():
            load.closed(each.target, seconds=options.seconds / 3, connections=CONNECTIONS)
        measured: dict[str, Callable[[], Sample | bare.Bare]] = {
            name: lambda each=each: sample(  # type: ignore[misc]  # binds each one's own
                each.target, each.server.cpu_s, options
            )
            for name, each in up.items()
        }
        floor = stack.enter_context(Absorber(200))
        sockets = load.Target(floor.port, "/predict", asked.bodies)
        measured[FLOOR] = lambda: sample(sockets, floor.cpu_s, options)
        path, seconds = model.case_a().path, options.seconds / 2
        measured["bare call"] = lambda: bare.measure(path, batch=1, threads=1, seconds=seconds)
        rounds = interleave(measured, rounds=options.rounds)
    samples = {name: [found for found in rounds[name] if isinstance(found, Sample)] for name in [*up, FLOOR]}
    calls_us = [found.call_us for found in rounds["bare call"] if isinstance(found, bare.Bare)]
    report = Report(f"case A, body shape {shape}")
    report.raw = {"samples": samples, "bare": rounds["bare call"]}
    report.tables.append(_table(samples, summarise(calls_us), contenders, shape, options))
    if "tidegate" in samples and "fastapi" in samples:
        report.goals = _goals(samples["tidegate"], samples["fastapi"], calls_us, shape)
        ratio = paired(
            [each.cpu_us for each in samples["fastapi"]], [each.cpu_us for each in samples["tidegate"]]
        )
        report.notes.append(
            f"a request costs FastAPI {ratio.show(1)} times the CPU time that it costs Tidegate"
        )
    return report


def _table(
    samples: dict[str, list[Sample]],
    call_us: Summary,
    contenders: Sequence[Contender],
    shape: str,
    options: Options,
) -> Table:
    rows = []
    for name, found in samples.items():
        rows.append(
            [
                name,
                summarise(each.crowd.rate_per_s for each in found).show(0),
                summarise(each.cpu_us for each in found).show(1),
                summarise(each.crowd.latency_us.p50 / 1e3 for each in found).show(2),
                summarise(each.crowd.latency_us.p99 / 1e3 for each in found).show(2),
                summarise(each.alone.latency_us.p50 for each in found).show(0),
                summarise(each.crowd.cpu_us_per_request for each in found).show(1),
            ]
        )
    rows.append(["bare call", "", "", "", "", call_us.show(1), ""])
    return Table(
        f"Case A: {listed(contenders)}; body shape {shape}; {options.workers} workers each; "
        f"{CONNECTIONS} connections; {options.show()}",
        [
            "",
            "requests/s",
            "server CPU us/request",
            "p50 ms",
            "p99 ms",
            "p50 us alone",
            "generator CPU us/request",
        ],
        rows,
    )


def _goals(ours: list[Sample], theirs: list[Sample], calls_us: list[float], shape: str) -> list[Goal]:
    factor = paired([each.crowd.rate_per_s for each in ours], [each.crowd.rate_per_s for each in theirs])
    over_ms = summarise(
        (each.alone.latency_us.p50 - call_us) / 1e3 for each, call_us in zip(ours, calls_us, strict=True)
    )
    cpu = summarise(each.cpu_us for each in ours)
    return [
        Goal(
            f"case A {shape}: requests/s over FastAPI's in the same round",
            factor.median,
            RATE_FACTOR,
            True,
            "x",
        ),
        Goal(
            f"case A {shape}: server CPU a request, {CONNECTIONS} connections",
            cpu.median,
            CPU_LIMIT_US,
            False,
            "us",
        ),
        Goal(
            f"case A {shape}: p50 alone over the bare call", over_ms.median, OVER_BARE_LIMIT_MS, False, "ms"
        ),
    ]


def run(options: Options) -> Iterator[Report]:
    """Measure both body shapes against the service written by hand."""
    for shape in SHAPES:
        contenders: list[Contender] = [
            tidegate_of(model.case_a(), shape, workers=options.workers),
            FastApi(model.case_a(), shape, options.workers),
        ]
        yield compare(contenders, shape, options)
