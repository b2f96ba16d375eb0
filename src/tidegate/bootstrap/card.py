"""A version's model card, gathered; what was never measured is measured first."""

from __future__ import annotations

from tidegate.bootstrap.evaluate import evaluate_version
from tidegate.bootstrap.local import Local
from tidegate.core.error import NotFound, TidegateError
from tidegate.evaluation.report import Report
from tidegate.operation.card import written_card
from tidegate.operation.evaluate import list_evaluations, read_report
from tidegate.operation.gate import gate_state
from tidegate.operation.run import find_run
from tidegate.operation.state import version_states
from tidegate.registry.model_card import GateLine, ModelCard, OverrideLine
from tidegate.registry.state import State
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest


def model_card(local: Local, version: Version) -> ModelCard:
    """Return the card of a version.

    Raises:
        NotFound: Something stored of it is gone.
        Corrupt: Something stored of it is damaged.
    """
    unit, artifacts = local.unit, local.artifacts
    try:
        run = find_run(unit, artifacts, version.label).run
    except NotFound:
        run = None
    report, measured_on = _report(local, version)
    gates = gate_state(unit, version.service, version.number)
    return ModelCard(
        version=version,
        state=version_states(unit, version.service).get(version.number, State()),
        written=written_card(unit, artifacts, version),
        contract=Manifest.from_json(artifacts.read_bytes(version.manifest)).contract,
        run=run,
        report=report,
        measured_on=measured_on,
        gates=tuple(
            GateLine(
                each.gate,
                (each.verdict.value if each.applies else "n/a") + (", overridden" if each.override else ""),
                each.reason,
            )
            for each in gates.findings
        ),
        gates_outcome=gates.words,
        overrides=tuple(
            OverrideLine(each.gate, each.verdict, each.by, each.at_us, each.reason)
            for each in gates.overrides
        ),
    )


def _report(local: Local, version: Version) -> tuple[Report | None, str]:
    """Return the last report on a version, made now if there is none yet and it can be."""
    found = list_evaluations(local.unit, version.service, version.number)
    if not found:
        try:
            evaluated = evaluate_version(local, version.label)
        except TidegateError as error:
            return None, error.message
        return evaluated.report, evaluated.source
    last = found[-1]
    return read_report(local.artifacts, last), str(last.decision.evidence[0].observed.get("source", ""))
