"""Whether a version is as fast and as small as the champion, both measured side by side on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tidegate.core.decision import Evidence, Verdict
from tidegate.gate.declaration import Gates
from tidegate.gate.probe import Burst, CheckedInputs, Probe
from tidegate.gate.record import in_bytes
from tidegate.gate.verdict import against_margin, found, not_asked
from tidegate.statistics.interval import Interval, newcombe

BURST_REQUESTS = 100
"""Requests before the other server's turn: a fraction of a second, so that what else the machine does
meets both."""

LOOKS = (64, 128, 256, 512)
"""After how many bursts of each the evidence is judged. Looking four times spends the level in four parts."""

_WARM_BURSTS = 2
_LEAST_PAIRS = 8
_N_REPLICATES = 1000
_MODEL_FLOOR_US = 20.0
"""A model whose calls take this much longer costs nobody anything, whatever the ratio: a lookup of 4 us
that becomes one of 10 us."""


class Measured(NamedTuple):
    """What the load gave.

    Attributes:
        candidate: The candidate's bursts.
        champion: The champion's, as many; empty without one.
        memory: Bytes of the serving processes: the candidate's, and the champion's or None.
    """

    candidate: list[Burst]
    champion: list[Burst]
    memory: tuple[int, int | None]


class Speed(NamedTuple):
    """Two servers' times and their ratios, with intervals.

    Attributes:
        p99_us: The candidate's and the champion's 99th percentile: of each burst, the median over bursts.
        p99_ratio: The first over the second.
        p99_interval: Its interval.
        model_us: The candidate's and the champion's own time a request; None where unknown.
        model_ratio: The first over the second.
        model_interval: Its interval.
    """

    p99_us: tuple[float, float]
    p99_ratio: float
    p99_interval: Interval
    model_us: tuple[float, float] | None
    model_ratio: float | None
    model_interval: Interval | None


def measure(probe: Probe, gates: Gates, *, rng: np.random.Generator) -> Measured:
    """Load both servers in turn until the evidence decides, or the budget is spent.

    Raises:
        ProbeFailed: A server stopped answering.
    """
    has_champion = "champion" in probe.sides
    for _ in range(_WARM_BURSTS):
        for side in probe.sides:
            probe.load(side, BURST_REQUESTS)
    candidate: list[Burst] = []
    champion: list[Burst] = []
    for before, upto in pairwise((0, *LOOKS)):
        for turn in range(before, upto):
            # who goes first alternates, or the second would always meet the same half of a rhythm
            order = probe.sides if turn % 2 == 0 else tuple(reversed(probe.sides))
            for side in order:
                (candidate if side == "candidate" else champion).append(probe.load(side, BURST_REQUESTS))
        if not has_champion or _decided(candidate, champion, gates, rng):
            break
    memory = probe.memory_bytes("candidate"), probe.memory_bytes("champion") if has_champion else None
    return Measured(candidate, champion, memory)


def latency(
    measured: Measured | None,
    gates: Gates,
    *,
    rng: np.random.Generator,
    objective_ms: float | None = None,
    why_not: str = "",
) -> Evidence:
    """Ask whether answers, and the model itself, take no longer than the champion's by more than the ratio.

    Args:
        measured: What the load gave; None where nothing could be measured.
        gates: The ratio and the level.
        rng: Source of randomness of the bootstrap.
        objective_ms: Declared 99th percentile: what counts without a champion, milliseconds.
        why_not: Why nothing was measured.
    """
    gate = "latency"
    if measured is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    n_failed = sum(burst.n_failed for burst in measured.candidate)
    n_requests = sum(len(burst.latency_us) for burst in measured.candidate)
    if n_failed:
        return _failing(gate, measured, n_failed, n_requests, level=gates.level)
    if not measured.champion:
        return _alone(gate, measured.candidate, objective_ms)
    speed = speeds(measured.candidate, measured.champion, level=_look_level(gates), rng=rng)
    verdict = judge(speed, gates)
    one, two = speed.p99_us
    words = (
        f"p99 {one / 1000:.2f} ms against {two / 1000:.2f} ms beside it: {speed.p99_ratio:.2f} times "
        f"[{speed.p99_interval.low:.2f}, {speed.p99_interval.high:.2f}]"
    )
    if speed.model_us is not None and speed.model_ratio is not None and speed.model_interval is not None:
        words += (
            f"; the model itself {speed.model_us[0]:.0f} us against {speed.model_us[1]:.0f} us: "
            f"{speed.model_ratio:.2f} times [{speed.model_interval.low:.2f}, {speed.model_interval.high:.2f}]"
        )
    words += f"; allowed {gates.latency_ratio:g}"
    if verdict is Verdict.UNDECIDED:
        words += ". Measure again while the machine does less else"
    observed = {
        "n_requests": n_requests,
        "n_bursts": len(measured.candidate),
        "p99_us": list(speed.p99_us),
        "p99_ratio": [speed.p99_ratio, speed.p99_interval.low, speed.p99_interval.high],
        "model_us": None if speed.model_us is None else list(speed.model_us),
        "model_ratio": None
        if speed.model_interval is None
        else [speed.model_ratio, speed.model_interval.low, speed.model_interval.high],
    }
    parameters = {"ratio": gates.latency_ratio, "level": gates.level, "looks": list(LOOKS)}
    return found(gate, verdict, words, statistic=speed.p99_ratio, parameters=parameters, observed=observed)


def memory(measured: Measured | None, gates: Gates, *, why_not: str = "") -> Evidence:
    """Ask whether serving takes no more memory than the champion's by more than the ratio."""
    gate = "memory"
    if measured is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    own, other = measured.memory
    observed = {"bytes": own, "champion": other}
    if other is None:
        return not_asked(gate, f"{in_bytes(own)} under load; there is no champion to compare with")
    ratio = own / max(other, 1)
    words = (
        f"{in_bytes(own)} under load, {ratio:.2f} times the champion's {in_bytes(other)}; "
        f"allowed {gates.memory_ratio:g}"
    )
    verdict = Verdict.SAFE if ratio <= gates.memory_ratio else Verdict.REGRESSED
    return found(
        gate, verdict, words, statistic=ratio, parameters={"ratio": gates.memory_ratio}, observed=observed
    )


