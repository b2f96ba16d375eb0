"""More traffic than can be served: how much good work a server still does.

Goodput counts requests that were due in the window and answered with 2xx within 100 ms of the moment
they were due. It is divided by the capacity that the same machine has while the same generator sends
the same excess elsewhere, to a server in C that refuses everything: what is lost beyond that, the
server lost by its own handling of what it could not serve.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks import load, model
from benchmarks.contender import Contender, FastApi, Questions, Running, questions, running, tidegate_of
from benchmarks.measure import Goal, Options, Report, Table, interleave, paired, summarise
from benchmarks.process import Absorber, ask

FACTORS = (1.0, 3.0, 10.0)
LIMITS = {3.0: 0.90, 10.0: 0.75}
DEADLINE_MS = 100.0
CONNECTIONS = 64
OPEN_CONNECTIONS = 512  # an open loop begins with so many: opening them within the window would be its load
IDLE_LIMIT_S = 20.0
TICK_US = 1000.0  # what is due within a millisecond is sent at once: it halves the generator's own work
TIMEOUT_HEADERS = {"tidegate-timeout-ms": f"{DEADLINE_MS:g}"}
SLICE_S = 0.1  # of the generator's timeline
CALM_FACTOR = 0.5  # of the capacity, offered after an overload to see how soon all is well again
CALM_S = 3.0
CALM_SHARE = 0.95  # of the requests of a slice that are answered in time where all is well
RECOVERY_LIMIT_S = 1.0
SLOW_FACTOR = 3.0
SLOW_LIMIT = 0.90
SETTLE_S = 1.0  # after the model has become slow, as after an overload


class Sample(msgspec.Struct, frozen=True):
    """One round at one factor.

    Attributes:
        capacity: Closed loop against the server while the absorber takes the excess.
        overload: Open loop against the server, excess included.
        recovery_s: From the end of the overload until all of a calm load is answered in time.
    """

    capacity: load.Load
    overload: load.Load
    recovery_s: float


def _open(target: load.Target, rate_per_s: float, seconds: float) -> load.Arrivals:
    return load.Arrivals(
        target, seconds, OPEN_CONNECTIONS, rate_per_s=rate_per_s, deadline_ms=DEADLINE_MS, tick_us=TICK_US
    )


def _hurried(up: Running) -> load.Target:
    """Return the server's target with the deadline in a header; servers that do not know it ignore it."""
    return msgspec.structs.replace(up.target, headers=TIMEOUT_HEADERS)


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


def _capacity(up: Running, absorber: load.Target, excess_per_s: float, seconds: float) -> load.Load:
    """Measure what the server does while `excess_per_s` requests go elsewhere."""
    _wait_idle(up)
    if excess_per_s <= 0:
        return load.closed(up.target, seconds=seconds, connections=CONNECTIONS)
    with load.start(_open(absorber, excess_per_s, seconds)) as excess:
        capacity = load.closed(up.target, seconds=seconds, connections=CONNECTIONS)
        excess.result()
    return capacity


def _recovery_s(calm: load.Load) -> float:
    """Return when the last slice began to end in which not nearly all was answered in time."""
    bad = [
        number
        for number, (due, good) in enumerate(zip(calm.due_in, calm.good_in, strict=True))
        if good < CALM_SHARE * due - 1  # one late answer of few is no overload
    ]
    return (bad[-1] + 1) * SLICE_S if bad else 0.0


def _sample(up: Running, absorber: load.Target, base_per_s: float, factor: float, seconds: float) -> Sample:
    capacity = _capacity(up, absorber, (factor - 1) * base_per_s, seconds)
    _wait_idle(up)
    with load.start(_open(_hurried(up), factor * base_per_s, seconds)) as everything:
        overload = everything.result()
    with load.start(_open(_hurried(up), CALM_FACTOR * base_per_s, CALM_S)) as calm:
        return Sample(capacity, overload, _recovery_s(calm.result()))


class Base(msgspec.Struct, frozen=True):
    """A server that is up, and what it does at its best."""

    up: Running
    absorber: load.Target
    per_s: float


def _base(up: Running, absorber: load.Target, options: Options) -> Base:
    load.closed(up.target, seconds=options.seconds / 3, connections=CONNECTIONS)
    found = load.closed(up.target, seconds=options.seconds, connections=CONNECTIONS)
    return Base(up, absorber, found.ok_per_s)


def measure(
    contenders: Sequence[tuple[Contender, Questions]], label: str, options: Options
) -> Iterator[Report]:
    """Measure servers side by side at all factors."""
    (ours, asked), (theirs, others) = contenders
    with running(ours, asked) as up, running(theirs, others) as beside, Absorber(503) as absorber:
        elsewhere = load.Target(absorber.port, "/predict", asked.bodies)
        bases = [_base(each, elsewhere, options) for each in (up, beside)]
        measured: dict[str, Callable[[], Sample]] = {
            f"{number} {factor:g}": lambda base=base, factor=factor: _sample(  # type: ignore[misc]  # binds each one's own
                base.up, base.absorber, base.per_s, factor, options.seconds
            )
            for factor in FACTORS
            for number, base in enumerate(bases)
        }
        rounds = interleave(measured, rounds=options.rounds)
    for number, (contender, base) in enumerate(zip((ours, theirs), bases, strict=True)):
        found = {factor: rounds[f"{number} {factor:g}"] for factor in FACTORS}
        yield _report(contender.name, label, base.per_s, found, options)


