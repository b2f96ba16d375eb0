"""More traffic than can be served: how much good work a server still does.

Goodput counts requests that were due in the window and answered with 2xx within 100 ms of the moment
they were due. It is divided by the capacity that the same machine has while the same generator sends
the same excess elsewhere, to a server in C that refuses everything: what is lost beyond that, the
server lost by its own handling of what it could not serve.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks import load, model
from benchmarks.contender import Contender, FastApi, Running, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Table, interleave, paired, summarise
from benchmarks.process import Absorber, ask

FACTORS = (1.0, 3.0, 10.0)
LIMITS = {3.0: 0.90, 10.0: 0.75}
DEADLINE_MS = 100.0
CONNECTIONS = 64
IDLE_LIMIT_S = 20.0
TICK_US = 1000.0  # what is due within a millisecond is sent at once: it halves the generator's own work
TIMEOUT_HEADERS = {"tidegate-timeout-ms": f"{DEADLINE_MS:g}"}


class Sample(msgspec.Struct, frozen=True):
    """One round at one factor.

    Attributes:
        capacity: Closed loop against the server while the absorber takes the excess.
        overload: Open loop against the server, excess included.
    """

    capacity: load.Load
    overload: load.Load


def _open(target: load.Target, rate_per_s: float, seconds: float) -> load.Arrivals:
    return load.Arrivals(
        target, seconds, CONNECTIONS, rate_per_s=rate_per_s, deadline_ms=DEADLINE_MS, tick_us=TICK_US
    )


def _wait_idle(up: Running) -> None:
    """Wait until a server that queued what it was sent has worked it off."""
    give_up_s = time.monotonic() + IDLE_LIMIT_S
    while time.monotonic() < give_up_s:
        began_s = time.monotonic()
        try:
            ask(up.target, up.target.bodies[0])
        except (OSError, http.client.HTTPException):
            continue
        if time.monotonic() - began_s < DEADLINE_MS / 1e3:
            return


def _sample(up: Running, absorber: load.Target, base_per_s: float, factor: float, seconds: float) -> Sample:
    _wait_idle(up)
    excess_per_s = (factor - 1) * base_per_s
    if excess_per_s > 0:
        with load.start(_open(absorber, excess_per_s, seconds)) as excess:
            capacity = load.closed(up.target, seconds=seconds, connections=CONNECTIONS)
            excess.result()
    else:
        capacity = load.closed(up.target, seconds=seconds, connections=CONNECTIONS)
    _wait_idle(up)
    hurried = msgspec.structs.replace(up.target, headers=TIMEOUT_HEADERS)
    with load.start(_open(hurried, factor * base_per_s, seconds)) as everything:
        return Sample(capacity, everything.result())


def measure(contender: Contender, case: model.Model, label: str, options: Options) -> Report:
    """Measure one server with one model at all factors."""
    asked = questions(case, "matrix" if case == model.case_b_single() else "vector")
    with running(contender, asked) as up, Absorber(503) as absorber:
        elsewhere = load.Target(absorber.port, "/predict", asked.bodies)
        load.closed(up.target, seconds=options.seconds / 3, connections=CONNECTIONS)
        base = load.closed(up.target, seconds=options.seconds, connections=CONNECTIONS)
        measured: dict[str, Callable[[], Sample]] = {
            f"{factor:g}x": lambda factor=factor: _sample(  # type: ignore[misc]  # binds each one's own
                up, elsewhere, base.ok_per_s, factor, options.seconds
            )
            for factor in FACTORS
        }
        rounds = interleave(measured, rounds=options.rounds)
    report = Report(f"overload, {label}, {contender.name}", raw={"base": base, "rounds": rounds})
    rows = []
    for factor, found in zip(FACTORS, rounds.values(), strict=True):
        goodput = [each.overload.goodput_per_s for each in found]
        share = paired(goodput, [each.capacity.ok_per_s for each in found])
        rows.append(_row(factor, found, share.show(2)))
        if contender.name == "tidegate" and factor in LIMITS:
            name = f"overload {label}: goodput over capacity at {factor:g}x, {DEADLINE_MS:g} ms deadline"
            report.goals.append(Goal(name, share.median, LIMITS[factor], True))
    title = (
        f"Overload of {contender.name}, {label}: Poisson arrivals at multiples of {base.ok_per_s:,.0f}/s, "
        f"deadline {DEADLINE_MS:g} ms, {options.workers} workers, at most {load.MAX_CONNECTIONS} requests "
        f"outstanding; {options.show()}"
    )
    columns = [
        "offered",
        "capacity/s",
        "goodput/s",
        "goodput/capacity",
        "p99 ms of 2xx",
        "other answers/s",
    ]
    report.tables.append(Table(title, [*columns, "p50 ms of those", "unsent/s", "generator cores"], rows))
    return report


def _row(factor: float, found: list[Sample], share: str) -> list[str]:
    loads = [each.overload for each in found]

    def show(values: list[float], digits: int = 0) -> str:
        return summarise(values).show(digits)

    return [
        f"{factor:g}x",
        show([each.capacity.ok_per_s for each in found]),
        show([each.goodput_per_s for each in loads]),
        share,
        show([each.latency_us.p99 / 1e3 for each in loads], 1),
        show([(each.answered - each.ok) / each.duration_s for each in loads]),
        show([each.refusal_us.p50 / 1e3 for each in loads], 1),
        show([each.unsent / each.duration_s for each in loads]),
        show([(each.cpu_user_s + each.cpu_system_s) / each.duration_s for each in loads], 2),
    ]


def run(options: Options) -> Iterator[Report]:
    """Measure case B batched and unbatched with the same configuration, and the baseline for scale."""
    for case, label in ((model.case_b(), "case B batched"), (model.case_b_single(), "case B unbatched")):
        ours = tidegate_of(case, "vector", workers=options.workers)
        yield measure(ours, case, label, options)
    scale = msgspec.structs.replace(options, rounds=1)
    theirs = FastApi(model.case_b(), "vector", options.workers)
    yield measure(theirs, model.case_b(), "case B", scale)
