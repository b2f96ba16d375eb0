"""From a model to a registered version: files stored, fallbacks built, check inputs answered, recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.prepare import ROW_BY_ROW, prepare
from tidegate.adapter.runtime.sample import contract_columns
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import read_settings
from tidegate.contract.encode import RowEncoder
from tidegate.contract.infer import columns_of
from tidegate.contract.objective import Cache, Limits, Objectives
from tidegate.contract.placement import Placement
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.validate import Validator
from tidegate.core.decision import Decision, Evidence
from tidegate.core.digest import Digest, canonical_json
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.evaluation.declaration import Evaluation
from tidegate.feature.definition import ViewDefinition
from tidegate.gate.declaration import Gates
from tidegate.journal.record import JournalMode
from tidegate.monitoring.declaration import Monitoring
from tidegate.operation.decide import record_decision
from tidegate.operation.key import new_key
from tidegate.operation.register import ACTION
from tidegate.operation.register import register as register_version
from tidegate.predictor.binding import Binding
from tidegate.predictor.independence import RowByRow, is_coupled_on
from tidegate.predictor.lookup import LookupOptions, Table
from tidegate.predictor.protocol import BuildContext, Spec, build
from tidegate.predictor.rule import RuleOptions
from tidegate.registry.card import Card
from tidegate.registry.lineage import collect_lineage
from tidegate.registry.version import Version
from tidegate.release.declaration import Experiment
from tidegate.release.plan import Plan
from tidegate.service.declare import Cheaper, Constant, Fallback, Lookup, Rule
from tidegate.service.manifest import CheckInputs, FallbackSpec, Manifest, NativeTensor

N_CHECK_ROWS = 16
"""Check inputs of a version: enough to meet several branches of a model, few enough to read."""

N_BESIDE_ROWS = 4
"""Of these, the rows that are asked together and alone: each is a call."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of where a model comes from.

    Attributes:
        source: The training code: a file or folder.
        data_digest: Digest of the training data.
        parameters: What the trainer was told.
        metrics: What was measured.
        changelog: One line: what is new.
    """

    source: Path | None = None
    data_digest: str | None = None
    parameters: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    changelog: str = ""


class Published(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registered version, and what was noted on the way.

    Attributes:
        version: The version.
        notes: What a person should know: conversion, largest difference, what was left out.
        run: Digest of the training's record, if it was trained here and now.
    """

    version: Version
    notes: list[str]
    run: Digest | None = None


