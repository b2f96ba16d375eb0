"""Case B: a model of milliseconds, where what counts is how full and how close together its batches are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import msgspec

from benchmarks import bare, load, model
from benchmarks.batching import mark, mean_batch
from benchmarks.contender import Contender, Mosec, Running, has_mosec, listed, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Summary, Table, interleave, paired, summarise

CROWDS = (8, 64)
MOSEC_FACTORS = {8: 1.3, 64: 1.05}
EFFICIENCY_LIMIT = 0.90
LONE_LIMIT = 1.1


class Crowd(msgspec.Struct, frozen=True):
    """One load.

    Attributes:
        load: What the generator saw.
        rows_per_cpu_s: Rows over the CPU seconds of the whole process tree.
        batch: Mean rows of the model calls; None where the server does not say.
        bare: Both kinds of bare session at that batch size, right after it; none without a batch size.
    """

    load: load.Load
    rows_per_cpu_s: float
    batch: float | None = None
    bare: tuple[bare.Bare, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """One contender in one round."""

    crowds: dict[int, Crowd]
    alone: load.Load


Round = Sample | tuple[bare.Bare, ...]


def _threads() -> int:
    """Return what Tidegate gives a heavy model: a thread for each core it may use."""
    return len(os.sched_getaffinity(0))


def _bare(batch: int, seconds: float) -> tuple[bare.Bare, ...]:
    """Measure the session with idle threads that spin, onnxruntime's default, and with such that do not."""
    path = model.case_b().path
    return tuple(
        bare.measure(path, batch=batch, threads=_threads(), seconds=seconds, spinning=spinning)
        for spinning in (True, False)
    )


def _better(rounds: Sequence[tuple[bare.Bare, ...]], figure: Callable[[bare.Bare], float]) -> list[float]:
    """Return a figure, the larger the better, of the kind that is better over all rounds.

    Of the better one in each round the luck of the draw would be a part.
    """
    kinds = [[figure(each) for each in kind] for kind in zip(*rounds, strict=True)]
    return max(kinds, key=lambda found: summarise(found).median, default=[])


def _crowd(up: Running, connections: int, options: Options) -> Crowd:
    has_journal = up.control_port != 0
    before = mark(up.home) if has_journal else {}
    before_s = up.server.cpu_s()
    found = load.closed(up.target, seconds=options.seconds, connections=connections).require_clean()
    rows_per_cpu_s = found.answered / (up.server.cpu_s() - before_s)
    batch = mean_batch(up.home, before) if has_journal else None
    if batch is None:
        return Crowd(found, rows_per_cpu_s)
    return Crowd(found, rows_per_cpu_s, batch, _bare(round(batch), options.seconds / 2))


def _sample(up: Running, options: Options) -> Sample:
    crowds = {connections: _crowd(up, connections, options) for connections in CROWDS}
    return Sample(crowds, load.closed(up.target, seconds=options.seconds, connections=1).require_clean())


def compare(contenders: Sequence[Contender], options: Options) -> Report:
    """Measure contenders and the bare session side by side, all up at once and asked in turn."""
    asked = questions(model.case_b(), "vector")
    with ExitStack() as stack:
        up = {each.name: stack.enter_context(running(each, asked)) for each in contenders}
        for each in up.values():
            load.closed(each.target, seconds=options.seconds / 3, connections=max(CROWDS))
        measured: dict[str, Callable[[], Round]] = {
            name: lambda each=each: _sample(each, options)  # type: ignore[misc]  # binds each one's own
            for name, each in up.items()
        }
        # of the two kinds of bare session the faster one: the harder one to stand beside
        measured["bare session"] = lambda: _bare(1, options.seconds / 2)
        rounds = interleave(measured, rounds=options.rounds)
    samples = {name: [found for found in rounds[name] if isinstance(found, Sample)] for name in up}
    alone = [found for found in rounds["bare session"] if not isinstance(found, Sample)]
    calls_us = [-found for found in _better(alone, lambda each: -each.call_us)]
    report = Report("case B", raw={"samples": samples, "bare": rounds["bare session"]})
    report.tables.append(_table(samples, summarise(calls_us), contenders, options))
    if "tidegate" in samples:
        report.goals = _goals(samples, calls_us)
    if "mosec" not in samples:
        report.notes.append("Mosec is not installed here, so it is not compared.")
    return report


def _table(
    samples: dict[str, list[Sample]], call_us: Summary, contenders: Sequence[Contender], options: Options
) -> Table:
    rows = []
    for name, found in samples.items():
        row = [name]
        for connections in CROWDS:
            crowds = [each.crowds[connections] for each in found]
            batches = [each.batch for each in crowds if each.batch is not None]
            row += [
                summarise(each.load.rate_per_s for each in crowds).show(0),
                summarise(batches).show(1) if batches else "",
                summarise(each.rows_per_cpu_s for each in crowds).show(0),
            ]
        row.append(summarise(each.alone.latency_us.p50 / 1e3 for each in found).show(2))
        rows.append(row)
    row = ["bare session"]
    for connections in CROWDS:
        row += ["", "", summarise(_beside(samples["tidegate"], connections)).show(0)]
    rows.append([*row, f"{call_us.median / 1e3:,.2f} ({call_us.min / 1e3:,.2f}-{call_us.max / 1e3:,.2f})"])
    columns = [""]
    for connections in CROWDS:
        columns += [f"rows/s at {connections}", "rows a call", "rows/CPU s"]
    return Table(
        f"Case B: {listed(contenders)}; {options.workers} workers, {_threads()} model threads in all; "
        f"{options.show()}",
        [*columns, "p50 ms alone"],
        rows,
    )


def _beside(samples: Sequence[Sample], connections: int) -> list[float]:
    """Return what the bare session gave right after each crowd, rows a CPU second."""
    found = [each.crowds[connections].bare for each in samples]
    return _better([each for each in found if each], lambda each: each.rows_per_cpu_s)


def _goals(samples: dict[str, list[Sample]], calls_us: list[float]) -> list[Goal]:
    ours = samples["tidegate"]
    full = max(CROWDS)
    crowds = [each.crowds[full] for each in ours]
    shares = paired([each.rows_per_cpu_s for each in crowds if each.bare], _beside(ours, full))
    name = f"case B: rows a CPU second over the bare session's at the same batch size, {full} connections"
    goals = [Goal(name, shares.median, EFFICIENCY_LIMIT, True)]
    lone = paired([each.alone.latency_us.p50 for each in ours], calls_us)
    goals.append(Goal("case B: lone request over the bare call", lone.median, LONE_LIMIT, False, "x"))
    if "mosec" in samples:
        for connections, factor in MOSEC_FACTORS.items():
            ratio = paired(
                [each.crowds[connections].load.rate_per_s for each in ours],
                [each.crowds[connections].load.rate_per_s for each in samples["mosec"]],
            )
            name = f"case B: rows/s over Mosec's, {connections} connections"
            goals.append(Goal(name, ratio.median, factor, True, "x"))
    return goals


def run(options: Options) -> Iterator[Report]:
    """Measure Tidegate, the bare session, and Mosec where it is installed."""
    contenders: list[Contender] = [tidegate_of(model.case_b(), "vector", workers=options.workers)]
    if has_mosec():
        contenders.append(Mosec(model.case_b(), options.workers))
    yield compare(contenders, options)
