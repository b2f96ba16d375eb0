"""Call a service's trainer, and note what it was given, where it ran, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest, digest_file
from tidegate.core.error import InvalidSetting
from tidegate.core.principal import Principal
from tidegate.data.source import read_table
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.measure import Measure, measure_of
from tidegate.registry.lineage import git_revision
from tidegate.service.declare import Lookup, Service, Trained
from tidegate.training.baseline import Comparison, compare_with_baselines
from tidegate.training.environment import read_machine, read_packages
from tidegate.training.run import DataUse, Run, plain_metrics, plain_parameters, seeded
from tidegate.training.source import read_source


class SnapshotRows(NamedTuple):
    """Rows for a trainer that a snapshot holds, so that they can always be had again.

    Attributes:
        rows: The table.
        snapshot: Digest of the snapshot.
        label: Its name and number.
        path: The file that the snapshot was taken of; None where it was taken before.
        digest: Digest of that file's bytes.
    """

    rows: Any
    snapshot: Digest
    label: str
    path: Path | None = None
    digest: Digest | None = None


class Training(NamedTuple):
    """A training that has ended, before its model is registered.

    Attributes:
        trained: What the trainer returned.
        run: The record so far: without artifacts, and with the fit's duration as the total.
        began_s: When it began, by the monotonic clock.
    """

    trained: Trained
    run: Run
    began_s: float


def train(
    service: Service,
    folder: Path,
    *,
    principal: Principal,
    clock: Clock,
    data: Any = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Training:
    """Train, and describe the training.

    Args:
        service: The declaration, with its trainer.
        folder: Where it stands; its Python files are the source.
        principal: Who trains.
        clock: Says when, and how long.
        data: Rows of a snapshot, which is noted; the path of a data file, whose rows the trainer gets
            and whose digest is noted; or anything else, which the trainer gets as it is; None: it loads
            its own.
        params: Passed to the trainer.
        seed: For the global generators of Python and numpy.

    Raises:
        InvalidSetting: The service has no trainer, or it returned something other than `Trained`.
        TidegateError: The data cannot be read.
    """
    began_s, started_at_us = clock.monotonic_s(), clock.wall_us()
    # What is described here is read before the trainer runs: a file that is edited meanwhile did not run.
    source, revision, packages = read_source(folder), git_revision(folder), read_packages()
    rows, use = _rows(data)
    fit_began_s = clock.monotonic_s()
    with seeded(seed):
        trained = service.train(rows, params or {})
    fit_s = clock.monotonic_s() - fit_began_s
    run = Run(
        service=service.name,
        data=msgspec.structs.replace(use, trained_on=trained.data_digest, n_rows=_count(rows, trained)),
        source=source,
        revision=None if revision is None else revision.commit,
        revision_changed=None if revision is None else revision.changed,
        given=plain_parameters(params or {}),
        used=plain_parameters(trained.parameters),
        seed=seed,
        packages=packages,
        machine=read_machine(),
        fit_s=fit_s,
        total_s=clock.monotonic_s() - began_s,
        metrics=plain_metrics(trained.metrics),
        comparison=_compare(service, trained),
        who=principal.name,
        started_at_us=started_at_us,
    )
    return Training(trained, run, began_s)


def lookup_keys(service: Service) -> tuple[str, ...]:
    """Return the keys of the first lookup among a service's fallbacks; none without one."""
    return next((tuple(fallback.by) for fallback in service.fallback if isinstance(fallback, Lookup)), ())


def measure_by(service: Service) -> Measure | None:
    """Return by what a service's trials are measured; None where its contract does not say which output.

    Raises:
        InvalidSetting: The judged output's classes, or a ranking's lists, are not known.
    """
    declared = service.evaluation or Evaluation()
    try:
        declared.judged(service.contract)
    except InvalidSetting:
        return None  # the trial's target then says what it is
    return measure_of(service.contract, declared)


def data_digest(run: Run) -> Digest | None:
    """Return the digest for the lineage: of the rows if the trainer says it, else of file or snapshot."""
    told = run.data.trained_on
    return (run.data.digest or run.data.snapshot) if told is None else Digest(told)


def _rows(data: Any) -> tuple[Any, DataUse]:
    """Return what the trainer gets, and what is noted of it."""
    if isinstance(data, SnapshotRows):
        path = None if data.path is None else str(data.path.absolute())
        return data.rows, DataUse(path=path, digest=data.digest, snapshot=data.snapshot, label=data.label)
    if isinstance(data, Path):
        digest = digest_file(data) if data.is_file() else None
        return read_table(data), DataUse(path=str(data.absolute()), digest=digest)
    return data, DataUse(in_memory=data is not None)


def _compare(service: Service, trained: Trained) -> Comparison | None:
    if trained.trial is None:
        return None
    return compare_with_baselines(
        trained.trial, service.contract.input, measure=measure_by(service), by=lookup_keys(service)
    )


def _count(rows: Any, trained: Trained) -> int | None:
    told = plain_metrics(trained.metrics).get("n_rows")  # the trainer knows how many of the rows it used
    if told is not None:
        return int(told)
    return len(rows) if hasattr(rows, "__len__") else None