def publish(
    local: Local,
    name: str,
    model: Any,
    *,
    sample: Any = None,
    contract: Contract | None = None,
    trusted: Sequence[str] = (),
    fallback: Sequence[Fallback] = (),
    tables: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    objectives: Objectives | None = None,
    limits: Limits | None = None,
    journal: JournalMode = JournalMode.AVAILABLE,
    evaluation: Evaluation | None = None,
    views: Sequence[ViewDefinition] = (),
    gates: Gates | None = None,
    card: Card | None = None,
    placement: Placement | None = None,
    monitoring: Monitoring | None = None,
    plan: Plan | None = None,
    experiment: Experiment | None = None,
    cache: Cache | None = None,
    side_effects: bool = False,
    origin: Origin | None = None,
    key: str | None = None,
) -> Published:
    """Register a model as the next version of a service.

    Args:
        local: The home.
        name: Name of the service.
        model: A fitted model of a supported kind, or the path of a model file.
        sample: Real input rows: data frame, mapping of columns or array. Parity and check inputs are
            taken from it.
        contract: What goes in and comes out; inferred if None.
        trusted: Of a skops file: types beyond the safe ones that it may hold.
        fallback: Who answers when the model cannot, in order.
        tables: Data frames that lookups name.
        models: Simpler models that fallbacks name, fitted or as files.
        objectives: Declared service levels.
        limits: Bounds on requests.
        journal: What happens when the journal cannot be written.
        evaluation: How its answers are judged.
        views: Where the features among the contract's inputs come from.
        gates: What it must show before it gets traffic.
        card: What a person says of it.
        placement: Where the model runs, and what it may take there.
        monitoring: How closely it is watched.
        plan: What a release of it goes through.
        experiment: What experiments measure.
        cache: How long answers are kept; None: they are not.
        side_effects: Whether a prediction does something beside answering.
        origin: Where the model comes from.
        key: Idempotency key; a fresh one if None.

    Raises:
        InvalidSetting: Contract, model, sample and fallbacks do not fit together.
        Conflict: Something else was registered under the key.
        TidegateError: The model cannot be used, or the registry cannot be reached.
    """
    before = registered_before(local, name, key)
    prepared = prepare(model, sample, contract=contract, trusted=trusted)
    contract = prepared.contract.checked()  # before anything is stored: nobody could read it back
    spec = prepared.store(local.artifacts)
    origin, key = origin or Origin(), key or new_key()
    notes = list(prepared.notes)
    tensor_names, native_input = _tensors(spec, contract)
    spec, check_inputs = _check_inputs(local, spec, contract, sample, notes)
    manifest = Manifest(
        service=name,
        contract=contract,
        predictor=spec,
        fallback=tuple(
            _cheaper_spec(local, contract, declared, models or {}, sample)
            if isinstance(declared, Cheaper)
            else _fallback_spec(local, contract, declared, tables or {})
            for declared in fallback
        ),
        objectives=objectives or Objectives(),
        limits=limits or Limits(),
        journal=journal,
        check_inputs=check_inputs,
        tensor_names=tensor_names,
        native_input=native_input,
        evaluation=evaluation,
        explainer=prepared.store_explainer(local.artifacts),
        views=tuple(views),
        gates=gates,
        card=card,
        placement=placement,
        monitoring=monitoring,
        plan=plan,
        experiment=experiment,
        cache=cache,
        side_effects=side_effects,
    )
    if before is not None:
        check_repeated(before.version, key, manifest.contract, artifacts=manifest.artifacts)
        return before
    _try_fallbacks(local, manifest)
    outcome = register_version(
        local.unit,
        local.artifacts,
        service=name,
        manifest=manifest.to_json(),
        artifacts=manifest.artifacts,
        contract=manifest.contract.fingerprint,
        principal=local.principal,
        key=key,
        clock=local.clock,
        lineage=collect_lineage(
            clock=local.clock,
            principal=local.principal,
            source=origin.source,
            data_digest=None if origin.data_digest is None else Digest(origin.data_digest),
            parameters=origin.parameters,
            metrics=origin.metrics,
        ),
        changelog=origin.changelog,
    )
    if prepared.evidence:
        _record_parity(local, outcome.result, list(prepared.evidence), key=f"{key}/parity")
    return Published(outcome.result, notes)


def registered_before(local: Local, name: str, key: str | None) -> Published | None:
    """Return the version that was registered under `key`, if one was."""
    if key is None:
        return None
    with local.unit.read() as transaction:
        mutation = transaction.mutations.find(key)
    if mutation is None or mutation.action != ACTION:
        return None  # another action's key is refused when the version is stored
    version = msgspec.json.decode(mutation.result, type=Version)
    if version.service != name:
        return None
    return Published(version, [f"{version.label} was registered under the key {key!r} before."])


def check_repeated(
    before: Version, key: str | None, contract: Contract, *, artifacts: Sequence[Digest] | None = None
) -> None:
    """Pass if what is asked for under a key is what was registered under it.

    Where it was asked, and when, may differ: whoever repeats a lost request may do so from elsewhere.

    Args:
        before: What was registered.
        key: The idempotency key.
        contract: What is asked for now.
        artifacts: Its files; None where they are not known yet.

    Raises:
        Conflict: It is something else.
    """
    differs = ["contract"] if contract.fingerprint != before.contract else []
    differs += ["model"] if artifacts is not None and set(artifacts) != set(before.artifacts) else []
    if differs:
        raise Conflict(
            f"The idempotency key {key!r} was used before, for {before.label} with another "
            f"{' and another '.join(differs)}.",
            hint="Use a new key for a new change; repeat a change with exactly what it was first asked with.",
            key=key,
        )