def check_inputs(checked: CheckedInputs | None, *, why_not: str = "", failed: str = "") -> Evidence:
    """Ask whether the running server answers known inputs as it did when the version was registered.

    Args:
        checked: What was asked; None where there are no check inputs.
        why_not: Why nothing could be asked.
        failed: Why the version cannot be served; "" if it can.
    """
    gate = "check-inputs"
    if failed:
        return found(gate, Verdict.REGRESSED, failed)
    if checked is None:
        words = why_not or "the version has none: register it with a sample of real rows"
        return found(gate, Verdict.UNDECIDED, words)
    if checked.wrong:
        words = f"{len(checked.wrong)} of {checked.n_rows} answered otherwise: {checked.wrong[0]}"
        return found(gate, Verdict.REGRESSED, words, observed={"wrong": list(checked.wrong)})
    return found(
        gate,
        Verdict.SAFE,
        f"{checked.n_rows} known answers came back from the running server",
        observed={"n_rows": checked.n_rows},
    )


def speeds(
    candidate: Sequence[Burst], champion: Sequence[Burst], *, level: float, rng: np.random.Generator
) -> Speed:
    """Compare two servers' bursts, which were sent in turn.

    A disturbance from outside lasts longer than a burst and meets neighbours of both, so pairs of
    bursts are drawn, not requests; and the percentile is taken of each burst, of which the middle one
    counts: what a version does to one request in a hundred is in every burst, what a neighbour on the
    machine does now and then is not. Of the pairs only the quietest quarter is used: those in which client
    and servers waited least for a processor.
    """
    candidate, champion = _quiet(candidate, champion)
    one, two = (
        np.array([np.quantile(burst.latency_us, 0.99) for burst in side]) for side in (candidate, champion)
    )
    n = len(one)
    p99 = (float(np.median(one)), float(np.median(two)))
    own, other = (
        np.array([math.nan if b.model_us is None else b.model_us for b in side])
        for side in (candidate, champion)
    )
    knows_model = bool(np.isfinite(own).all() and np.isfinite(other).all() and (other > 0).all())
    ratios, model_ratios = np.empty(_N_REPLICATES), np.empty(_N_REPLICATES)
    for replicate in range(_N_REPLICATES):
        drawn = rng.integers(0, n, n)
        ratios[replicate] = np.median(one[drawn]) / np.median(two[drawn])
        if knows_model:
            model_ratios[replicate] = np.median(own[drawn]) / np.median(other[drawn])
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    interval = Interval(float(low), float(high))
    if not knows_model:
        return Speed(p99, p99[0] / p99[1], interval, None, None, None)
    model = (float(np.median(own)), float(np.median(other)))
    low, high = np.quantile(model_ratios, [tail, 1 - tail])
    return Speed(
        p99, p99[0] / p99[1], interval, model, model[0] / model[1], Interval(float(low), float(high))
    )


