"""Start, show and end an experiment: several versions side by side on fixed shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import TidegateError
from tidegate.core.principal import Principal
from tidegate.journal.experiment import ArmCount, ExperimentWatch, arm_counts, counted_until_us
from tidegate.journal.ledger import Ledger
from tidegate.journal.matured import OutcomeEvent
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import US_PER_MINUTE, Tally, merge
from tidegate.operation.key import check_key, new_key
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.release import Making, Moved
from tidegate.operation.version import list_decisions, show_version
from tidegate.release.declaration import Experiment
from tidegate.release.experiment import (
    EXPERIMENT,
    EXPERIMENT_END,
    ExperimentArm,
    check_arms,
    end_experiment,
    experiment_arms,
    start_experiment,
)
from tidegate.release.readiness import Cell
from tidegate.release.step import ROUTE_CHANGED
from tidegate.route.route import STABLE, ServiceRoute
from tidegate.statistics.confseq import asymptotic, proportion
from tidegate.statistics.interval import Interval
from tidegate.statistics.srm import ALPHA as SRM_ALPHA
from tidegate.statistics.srm import log_mismatch_arms

MEASURED = "experiment-measures"
"""Rule of the evidence that says what an experiment measures."""


class WantedArm(msgspec.Struct, frozen=True):
    """An arm as a person asks for it: name, version, and share in (0, 1)."""

    name: str
    version: int
    share: float


class ArmResult(msgspec.Struct, frozen=True):
    """What an arm has done since the experiment began.

    Attributes:
        name: Of the arm.
        version: Number of the version.
        share: Part of the keys, in [0, 1].
        tally: Counts of its requests.
        count: Its keys, and what counts of them.
        rate: Interval of what counts, of a key's first answer; it holds at all times at once.
        difference: Interval of how much more that is than stable's; None of stable itself.
        verdict: `more`, `less` or `undecided`, beside stable; "" of stable itself.
    """

    name: str
    version: int
    share: float
    tally: Tally
    count: ArmCount = ArmCount()
    rate: Interval | None = None
    difference: Interval | None = None
    verdict: str = ""


class ExperimentResult(msgspec.Struct, frozen=True):
    """What an experiment has come to.

    Attributes:
        arms: Stable first.
        measured: What counts.
        horizon_s: How long outcomes take, seconds.
        until_us: Up to which arrival outcomes are counted, microseconds UTC.
        log_mismatch: Evidence that keys were not drawn as promised, in nats.
        is_valid: Whether they were, as far as can be told: if not, nothing here may be compared.
    """

    arms: list[ArmResult]
    measured: Experiment
    horizon_s: float
    until_us: int
    log_mismatch: float
    is_valid: bool


def start(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    arms: Sequence[WantedArm],
    principal: Principal,
    clock: Clock,
    measured: Experiment | None = None,
    horizon_s: float = 0.0,
    target: str = "",
    reason: str = "",
    key: str | None = None,
) -> Moved:
    """Start an experiment, and keep the decision.

    Args:
        unit: The metadata database.
        cell: Where.
        service: Name of the service.
        arms: The versions beside stable.
        principal: Who starts it.
        clock: Says when.
        measured: What counts; None: nothing beyond traffic.
        horizon_s: How long outcomes take, seconds.
        target: Name of the outcome that the service is judged by: outcomes without a name are this one.
        reason: In the principal's words.
        key: Idempotency key of the decision; a fresh one if None.

    Raises:
        NotFound: There is no such version.
        TidegateError: As `release.experiment.start_experiment`.
    """
    making = Making(
        cell=cell,
        service=service,
        kind=EXPERIMENT,
        principal=principal,
        key=new_key() if key is None else check_key(key),
        clock=clock,
    )
    done = making.look_up(unit)
    if done is not None:
        return done
    found = [
        ExperimentArm(
            arm.name,
            arm.version,
            show_version(unit, service, number=arm.version).manifest,
            arm.share,
        )
        for arm in arms
    ]
    check_arms(found)

    def act() -> Decision:
        decision = start_experiment(cell, service, arms=found, principal=principal, reason=reason)
        told = Evidence(
            rule=MEASURED,
            verdict=Verdict.UNDECIDED,
            reason="what the experiment measures",
            parameters={
                **msgspec.to_builtins(measured or Experiment()),
                "horizon_s": horizon_s,
                "target": target,
            },
        )
        return msgspec.structs.replace(decision, evidence=[*decision.evidence, told])

    return making.make(lambda: unit, act)


def stop(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    principal: Principal,
    clock: Clock,
    ledger: Path | None = None,
    reason: str = "",
) -> Moved:
    """End an experiment, and keep the decision with what it came to.

    Args:
        unit: The metadata database.
        cell: Where.
        service: Name of the service.
        principal: Who ends it.
        clock: Says when.
        ledger: The ledger's file; None keeps no result.
        reason: In the principal's words.

    Raises:
        TidegateError: As `release.experiment.end_experiment`.
    """
    making = Making(
        cell=cell, service=service, kind=EXPERIMENT_END, principal=principal, key=new_key(), clock=clock
    )
    making.look_up(unit)

    def act() -> Decision:
        route = cell.routes.read().services.get(service)
        found = None if ledger is None or route is None else results(unit, ledger, route)
        decision = end_experiment(cell, service, principal=principal, reason=reason)
        return decision if found is None else _with_result(decision, found)

    return making.make(lambda: unit, act)


def _with_result(decision: Decision, found: ExperimentResult) -> Decision:
    words = [f"{arm.name} {arm.verdict}" for arm in found.arms if arm.verdict]
    told = Evidence(
        rule="experiment-result",
        verdict=Verdict.UNDECIDED if found.is_valid else Verdict.INVALID,
        reason="; ".join(words) if found.is_valid else "keys were not drawn as promised",
        parameters=msgspec.to_builtins(found.measured),
        observed={arm.name: msgspec.to_builtins(arm.count) for arm in found.arms},
        statistic=found.log_mismatch,
    )
    return msgspec.structs.replace(decision, evidence=[*decision.evidence, told])


def running(unit: UnitOfWork, route: ServiceRoute) -> tuple[ExperimentWatch, Experiment] | None:
    """Return what is counted of the experiment that goes on, and what it measures; None without one.

    The route is changed before its decision is kept: until it is, `since_us` is 0, and nothing is counted.
    """
    if not experiment_arms(route):
        return None
    begun = next(
        (
            each
            for each in reversed(list_decisions(unit, route.service, kind=EXPERIMENT))
            if _drew(each.decision, route.salt)
        ),
        None,
    )
    told = [each for each in begun.decision.evidence if each.rule == MEASURED] if begun else []
    parameters = dict(told[0].parameters) if told else {}
    horizon_s = float(parameters.pop("horizon_s", 0.0))
    target = str(parameters.pop("target", ""))
    measured = msgspec.convert(parameters, Experiment)
    watch = ExperimentWatch(
        f"experiment-{begun.id if begun else 0}",
        route.service,
        {arm.name: arm.version for arm in route.arms if arm.parts},
        since_us=begun.decision.at_us if begun else 0,
        horizon_s=horizon_s,
        event=OutcomeEvent(
            MEASURED,
            measured.outcome,
            measured.against,
            measured.beyond,
            unnamed=target != "" and measured.outcome == target,
        ),
        number=measured.number,
    )
    return watch, measured


def _drew(decision: Decision, salt: str) -> bool:
    """Tell whether an experiment's decision is the one that drew the keys by this salt."""
    changes = [each.observed["to"] for each in decision.evidence if each.rule == ROUTE_CHANGED]
    return any(change.get("salt") == salt for change in changes)