def _cheaper_spec(
    local: Local, contract: Contract, declared: Cheaper, models: Mapping[str, Any], sample: Any
) -> FallbackSpec:
    """Store a simpler model; it has to be one that a worker can run itself."""
    if declared.model not in models:
        raise InvalidSetting(
            f"A fallback names the model {declared.model!r}, which the trainer did not return.",
            hint=f"Return it in tg.Trained(models=...); returned were: {', '.join(models) or 'none'}.",
            model=declared.model,
        )
    prepared = prepare(models[declared.model], sample, contract=contract)
    if prepared.spec.kind != "onnx":
        raise InvalidSetting(
            f"The model {declared.model!r} is to answer in a worker, and could not become a graph.",
            hint=f"A linear model or a small forest can. {' '.join(prepared.notes)}",
            model=declared.model,
        )
    return FallbackSpec(f"model:{declared.model}", prepared.store(local.artifacts))


def _fallback_spec(
    local: Local, contract: Contract, declared: Lookup | Constant | Rule, tables: Mapping[str, Any]
) -> FallbackSpec:
    if isinstance(declared, Constant):
        constant = LookupOptions(default=dict(declared.outputs))
        return FallbackSpec("constant", Spec("constant", options=msgspec.to_builtins(constant)))
    if isinstance(declared, Rule):
        options = msgspec.to_builtins(RuleOptions(outputs=dict(declared.outputs)))
        return FallbackSpec("rule", Spec("rule", options=options))
    table, default = _lookup_table(contract, declared, tables)
    lookup = LookupOptions(levels=(tuple(declared.by),), default=default)
    digest = local.artifacts.put_bytes(canonical_json(table))
    return FallbackSpec(
        f"lookup:{declared.table}", Spec("lookup", artifact=digest, options=msgspec.to_builtins(lookup))
    )


def _lookup_table(
    contract: Contract, declared: Lookup, tables: Mapping[str, Any]
) -> tuple[Table, dict[str, Any]]:
    """Return a lookup's rows, and the row for keys that are not among them."""
    if declared.table not in tables:
        raise InvalidSetting(
            f"The fallback lookup names the table {declared.table!r}, which the trainer did not return.",
            hint=f"Return it in tg.Trained(tables=...); returned were: {', '.join(tables) or 'none'}.",
            table=declared.table,
        )
    columns = columns_of(tables[declared.table])
    names = (*declared.by, *contract.output.names)
    lacking = [name for name in names if name not in columns]
    if lacking:
        raise InvalidSetting(
            f"The table {declared.table!r} lacks the columns {', '.join(lacking)}; "
            f"it has {', '.join(columns)}.",
            table=declared.table,
        )
    rows = tuple(zip(*(columns[name].tolist() for name in names), strict=True))
    default = dict(declared.default or {})
    for field in contract.output.fields:
        if field.name not in default:
            if not field.type.is_float or field.shape:
                raise InvalidSetting(
                    f"The lookup {declared.table!r} has no default for the output {field.name!r}, and no "
                    "mean can be taken of it.",
                    hint=f"Declare tg.Lookup(..., default={{'{field.name}': ...}}).",
                    field=field.name,
                )
            default[field.name] = float(np.nanmean(columns[field.name]))
    return Table(names, rows), default


def _try_fallbacks(local: Local, manifest: Manifest) -> None:
    """Build each fallback once: one that cannot be built must not be found out in an emergency."""
    for fallback in manifest.fallback:
        build(fallback.spec, BuildContext(manifest.contract, local.artifacts.open), BUILDERS).close()


def _tensors(spec: Spec, contract: Contract) -> tuple[dict[str, str], NativeTensor | None]:
    """Return what a graph itself calls its tensors, where that is not the contract's own word for it."""
    if spec.kind != "onnx":
        return {}, None
    binding = Binding.from_options(spec.options["binding"], contract)
    matrix = next((item for item in binding.inputs if len(item.fields) > 1), None)
    whole = [(item.fields[0], item.tensor) for item in binding.inputs if len(item.fields) == 1]
    whole += [(item.field, item.tensor) for item in binding.outputs if item.index is None]
    names = {field: tensor for field, tensor in whole if field != tensor}
    return names, None if matrix is None else NativeTensor(matrix.tensor, matrix.fields)


