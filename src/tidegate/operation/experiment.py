"""Start, show and end an experiment: several versions side by side on fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.error import TidegateError
from tidegate.core.principal import Principal
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import US_PER_MINUTE, Tally, merge
from tidegate.operation.mutation import UnitOfWork, check_key, new_key
from tidegate.operation.release import Making, Moved
from tidegate.operation.version import list_decisions, show_version
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
from tidegate.route.route import STABLE, ServiceRoute


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
    """

    name: str
    version: int
    share: float
    tally: Tally


def start(
    unit: UnitOfWork,
    cell: Cell,
    service: str,
    *,
    arms: Sequence[WantedArm],
    principal: Principal,
    clock: Clock,
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
        return start_experiment(cell, service, arms=found, principal=principal, reason=reason)

    return making.make(lambda: unit, act)


def stop(
    unit: UnitOfWork, cell: Cell, service: str, *, principal: Principal, clock: Clock, reason: str = ""
) -> Moved:
    """End an experiment, and keep the decision.

    Raises:
        TidegateError: As `release.experiment.end_experiment`.
    """
    making = Making(
        cell=cell, service=service, kind=EXPERIMENT_END, principal=principal, key=new_key(), clock=clock
    )
    making.look_up(unit)
    return making.make(
        lambda: unit, lambda: end_experiment(cell, service, principal=principal, reason=reason)
    )


def results(unit: UnitOfWork, ledger: Path, route: ServiceRoute) -> list[ArmResult]:
    """Return what each arm of the experiment that goes on has done, stable first; none without one.

    Counts begin with the minute in which it was started.
    """
    if not experiment_arms(route):
        return []
    started = list_decisions(unit, route.service, kind=EXPERIMENT)
    since = started[-1].decision.at_us // US_PER_MINUTE if started else 0
    arms = sorted((arm for arm in route.arms if arm.parts), key=lambda arm: (arm.name != STABLE, arm.name))
    counted: dict[str, Tally] = {}
    try:
        opened = Ledger(ledger, read_only=True)
    except TidegateError:  # nothing was counted yet
        opened = None
    if opened is not None:
        try:
            for arm in arms:
                found = opened.tallies(
                    route.service, arm=arm.name, kind=RecordKind.PREDICTION, since_minute=since
                )
                counted[arm.name] = merge(tally for key, tally in found if key.version == arm.version)
        finally:
            opened.close()
    return [ArmResult(arm.name, arm.version, arm.share, counted.get(arm.name, Tally())) for arm in arms]
