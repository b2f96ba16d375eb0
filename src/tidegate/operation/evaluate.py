"""Measure a version on rows whose outcomes are known, and keep what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import Digest, canonical_json
from tidegate.core.error import Corrupt, InvalidSetting
from tidegate.core.principal import Principal
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.declared import Judged, assess_declared
from tidegate.evaluation.report import Report
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.store import StoredDecision
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest

KIND = "evaluation"


class Evaluated(msgspec.Struct, frozen=True):
    """What was measured of a version.

    Attributes:
        service: Name of the service.
        version: Number of the version.
        source: Where the rows came from, in words.
        rows: Snapshot of the rows, where they are kept.
        target: What came true.
        report: The figures.
        digest: Names the stored report.
    """

    service: str
    version: int
    source: str
    target: str
    report: Report
    rows: Digest | None = None
    digest: Digest | None = None


def evaluate(
    version: Version,
    manifest: Manifest,
    judged: Judged,
    *,
    source: str,
    seed: int = 0,
    rows: Digest | None = None,
    notes: Sequence[str] = (),
) -> Evaluated:
    """Measure a version by rows, as its service declares it.

    Args:
        version: The version.
        manifest: What it is.
        judged: The rows, the answers if they are known, and the model.
        source: Where the rows came from, in words.
        seed: Of halves, shuffles and bootstraps.
        rows: Snapshot of the rows.
        notes: What a reader has to know of the rows.

    Raises:
        InvalidSetting: A column is missing, or the declaration does not fit.
        NotMeasurable: The rows are too few, or hold no outcome.
    """
    declared = manifest.evaluation or Evaluation()
    target = judged.target or declared.target
    if not target:
        raise InvalidSetting(
            f"Nothing says which column holds what came true of {version.label}.",
            hint="Name it with --target, or declare tg.Evaluation(target=...).",
        )
    report = assess_declared(
        manifest.contract,
        declared,
        msgspec.structs.replace(judged, target=target),
        rng=np.random.default_rng(seed),
    )
    report = msgspec.structs.replace(report, notes=(*report.notes, *notes))
    return Evaluated(version.service, version.number, source, target, report, rows)


def record_evaluation(
    unit: UnitOfWork,
    artifacts: ArtifactStore,
    found: Evaluated,
    *,
    principal: Principal,
    key: str,
    clock: Clock,
) -> Evaluated:
    """Store a report and list it among the version's decisions.

    It says what was measured and judges nothing: that is for the gates.

    Raises:
        Conflict: The key was used for something else.
        StoreUnavailable: The database cannot be reached; the report is stored and listed nowhere.
    """
    digest = artifacts.put_bytes(canonical_json(found.report))
    figures: dict[str, Any] = {each.name: [each.value, each.low, each.high] for each in found.report.figures}
    evidence = Evidence(
        rule=KIND,
        verdict=Verdict.UNDECIDED,
        reason="measured, not judged",
        observed={
            "report": digest,
            "rows": found.rows,
            "source": found.source,
            "target": found.target,
            "n_rows": found.report.n_rows,
            "figures": figures,
        },
    )
    decision = Decision(
        kind=KIND,
        service=found.service,
        version=found.version,
        outcome="measured",
        principal=principal,
        at_us=clock.wall_us(),
        evidence=[evidence],
    )
    record_decision(unit, decision, key=key, clock=clock)
    return msgspec.structs.replace(found, digest=digest)


def list_evaluations(unit: UnitOfWork, service: str, version: int) -> list[StoredDecision]:
    """Return the evaluations of a version, oldest first."""
    return list_decisions(unit, service, kind=KIND, version=version)


def read_report(artifacts: ArtifactStore, stored: StoredDecision) -> Report:
    """Return the report of a stored evaluation.

    Raises:
        NotFound: It is no longer in the artifact store.
        Corrupt: It is damaged.
    """
    digest = Digest(stored.decision.evidence[0].observed["report"])
    try:
        return msgspec.json.decode(artifacts.read_bytes(digest), type=Report)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The report {digest} cannot be read: {error}", digest=digest) from error