def _record_parity(local: Local, version: Version, evidence: list[Evidence], *, key: str) -> None:
    """Keep what was found when the stored model was compared with the fitted one."""
    decision = Decision(
        kind="parity",
        service=version.service,
        version=version.number,
        outcome="passed",
        principal=local.principal,
        at_us=version.created_at_us,  # the same at a repetition, so that its key fits
        evidence=evidence,
    )
    record_decision(local.unit, decision, key=key, clock=local.clock)


def _check_inputs(
    local: Local, spec: Spec, contract: Contract, sample: Any, notes: list[str]
) -> tuple[Spec, CheckInputs | None]:
    """Return sample rows with the model's own answers to them, and the spec as these show it has to be."""
    schema = contract.input
    if sample is None:
        notes.append("No check inputs: there is no sample.")
        return spec, None
    columns = contract_columns(sample, schema)
    missing = [field.name for field in schema.fields if field.name not in columns and not field.optional]
    if missing:
        raise InvalidSetting(
            f"The sample lacks inputs of the model: {', '.join(missing)}. It has {', '.join(columns)}.",
            hint="Give rows as the model is asked, or no sample: then there are no check inputs.",
        )
    n_rows = min(N_CHECK_ROWS, len(next(iter(columns.values()))))
    rows = Validator(schema).coerce(
        {name: column[:n_rows] for name, column in columns.items() if name in schema.by_name}
    )
    predictor = build(spec, BuildContext(contract, local.artifacts.open), BUILDERS)
    try:
        judged = contract.batched and not spec.row_by_row and spec.kind != "remote"  # a server batches itself
        if judged and is_coupled_on(predictor, rows.rows(0, min(N_BESIDE_ROWS, n_rows))):
            spec = msgspec.structs.replace(spec, row_by_row=True)
            notes.append(ROW_BY_ROW)
            predictor = RowByRow(predictor)
        outputs = predictor.predict(rows)
    finally:
        predictor.close()
    output_check = Validator(contract.output)
    violations = output_check.violations(output_check.coerce(outputs.columns))
    if violations:
        raise InvalidSetting(
            f"The model's answer to its own sample breaks the contract. {violations[0].message}",
            hint="Widen the output field, or correct the model.",
        )
    if any(field.sensitive for field in schema.fields):
        notes.append("No check inputs: rows of the sample hold sensitive fields, which are not stored.")
        return spec, None
    return spec, CheckInputs(_plain(schema, rows), _plain(contract.output, outputs))


def _plain(schema: Schema, batch: Any) -> list[dict[str, Any]]:
    """Return rows as JSON objects, as they go over the wire."""
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(RowEncoder(schema).rows(batch)))
    return plain


def register(
    name: str,
    model: Any,
    *,
    sample: Any,
    contract: Contract | None = None,
    trusted: Sequence[str] = (),
    home: str | Path | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    data_digest: str | None = None,
    changelog: str = "",
    key: str | None = None,
) -> Version:
    """Register a fitted model from the process that fitted it, as the next version of a service.

    Args:
        name: Name of the service.
        model: A fitted model of a supported kind, or the path of a model file.
        sample: Real input rows: data frame, mapping of columns or array.
        contract: What goes in and comes out; inferred from model and sample if None.
        trusted: Of a skops file: types beyond the safe ones that it may hold.
        home: The home folder; as `tidegate config show` says if None.
        metrics: What was measured.
        parameters: What the training was told.
        data_digest: Digest of the training data, `sha256:...`.
        changelog: One line: what is new.
        key: Idempotency key: the same call with the same key registers once.

    Raises:
        Conflict: Another model or contract was registered under the key.
        TidegateError: The model cannot be used, or the registry cannot be reached.
    """
    settings = read_settings({"home": None if home is None else str(home)}).settings
    origin = Origin(
        data_digest=data_digest,
        parameters=dict(parameters or {}),
        metrics=dict(metrics or {}),
        changelog=changelog,
    )
    with Local(settings) as local:
        published = publish(
            local, name, model, sample=sample, contract=contract, trusted=trusted, origin=origin, key=key
        )
    return published.version
