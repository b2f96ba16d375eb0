"""A version and rows to judge it by: from its own trial, from a file or snapshot, or from the journal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np

from tidegate.adapter.parquet.export import contract_digits
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.export import export
from tidegate.bootstrap.local import Local
from tidegate.contract.batch import Batch
from tidegate.contract.infer import columns_of
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.data.admission import admit_rows
from tidegate.data.snapshot import write_snapshot
from tidegate.data.source import frame_source
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.declared import Judged
from tidegate.evaluation.recent import AT, Known, recent_rows
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import UNNAMED, RecordKind
from tidegate.operation.evaluate import Evaluated, evaluate, record_evaluation
from tidegate.operation.key import new_key
from tidegate.operation.rows import load_rows
from tidegate.operation.run import find_run
from tidegate.operation.version import show_version
from tidegate.predictor.protocol import BuildContext, build
from tidegate.registry.version import Version, parse_version_label
from tidegate.service.manifest import Manifest
from tidegate.training.held_out import HeldOut, read_answers, read_held_out, read_rows, seen_before

_US_PER_MINUTE = 60_000_000
_REFITTED = (
    "The figures are of the model that was tried; robustness, rules and importance are of the registered "
    "one, which was fitted on these rows too."
)
_NO_INPUTS = "Inputs: they are not all in the journal any more, or some were of another contract."

Model = Callable[[Batch], Batch]


def evaluate_version(
    local: Local,
    label: str,
    *,
    data: str | None = None,
    recent_us: int | None = None,
    target: str | None = None,
    every_us: int | None = None,
    seed: int = 0,
    key: str | None = None,
) -> Evaluated:
    """Measure a version, and keep the report.

    Args:
        local: The home.
        label: `service@number`, or `service` for the latest.
        data: A data file or snapshot of rows with what came true; None: the rows of the version's trial.
        recent_us: Instead: the answers of the last so many microseconds whose outcome is known.
        target: What came true: a column, or the outcome's name; as declared if None.
        every_us: Length of the stretches of time that are measured apart.
        seed: Of halves, shuffles and bootstraps.
        key: Idempotency key; a fresh one if None.

    Raises:
        NotFound: There is no such version, or there are no rows.
        ContractViolation: None of the rows is what the contract allows.
        TidegateError: The rows cannot be used, or the model cannot be built.
    """
    version, manifest = find_version(local, label)
    with model_of(local, manifest) as model:
        if recent_us is not None:
            found = _by_outcomes(
                local, version, manifest, model, recent_us, target=target, every_us=every_us, seed=seed
            )
        elif data is not None:
            found = _by_rows(
                local, version, manifest, model, data, target=target, every_us=every_us, seed=seed
            )
        else:
            found = _by_trial(local, version, manifest, model, every_us=every_us, seed=seed)
    return record_evaluation(
        local.unit,
        local.artifacts,
        found,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    )


def find_version(local: Local, label: str) -> tuple[Version, Manifest]:
    """Return a registered version and its manifest: `service@number`, or `service` for the latest.

    Raises:
        NotFound: There is none.
    """
    name, number = parse_version_label(label) if "@" in label else (label, None)
    version = show_version(local.unit, name, number=number)
    return version, Manifest.from_json(local.artifacts.read_bytes(version.manifest))


@contextmanager
def model_of(local: Local, manifest: Manifest) -> Iterator[Model]:
    """Build a version's model for the length of a block.

    Raises:
        LoadError: It cannot be built.
        MissingExtra: Its library is not installed.
    """
    predictor = build(manifest.predictor, BuildContext(manifest.contract, local.artifacts.open), BUILDERS)
    try:
        yield predictor.predict
    finally:
        predictor.close()


def find_trial(local: Local, version: Version) -> HeldOut | None:
    """Return what was kept of the trial that a version came of; None without one."""
    try:
        run = find_run(local.unit, local.artifacts, version.label).run
    except NotFound:
        return None
    kept = run.artifacts.get("held_out")
    return None if kept is None else read_held_out(local.artifacts, kept)


def _by_trial(
    local: Local, version: Version, manifest: Manifest, model: Model, *, every_us: int | None, seed: int
) -> Evaluated:
    held_out = find_trial(local, version)
    if held_out is None:
        raise NotFound(
            f"No rows are kept of {version.label}: it was registered without a run, or its trainer returned "
            "no tg.Trial.",
            hint="Name some with --data, or --recent for what was answered.",
        )
    history = None
    if (manifest.evaluation or Evaluation()).task == "forecast":
        history = read_rows(local.artifacts, held_out.train)[held_out.target]
    notes = [_REFITTED] if held_out.refitted else []
    judged = Judged(
        columns=read_rows(local.artifacts, held_out.test),
        target=held_out.target,
        predicted=read_answers(local.artifacts, held_out),
        model=model,
        history=history,
        evaluated_at_us=local.clock.wall_us(),
        every_us=every_us,
    )
    return evaluate(
        version, manifest, judged, source="test rows of its trial", seed=seed, rows=held_out.test, notes=notes
    )


def _by_rows(
    local: Local,
    version: Version,
    manifest: Manifest,
    model: Model,
    data: str,
    *,
    target: str | None,
    every_us: int | None,
    seed: int,
) -> Evaluated:
    rows = load_rows(local.unit, local.artifacts, data)
    admitted = admit_rows(rows.table, manifest.contract.input, name=rows.name)
    snapshot, notes = rows.snapshot, [*admitted.notes]
    is_sensitive = any(field.sensitive for field in manifest.contract.input.fields)
    if snapshot is None and not is_sensitive:  # what was measured can be measured again
        snapshot = write_snapshot(frame_source(rows.table, name=rows.name), local.artifacts).digest
    held_out = find_trial(local, version)
    goal = (
        target
        or (manifest.evaluation or Evaluation()).target
        or ("" if held_out is None else held_out.target)
    )
    history = None
    if held_out is not None:
        known = [held_out.train, *([held_out.test] if held_out.refitted else ())]
        if snapshot is not None:
            seen = float(seen_before(local.artifacts, snapshot, known)[admitted.kept].mean())
            if seen > 0.01:
                notes.append(
                    f"{seen:.1%} of these rows stand among those that the model was fitted on: the figures "
                    "are too good."
                )
        if (manifest.evaluation or Evaluation()).task == "forecast":
            history = read_rows(local.artifacts, held_out.train)[held_out.target]
    judged = Judged(
        columns=columns_of(admitted.table),
        target=goal,
        model=model,
        history=history,
        evaluated_at_us=local.clock.wall_us(),
        every_us=every_us,
    )
    return evaluate(version, manifest, judged, source=rows.name, seed=seed, rows=snapshot, notes=notes)


def _by_outcomes(
    local: Local,
    version: Version,
    manifest: Manifest,
    model: Model,
    recent_us: int,
    *,
    target: str | None,
    every_us: int | None,
    seed: int,
) -> Evaluated:
    declared = manifest.evaluation or Evaluation()
    held_out = find_trial(local, version)
    goal = target or declared.target or ("" if held_out is None else held_out.target)
    if not goal:
        raise InvalidSetting(
            f"Nothing says which outcome {version.label} is judged by.",
            hint="Name it with --target, or declare tg.Evaluation(target=...).",
        )
    now_us = local.clock.wall_us()
    known = _known(local, version, goal, since_us=now_us - recent_us)
    field = declared.judged(manifest.contract)
    with tempfile.TemporaryDirectory(prefix="tidegate-recent-") as folder:
        since_us = min((each.at_us for each in known), default=now_us)
        files = export(local.home, Path(folder), service=version.service, since_us=since_us).files
        # another contract's inputs are not its own
        own_digits = contract_digits(manifest.contract.fingerprint)
        paths = [file.path for file in files if file.contract == own_digits]
        rows = recent_rows(known, paths, target=goal, output=field.name, version=version.number)
    columns = rows.columns
    # What a record says of time is the arrival; where the event has its own, that is the age.
    own = declared.event_time if declared.event_time in columns else AT
    manifest = msgspec.structs.replace(manifest, evaluation=msgspec.structs.replace(declared, event_time=own))
    judged = Judged(
        columns=columns,
        target=goal,
        predicted=np.asarray(rows.answers),
        model=model if rows.has_inputs else None,
        evaluated_at_us=now_us,
        every_us=every_us,
    )
    notes = [] if rows.has_inputs else [_NO_INPUTS]
    source = f"outcomes {goal!r} of the last {recent_us / 86_400_000_000:g} days"
    return evaluate(version, manifest, judged, source=source, seed=seed, notes=notes)


def _known(local: Local, version: Version, target: str, *, since_us: int) -> list[Known]:
    """Return a version's answers since then whose outcome is known, each once; a shadow's are its own.

    An outcome without a name stands for the named one, as it does for the monitors.
    """
    if not local.home.ledger.exists():
        raise NotFound(
            f"There is no ledger at {local.home.ledger}.",
            hint="The controller makes it; has `tidegate up` run in this home?",
        )
    found: dict[str, Known] = {}
    names: set[str] = set()
    with closing(Ledger(local.home.ledger, read_only=True)) as ledger:
        for each in ledger.joined(version.service, version=version.number, name=target, unnamed=True):
            at_us = each.minute * _US_PER_MINUTE
            is_answer = each.kind in (RecordKind.PREDICTION, RecordKind.SHADOW)
            if is_answer and at_us >= since_us - _US_PER_MINUTE:
                found[each.prediction_id] = Known(each.prediction_id, at_us, each.outputs, each.value)
        if not found:
            names = {each.name for each in ledger.joined(version.service, version=version.number)}
    if not found:
        raise _unknown(version, target, names)
    return list(found.values())


def _unknown(version: Version, target: str, names: set[str]) -> NotFound:
    """Say that no outcome is known, and which ones are."""
    if names & {target, UNNAMED}:
        return NotFound(
            f"No outcome {target!r} is known of any answer of {version.label} in that time.",
            hint="Those that are known are of earlier answers: look further back with --recent.",
        )
    hint = "Outcomes are reported to POST /services/{name}/outcomes."
    if names:
        hint = f"Its outcomes are called {', '.join(map(repr, sorted(names)))}: name one with --target."
    return NotFound(f"No outcome {target!r} is known of any answer of {version.label}.", hint=hint)