def _report(
    name: str, label: str, base_per_s: float, found: dict[float, list[Sample]], options: Options
) -> Report:
    report = Report(f"overload, {label}, {name}", raw={"base_per_s": base_per_s, "rounds": found})
    rows = []
    for factor, samples in found.items():
        goodput = [each.overload.goodput_per_s for each in samples]
        share = paired(goodput, [each.capacity.ok_per_s for each in samples])
        recovery = summarise(each.recovery_s for each in samples)
        rows.append([*_row(factor, samples, share.show(2)), recovery.show(1)])
        if name == "tidegate" and factor in LIMITS:
            title = f"overload {label}: goodput over capacity at {factor:g}x, {DEADLINE_MS:g} ms deadline"
            report.goals.append(Goal(title, share.median, LIMITS[factor], True))
            p99_ms = summarise(each.overload.latency_us.p99 / 1e3 for each in samples).median
            title = f"overload {label}: p99 of what is answered at {factor:g}x"
            report.goals.append(Goal(title, p99_ms, DEADLINE_MS, False, "ms"))
            title = f"overload {label}: back to normal after {factor:g}x"
            report.goals.append(Goal(title, recovery.median, RECOVERY_LIMIT_S, False, "s"))
    title = (
        f"Overload of {name}, {label}: Poisson arrivals at multiples of {base_per_s:,.0f}/s, "
        f"deadline {DEADLINE_MS:g} ms, {options.workers} workers, at most {load.MAX_CONNECTIONS} requests "
        f"outstanding; {options.show()}"
    )
    columns = ["offered", "capacity/s", "goodput/s", "goodput/capacity", "p99 ms of 2xx", "other answers/s"]
    columns += ["p50 ms of those", "unsent/s", "generator cores", "well again after s"]
    report.tables.append(Table(title, columns, rows))
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


class Slowed(msgspec.Struct, frozen=True):
    """One round in which the model becomes twice as slow under a load.

    Attributes:
        capacity: Closed loop against the slow model while the absorber takes the excess.
        before_per_s, after_per_s: Goodput before, and from a second after it became slow.
        p99_ms: Of all 2xx.
    """

    capacity: load.Load
    before_per_s: float
    after_per_s: float
    p99_ms: float


def _slowed(base: Base, seconds: float) -> Slowed:
    half_s = seconds + SETTLE_S
    model.SLOW.unlink(missing_ok=True)
    _wait_idle(base.up)
    try:
        with load.start(_open(_hurried(base.up), SLOW_FACTOR * base.per_s, 2 * half_s)) as everything:
            time.sleep(half_s)
            model.SLOW.touch()
            seen = everything.result()
        capacity = _capacity(base.up, base.absorber, (SLOW_FACTOR - 1) * base.per_s, seconds)
    finally:
        model.SLOW.unlink(missing_ok=True)
    at, settle = round(half_s / SLICE_S), round(SETTLE_S / SLICE_S)
    before, after = seen.good_in[settle:at], seen.good_in[at + settle + 1 :]
    return Slowed(
        capacity,
        sum(before) / (len(before) * SLICE_S),
        sum(after) / (len(after) * SLICE_S),
        seen.latency_us.p99 / 1e3,
    )


def measure_slow(contenders: Sequence[tuple[Contender, Questions]], options: Options) -> Report:
    """Measure servers whose model suddenly takes twice as long."""
    (ours, asked), (theirs, others) = contenders
    model.SLOW.unlink(missing_ok=True)
    with running(ours, asked) as up, running(theirs, others) as beside, Absorber(503) as absorber:
        elsewhere = load.Target(absorber.port, "/predict", asked.bodies)
        bases = {
            contender.name: _base(each, elsewhere, options)
            for contender, each in ((ours, up), (theirs, beside))
        }
        measured: dict[str, Callable[[], Slowed]] = {
            name: lambda base=base: _slowed(base, options.seconds)  # type: ignore[misc]  # binds each one's own
            for name, base in bases.items()
        }
        rounds = interleave(measured, rounds=options.rounds)
    report = Report("overload, a model that becomes twice as slow", raw={"rounds": rounds})
    rows = []
    for name, found in rounds.items():
        share = paired([each.after_per_s for each in found], [each.capacity.ok_per_s for each in found])
        figures = [
            [each.before_per_s for each in found],
            [each.capacity.ok_per_s for each in found],
            [each.after_per_s for each in found],
        ]
        p99 = summarise(each.p99_ms for each in found).show(1)
        rows.append([name, *(summarise(values).show(0) for values in figures), share.show(2), p99])
        if name == ours.name:
            title = f"overload, model suddenly twice as slow: goodput over its capacity at {SLOW_FACTOR:g}x"
            report.goals.append(Goal(title, share.median, SLOW_LIMIT, True))
    title = (
        f"Case B by a function, {SLOW_FACTOR:g} times the capacity, twice as slow from the middle on; the "
        f"second after that is left out; {options.show()}"
    )
    columns = [
        "server",
        "goodput/s before",
        "capacity/s slow",
        "goodput/s slow",
        "of capacity",
        "p99 ms of 2xx",
    ]
    report.tables.append(Table(title, columns, rows))
    return report


def run(options: Options) -> Iterator[Report]:
    """Measure case B batched and unbatched with the same configuration, the baseline beside each."""
    workers = options.workers
    plain = questions(model.case_b(), "vector")
    theirs = FastApi(model.case_b(), "vector", workers)
    batched = tidegate_of(model.case_b(), "vector", workers=workers)
    yield from measure(((batched, plain), (theirs, plain)), "case B batched", options)
    single = model.case_b_single()
    unbatched = tidegate_of(single, "vector", workers=workers)
    asked = questions(single, "matrix")
    yield from measure(((unbatched, asked), (theirs, plain)), "case B unbatched", options)
    slow = tidegate_of(model.case_b_slow(), "vector", workers=workers)
    slow_too = FastApi(model.case_b_slow(), "vector", workers)
    yield measure_slow(((slow, plain), (slow_too, plain)), options)