def judge(speed: Speed, gates: Gates) -> Verdict:
    """Return the worse of what both ratios say."""
    verdict = against_margin(speed.p99_interval, gates.latency_ratio)
    if speed.model_us is None or speed.model_us[0] - speed.model_us[1] < _MODEL_FLOOR_US:
        return verdict
    own = against_margin(speed.model_interval, gates.latency_ratio)
    return max(verdict, own, key=(Verdict.SAFE, Verdict.UNDECIDED, Verdict.REGRESSED).index)


def _quiet(candidate: Sequence[Burst], champion: Sequence[Burst]) -> tuple[Sequence[Burst], Sequence[Burst]]:
    """Return the quarter of the pairs in which both waited least; all where nobody knows."""
    waited = [
        None if a.waited_us is None or b.waited_us is None else a.waited_us + b.waited_us
        for a, b in zip(candidate, champion, strict=True)
    ]
    known = [wait for wait in waited if wait is not None]
    if len(known) < len(waited):
        return candidate, champion
    chosen = sorted(np.argsort(np.array(known), kind="stable")[: max(_LEAST_PAIRS, len(known) // 4)].tolist())
    return [candidate[place] for place in chosen], [champion[place] for place in chosen]


def _decided(candidate: list[Burst], champion: list[Burst], gates: Gates, rng: np.random.Generator) -> bool:
    if any(burst.n_failed for burst in candidate):
        return True
    return (
        judge(speeds(candidate, champion, level=_look_level(gates), rng=rng), gates) is not Verdict.UNDECIDED
    )


def _look_level(gates: Gates) -> float:
    return 1 - (1 - gates.level) / len(LOOKS)


def _failing(gate: str, measured: Measured, n_failed: int, n_requests: int, *, level: float) -> Evidence:
    """Judge a version some of whose requests were not answered: by whether the champion's were.

    Failures come in rows, so bursts are counted, not requests.
    """
    observed = {"n_failed": n_failed, "n_requests": n_requests}
    words = f"{n_failed:,} of {n_requests:,} requests under load were not answered by the model"
    theirs = sum(burst.n_failed for burst in measured.champion)
    if theirs:
        own_bursts, their_bursts = (
            sum(burst.n_failed > 0 for burst in side) for side in (measured.candidate, measured.champion)
        )
        n = len(measured.candidate)
        observed["champion_failed"] = theirs
        if newcombe(own_bursts, n, their_bursts, len(measured.champion), level=level).low <= 0:
            words += f", and {theirs:,} of the champion's: measure again while the machine does less else"
            return found(gate, Verdict.UNDECIDED, words, observed=observed)
        words += f", {theirs:,} of the champion's"
    return found(gate, Verdict.REGRESSED, words, observed=observed)


def _alone(gate: str, bursts: Sequence[Burst], objective_ms: float | None) -> Evidence:
    """Judge a version without a champion: by the declared objective, if there is one."""
    p99_ms = float(np.median([np.quantile(burst.latency_us, 0.99) for burst in bursts])) / 1000
    n_requests = sum(len(burst.latency_us) for burst in bursts)
    observed = {"p99_us": [p99_ms * 1000], "n_requests": n_requests}
    if objective_ms is None:
        return not_asked(gate, f"p99 {p99_ms:.2f} ms; there is neither a champion nor a declared objective")
    verdict = Verdict.SAFE if p99_ms <= objective_ms else Verdict.REGRESSED
    words = (
        f"p99 {p99_ms:.2f} ms on this machine, declared {objective_ms:g} ms; there is no champion beside it"
    )
    return found(
        gate, verdict, words, statistic=p99_ms, parameters={"objective_ms": objective_ms}, observed=observed
    )
