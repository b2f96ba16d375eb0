"""From a service's declaration to a registered version: trained here and now, and the run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import Origin, Published, check_repeated, publish, registered_before
from tidegate.bootstrap.training_data import training_rows
from tidegate.contract.field import Role
from tidegate.contract.infer import columns_of
from tidegate.contract.placement import Placement
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.core.digest import Digest
from tidegate.evaluation.declaration import Evaluation
from tidegate.feature.definition import ViewDefinition
from tidegate.operation.key import new_key
from tidegate.operation.run import record_run
from tidegate.operation.train import Training, data_digest, train
from tidegate.predictor.protocol import BuildContext, Spec, build
from tidegate.registry.version import Version
from tidegate.service.declare import Service
from tidegate.service.manifest import Manifest
from tidegate.training.held_out import store_trial
from tidegate.training.sample import N_SAMPLE_ROWS, Sample, store_columns
from tidegate.training.trial import Trial


def publish_service(
    local: Local,
    service: Service,
    folder: Path,
    *,
    data: Any = None,
    params: Mapping[str, Any] | None = None,
    changelog: str = "",
    key: str | None = None,
    seed: int = 0,
) -> Published:
    """Train a service's model, register it, and record the run.

    Args:
        local: The home.
        service: The declaration, with its trainer.
        folder: Where it stands: the training code of the lineage.
        data: Passed to the trainer; of a path or a snapshot's name its rows, see `training_rows`.
        params: Passed to the trainer.
        changelog: One line; the trainer's notes if empty.
        key: Idempotency key; a fresh one if None.
        seed: For the global generators of Python and numpy, while the trainer runs.

    Raises:
        InvalidSetting: The service has no trainer, or what it returned does not fit its contract.
        Conflict: The key was used for something else.
        TidegateError: As `publish`.
    """
    before = registered_before(local, service.name, key)
    if before is not None:  # a training is not repeated only to find that out
        check_repeated(before.version, key, service.contract)
        return before
    key = key or new_key()
    if isinstance(data, str | Path):
        data = training_rows(local, service, data, key=f"{key}/data")
    training = train(
        service, folder, principal=local.principal, clock=local.clock, data=data, params=params, seed=seed
    )
    trained = training.trained
    published = publish(
        local,
        service.name,
        trained.model,
        sample=trained.sample,
        contract=service.contract,
        fallback=service.fallback,
        tables=trained.tables,
        models=trained.models,
        objectives=service.objectives,
        limits=service.limits,
        placement=service.placement if service.placement != Placement() else None,
        monitoring=service.monitoring,
        plan=service.plan,
        experiment=service.experiment,
        cache=service.cache,
        side_effects=service.side_effects,
        journal=service.journal,
        evaluation=service.evaluation,
        views=_definitions(local, service),
        gates=service.gates,
        card=service.card,
        origin=Origin(
            source=folder,
            data_digest=data_digest(training.run),
            parameters=dict(trained.parameters),
            metrics=dict(trained.metrics),
            changelog=changelog or trained.notes,
        ),
        key=key,
    )
    return msgspec.structs.replace(published, run=_record_run(local, training, published.version, key=key))


def _record_run(local: Local, training: Training, version: Version, *, key: str) -> Digest:
    """Complete a training's record with what was stored, and list it."""
    manifest = Manifest.from_json(local.artifacts.read_bytes(version.manifest))
    artifacts = {"manifest": version.manifest}
    if manifest.predictor.artifact is not None:
        artifacts["model"] = manifest.predictor.artifact
    context = BuildContext(manifest.contract, local.artifacts.open)
    sample = answered_sample(manifest.predictor, context, training.trained.sample)
    if sample is not None:
        artifacts["sample"] = local.artifacts.put_bytes(sample.to_bytes())
    if training.trained.trial is not None and _may_keep(manifest):
        artifacts["held_out"] = _keep_trial(local, manifest, training.trained.trial)
    run = msgspec.structs.replace(
        training.run, artifacts=artifacts, total_s=local.clock.monotonic_s() - training.began_s
    )
    return record_run(
        local.unit,
        local.artifacts,
        run,
        version=version.number,
        principal=local.principal,
        at_us=version.created_at_us,
        key=f"{key}/run",
        clock=local.clock,
    )


def _definitions(local: Local, service: Service) -> list[ViewDefinition]:
    """Return a service's views as plain data.

    Raises:
        InvalidSetting: One means something else than a registered one of the same name.
    """
    if not service.features:
        return []
    from tidegate.feature.expression import define  # brings the data frames, which other services do without
    from tidegate.operation.feature import check_meaning

    views = [define(view) for view in service.features]
    check_meaning(local.unit, local.artifacts, views)
    return views


def _may_keep(manifest: Manifest) -> bool:
    """Whether rows may be stored: those with sensitive fields only where the service says so."""
    is_sensitive = any(field.sensitive for field in manifest.contract.input.fields)
    return not is_sensitive or (manifest.gates is not None and manifest.gates.keep_sensitive)


def _keep_trial(local: Local, manifest: Manifest, trial: Trial) -> Digest:
    """Keep the rows of a trial: what later versions are compared on, and this one is judged by."""
    schema, evaluation = manifest.contract.input, manifest.evaluation or Evaluation()
    return store_trial(
        local.artifacts,
        trial,
        inputs=schema.names,
        event_time=evaluation.event_time or _event_time(schema),
        attributes=[*evaluation.attributes(manifest.contract), *_named(evaluation)],
        hidden={field.name for field in schema.fields if field.sensitive},
    )


def _named(evaluation: Evaluation) -> list[str]:
    """Return columns that the judgement needs beside inputs, what came true and attributes."""
    return [name for name in (evaluation.query, evaluation.group) if name]


def _event_time(schema: Schema) -> str | None:
    return next((field.name for field in schema.fields if Role.TIMESTAMP in field.roles), None)


def answered_sample(spec: Spec, context: BuildContext, rows: Any) -> Sample | None:
    """Return the first rows of a sample with a model's answers; None where they may not be stored.

    Raises:
        LoadError: The model cannot be built.
        PredictorError: It failed.
    """
    schema = context.contract.input
    if rows is None or any(field.sensitive for field in schema.fields):
        return None
    columns = columns_of(rows)
    if any(field.name not in columns and not field.optional for field in schema.fields):
        return None
    batch = Validator(schema).coerce(
        {name: column[:N_SAMPLE_ROWS] for name, column in columns.items() if name in schema.by_name}
    )
    predictor = build(spec, context, BUILDERS)
    try:
        outputs = predictor.predict(batch)
    finally:
        predictor.close()
    names = context.contract.output.names
    return Sample(store_columns(batch.columns), store_columns({name: outputs[name] for name in names}))
