"""Explanations of predictions: a version, rows, and what each column added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec
import numpy as np

from tidegate.adapter.runtime.explain import KINDS, build_native
from tidegate.bootstrap.evaluate import Model, find_version, model_of
from tidegate.bootstrap.local import Local
from tidegate.contract.batch import Batch, Column
from tidegate.contract.decode import RowDecoder
from tidegate.contract.encode import RowEncoder
from tidegate.contract.field import Field
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.explanation import Explanation, Scale, explain_measured, explain_native
from tidegate.operation.journal import JournalView, Wanted
from tidegate.operation.rows import load_rows
from tidegate.operation.run import find_run
from tidegate.predictor.protocol import BuildContext, Spec
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest
from tidegate.training.sample import Sample, load_columns

MAX_ROWS = 1000
N_BACKGROUND = 200
"""Rows that a prediction is held against: a mean over them is known to a fourteenth of its spread."""


def explain_version(
    local: Local,
    label: str,
    *,
    data: str | None = None,
    rows: Sequence[int] = (),
    prediction_id: str | None = None,
) -> list[Explanation]:
    """Take predictions of a version apart.

    A booster says itself what each column added, as it was before it became a graph. Any other model is
    asked what it says with the values of other rows, one column at a time.

    Args:
        local: The home.
        label: `service@number`, or `service` for the latest.
        data: A data file or snapshot; None: the version's check inputs.
        rows: Numbers of the rows to explain; the first ten if none is named.
        prediction_id: Instead: a prediction in the journal, by its public id.

    Raises:
        NotFound: There is no such version, row or prediction, or no rows to compare with.
        InvalidSetting: The output is no single number, or the prediction's inputs were not kept.
        ContractViolation: The rows do not fit the contract.
    """
    version, manifest = find_version(local, label)
    contract = manifest.contract
    batch = (
        _journalled(local, manifest, prediction_id)
        if prediction_id is not None
        else _rows(local, manifest, data, rows)
    )
    field = (manifest.evaluation or Evaluation()).judged(contract)
    if field.type.is_text or len(field.shape) > 1:
        raise InvalidSetting(
            f"The output {field.name!r} is neither a number nor one number a class.",
            hint="Say which output to explain: tg.Evaluation(output=...).",
        )
    shown = _shown(contract.input, batch)
    scale: Scale = "log-odds" if field.ge == 0 and field.le == 1 else "prediction"
    with model_of(local, manifest) as model:
        spec = manifest.explainer or manifest.predictor
        if spec.kind in KINDS:
            return _native(local, manifest, spec, batch, shown, model=model, field=field, scale=scale)
        return _measured(local, version, manifest, batch, shown, model=model, field=field, scale=scale)


def _native(
    local: Local,
    manifest: Manifest,
    spec: Spec,
    batch: Batch,
    shown: list[dict[str, str]],
    *,
    model: Model,
    field: Field,
    scale: Scale,
) -> list[Explanation]:
    parts = build_native(spec, BuildContext(manifest.contract, local.artifacts.open))(batch)
    answers = model(batch)[field.name]
    classes = _classes(manifest, answers)
    return explain_native(parts, shown, answers, classes=classes, scale=scale)


def _classes(manifest: Manifest, answers: Column) -> tuple[str, ...]:
    if answers.ndim < 2:
        return ()
    declared = (manifest.evaluation or Evaluation()).classes
    beside = [field.categories for field in manifest.contract.output.fields if field.categories]
    for names in (declared, *beside):
        if len(names) == answers.shape[1]:
            return names
    return tuple(str(place) for place in range(answers.shape[1]))


def _measured(
    local: Local,
    version: Version,
    manifest: Manifest,
    batch: Batch,
    shown: list[dict[str, str]],
    *,
    model: Model,
    field: Field,
    scale: Scale,
) -> list[Explanation]:
    background = _background(local, version, manifest)
    answers = model(batch)[field.name]
    classes = _classes(manifest, answers)
    # Of several classes each row's likeliest is explained, so each row is asked about alone.
    best = answers.argmax(axis=1).tolist() if classes else [None] * batch.n_rows
    found = []
    for row, place in enumerate(best):
        one = batch.rows(row, row + 1)

        def predict(columns: Mapping[str, Column], place: Any = place) -> Column:
            given = model(Batch(dict(columns), len(next(iter(columns.values())))))[field.name]
            return given if place is None else given[:, place]

        found += explain_measured(
            predict,
            dict(one.columns),
            dict(background.columns),
            [shown[row]],
            scale=scale,
            label=classes[place] if classes and place is not None else "",
        )
    return found


def _rows(local: Local, manifest: Manifest, data: str | None, rows: Sequence[int]) -> Batch:
    schema = manifest.contract.input
    if data is None:
        checks = manifest.check_inputs
        if checks is None or not checks.rows:
            raise NotFound("The version has no check inputs to explain.", hint="Name rows with --data.")
        batch = _decoded(schema, checks.rows)
    else:
        columns = columns_of(load_rows(local.unit, local.artifacts, data).table)
        batch = Validator(schema).coerce({name: columns[name] for name in schema.names if name in columns})
    chosen = list(rows) or list(range(min(10, batch.n_rows)))
    if len(chosen) > MAX_ROWS:
        raise InvalidSetting(f"At most {MAX_ROWS} rows are explained at once. Got {len(chosen)}.")
    for row in chosen:
        if not 0 <= row < batch.n_rows:
            raise NotFound(f"There is no row {row}; there are {batch.n_rows}, counted from 0.", row=row)
    return batch.take(chosen)


def _journalled(local: Local, manifest: Manifest, prediction_id: str) -> Batch:
    schema = manifest.contract.input
    if any(field.sensitive for field in schema.fields):
        raise InvalidSetting(
            "The journal does not hold all inputs of this service: some fields are sensitive.",
            hint="Name the row with --data.",
        )
    with closing(
        JournalView(local.home.journal, Wanted(manifest.service, prediction_id=prediction_id))
    ) as view:
        record = next((each for each in view.read() if each.inputs), None)
    if record is None:
        raise NotFound(
            f"The journal holds no prediction {prediction_id!r} of {manifest.service}.", id=prediction_id
        )
    return _decoded(schema, [{name: value for name, value in record.inputs.items() if value is not None}])


def _decoded(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> Batch:
    decoder = RowDecoder(schema, max_rows=len(rows))
    decoded, _ = decoder.decode(msgspec.json.encode({"rows": rows}))
    return decoder.gather(decoded)


def _background(local: Local, version: Version, manifest: Manifest) -> Batch:
    """Return rows of the training's sample, evenly spread, or else the check inputs."""
    try:
        run = find_run(local.unit, local.artifacts, version.label).run
        kept = run.artifacts.get("sample")
    except NotFound:
        kept = None
    if kept is not None:
        columns = load_columns(Sample.from_bytes(local.artifacts.read_bytes(kept)).inputs)
        n_rows = len(next(iter(columns.values())))
        places = np.unique(np.linspace(0, n_rows - 1, min(N_BACKGROUND, n_rows)).astype(np.intp))
        return Batch(columns, n_rows).take(places)
    checks = manifest.check_inputs
    if checks is None or not checks.rows:
        raise NotFound(
            f"There are no rows to hold a prediction of {version.label} against.",
            hint="Register it with a sample.",
        )
    return _decoded(manifest.contract.input, checks.rows)


def _shown(schema: Schema, batch: Batch) -> list[dict[str, str]]:
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(RowEncoder(schema).rows(batch)))
    hidden = {field.name for field in schema.fields if field.sensitive}
    return [
        {name: "hidden" if name in hidden else _text(value) for name, value in row.items()} for row in plain
    ]


def _text(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)[:40]
