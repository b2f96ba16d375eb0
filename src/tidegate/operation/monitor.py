"""Look at what a service did: on its own history, with the monitors it declares."""

from __future__ import annotations

from datetime import date

from tidegate.core.error import InvalidSetting, NotFound
from tidegate.journal.record import UNNAMED
from tidegate.monitoring.run import Result, run
from tidegate.monitoring.subject import History, Subject, subject_of
from tidegate.operation.mutation import UnitOfWork
from tidegate.registry.artifact import ArtifactStore
from tidegate.service.manifest import Manifest

Span = tuple[date, date]


def watched_manifest(unit: UnitOfWork, artifacts: ArtifactStore, service: str) -> Manifest:
    """Return the latest version of a service, as it is watched.

    Raises:
        NotFound: No version of the service is registered.
    """
    with unit.read() as transaction:
        version = transaction.versions.latest(service)
        known = transaction.versions.services() if version is None else []
    if version is None:
        raise NotFound(
            f"No version of {service!r} is registered.",
            hint=f"Services: {', '.join(known)}." if known else "`tidegate register` adds one.",
            service=service,
        )
    return Manifest.from_json(artifacts.read_bytes(version.manifest))


def watched_subject(unit: UnitOfWork, artifacts: ArtifactStore, service: str) -> tuple[Subject, str]:
    """Return how a service is watched, as its latest version declares it, and the name of its outcome.

    Raises:
        NotFound: No version of the service is registered.
    """
    manifest = watched_manifest(unit, artifacts, service)
    subject = subject_of(
        service,
        manifest.contract,
        evaluation=manifest.evaluation,
        objectives=manifest.objectives,
        monitoring=manifest.monitoring,
    )
    return subject, manifest.target or UNNAMED


def examine(
    history: History, subject: Subject, *, over: Span | None = None, reference: Span | None = None
) -> Result:
    """Let the monitors look at a period of a service's history.

    Args:
        history: Its records.
        subject: How it is watched.
        over: First and last day; None: all days after the reference.
        reference: First and last day of what it is compared with; None: the first days of the history,
            as many as the service declares.

    Raises:
        InvalidSetting: There are no records to look at, or no reference.
    """
    if over is None:
        days = history.days()
        n_reference = 0 if reference is not None else subject.monitoring.reference_days
        rest = [day for day in days if reference is None or day > reference[1]][n_reference:]
        if not rest:
            raise InvalidSetting(
                f"Service {subject.service!r} has records of {len(days)} days; after the reference none is "
                "left to look at.",
                hint="Name both: --reference FIRST..LAST --over FIRST..LAST.",
            )
        over = rest[0], rest[-1]
    return run(history, subject, over=over, reference=reference)