def results(unit: UnitOfWork, ledger: Path, route: ServiceRoute) -> ExperimentResult | None:
    """Return what each arm of the experiment that goes on has done, stable first; None without one.

    Traffic is counted from the minute in which it was started.
    """
    found = running(unit, route)
    if found is None:
        return None
    watch, measured = found
    arms = sorted((arm for arm in route.arms if arm.parts), key=lambda arm: (arm.name != STABLE, arm.name))
    tallied: dict[str, Tally] = {}
    counts: dict[str, ArmCount] = {}
    until_us = watch.since_us
    try:
        opened = Ledger(ledger, read_only=True)
    except TidegateError:  # nothing was counted yet
        opened = None
    if opened is not None:
        try:
            since = watch.since_us // US_PER_MINUTE
            for arm in arms:
                rows = opened.tallies(
                    route.service, arm=arm.name, kind=RecordKind.PREDICTION, since_minute=since
                )
                tallied[arm.name] = merge(tally for key, tally in rows if key.version == arm.version)
            counts = arm_counts(opened, watch.id, watch.arms)
            until_us = counted_until_us(opened, watch.id, watch.since_us)
        finally:
            opened.close()
    log_e = log_mismatch_arms(
        [arm.share for arm in arms], [counts.get(arm.name, ArmCount()).keys for arm in arms]
    )
    told = [
        ArmResult(
            arm.name, arm.version, arm.share, tallied.get(arm.name, Tally()), counts.get(arm.name, ArmCount())
        )
        for arm in arms
    ]
    is_valid = log_e < -math.log(SRM_ALPHA)
    judged = _judge(told, measured) if measured.outcome else told
    return ExperimentResult(judged, measured, watch.horizon_s, until_us, log_e, is_valid)


def _judge(arms: list[ArmResult], measured: Experiment) -> list[ArmResult]:
    """Put intervals to each arm: all of them together miss with probability alpha at most.

    An interval of a difference follows from those of its sides, so there is one an arm.
    """
    alpha = measured.alpha / len(arms)
    rates = [_rate(arm.count, measured, alpha) for arm in arms]
    stable = rates[0]
    found = [msgspec.structs.replace(arms[0], rate=stable)]
    for arm, rate in zip(arms[1:], rates[1:], strict=True):
        difference = Interval(rate.low - stable.high, rate.high - stable.low)
        verdict = "more" if difference.low > 0 else "less" if difference.high < 0 else "undecided"
        found.append(msgspec.structs.replace(arm, rate=rate, difference=difference, verdict=verdict))
    return found


def _rate(count: ArmCount, measured: Experiment, alpha: float) -> Interval:
    if not measured.number:
        return proportion(round(count.total), count.known, alpha=alpha)
    n = count.known
    mean = count.total / n if n else 0.0
    return asymptotic(n, mean, count.squares / n - mean * mean if n else 0.0, alpha=alpha)
