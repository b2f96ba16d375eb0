"""Models from MLflow's stores into the registry, and runs from here into MLflow's stores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tidegate.adapter.mlflow.store import LoggedRun, MlflowStore, describe_onnx
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import Origin, Published, publish
from tidegate.contract.schema import Contract
from tidegate.core.error import NotFound
from tidegate.operation.run import find_run
from tidegate.registry.version import version_label
from tidegate.service.manifest import Manifest

MODEL_FOLDER = "model"
_SQLITE = "sqlite:///"


def import_model(
    local: Local,
    service: str,
    source: str,
    *,
    tracking: str,
    sample: Any = None,
    contract: Contract | None = None,
    trusted: Sequence[str] = (),
    key: str | None = None,
) -> Published:
    """Register a model of MLflow's as the next version of a service, with what its run says.

    Args:
        local: The home.
        service: Name of the service.
        source: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN_ID/PATH`, or a run's id.
        tracking: URI of the store.
        sample: Real input rows, as for `publish`.
        contract: What goes in and comes out; inferred if None.
        trusted: Of a skops file: types beyond the safe ones that it may hold.
        key: Idempotency key.

    Raises:
        MissingExtra: MLflow is not installed.
        NotFound: There is no such model, or no such store.
        InvalidSetting: It is a pickle, or of a kind that Tidegate does not take.
        TidegateError: As `publish`.
    """
    path = Path(tracking.removeprefix(_SQLITE).partition("?")[0])
    if tracking.startswith(_SQLITE) and not path.exists():  # MLflow would make one, and find nothing in it
        raise NotFound(
            f"There is no MLflow store at {path.absolute()}.",
            hint="Name its file: --tracking sqlite:///mlflow.db, or sqlite:////srv/mlflow.db.",
            path=str(path),
        )
    store = MlflowStore(tracking)
    found = store.find_model(source)
    with tempfile.TemporaryDirectory(prefix="tidegate-mlflow-") as folder:
        return publish(
            local,
            service,
            store.fetch(found, Path(folder)),
            sample=sample,
            contract=contract,
            trusted=trusted,
            origin=Origin(
                parameters=dict(found.parameters),
                metrics=dict(found.metrics),
                changelog=f"from MLflow: {found.name}" + (f", run {found.run_id}" if found.run_id else ""),
            ),
            key=key,
        )


def export_run(local: Local, name: str, *, tracking: str, experiment: str | None = None) -> LoggedRun:
    """Write a run into MLflow's store: parameters, metrics, tags, the record itself, and the model.

    A graph is written so that MLflow knows it as an ONNX model; any other model as its file.

    Args:
        local: The home.
        name: The first digits of the run's digest, or its version.
        tracking: URI of the store.
        experiment: Name of the experiment; the service's name if None.

    Raises:
        MissingExtra: MLflow is not installed.
        NotFound: There is no such run.
        MlflowUnavailable: The store cannot be reached, or refuses.
    """
    store = MlflowStore(tracking)
    listed = find_run(local.unit, local.artifacts, name)
    run = listed.run
    tags = {
        "tidegate.service": run.service,
        "tidegate.source": run.source.digest,
        "tidegate.seed": str(run.seed),
        "tidegate.packages": run.packages.digest,
        "mlflow.user": run.who,
    }
    optional = {
        "tidegate.version": None if listed.version is None else version_label(run.service, listed.version),
        "tidegate.data": run.data.trained_on or run.data.digest,
        "tidegate.snapshot": run.data.snapshot,
        "mlflow.source.git.commit": run.revision,
    }
    tags |= {key: value for key, value in optional.items() if value is not None}
    metrics = {**run.metrics, "fit_s": run.fit_s, "rows_per_s": run.rows_per_s}
    with tempfile.TemporaryDirectory(prefix="tidegate-mlflow-") as folder:
        files = _files(local, Path(folder), listed.digest, run.to_json(), run.artifacts.get("manifest"))
        return store.log_run(
            experiment=experiment or run.service,
            name=tags.get("tidegate.version", run.service),
            digest=listed.digest,
            started_at_us=run.started_at_us,
            parameters={**run.given, **run.used},
            metrics=metrics,
            tags=tags,
            files=files,
        )


def _files(local: Local, folder: Path, digest: str, record: bytes, manifest: Any) -> dict[str, Path]:
    """Return what is written beside figures: the record, and the model's files."""
    told = folder / "run.json"
    told.write_bytes(msgspec.json.format(record, indent=2))
    files = {"tidegate/run.json": told}
    if manifest is None:
        return files
    spec = Manifest.from_json(local.artifacts.read_bytes(manifest)).predictor
    if spec.artifact is None:
        return files
    stored = local.artifacts.open(spec.artifact)
    if stored.is_dir():
        parts = sorted(path for path in stored.rglob("*") if path.is_file())
        return files | {f"{MODEL_FOLDER}/{path.relative_to(stored).as_posix()}": path for path in parts}
    ending = {"onnx": ".onnx", "lightgbm": ".txt", "xgboost": ".ubj", "skops": ".skops"}.get(
        spec.kind, ".bin"
    )
    model = folder / f"model{ending}"
    model.write_bytes(stored.read_bytes())
    files[f"{MODEL_FOLDER}/{model.name}"] = model
    if spec.kind == "onnx":
        card = folder / "MLmodel"
        card.write_text(describe_onnx(model, run=digest, at=datetime.now(UTC).isoformat()), encoding="utf-8")
        files[f"{MODEL_FOLDER}/MLmodel"] = card
    return files
