"""A recorded run, trained again on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.prepare import prepare
from tidegate.bootstrap.folder import load_service
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.training_data import snapshot_rows
from tidegate.contract.batch import Batch
from tidegate.operation.reproduce import Answers, record_reproduction
from tidegate.operation.reproduce import reproduce as reproduce_run
from tidegate.operation.run import find_run
from tidegate.predictor.protocol import BuildContext, build
from tidegate.service.declare import Service, Trained
from tidegate.training.reproduction import Reproduction
from tidegate.training.sample import Sample, load_columns, store_columns


def reproduce(
    local: Local, name: str, *, folder: Path | None = None, data: Path | None = None
) -> Reproduction:
    """Train again what run `name` trained, compare, and note what came of it. Nothing is registered.

    Args:
        local: The home that holds the run.
        name: The first digits of the run's digest, or its version.
        folder: The service's folder, where it is no longer where it was.
        data: The data file, where it is no longer where it was.

    Raises:
        NotFound: Run, service or data are gone.
        TidegateError: The training fails.
    """
    listed = find_run(local.unit, local.artifacts, name)
    place = folder or Path(listed.run.source.folder)
    service = load_service(place, listed.run.service)
    found = reproduce_run(
        listed,
        service,
        place,
        artifacts=local.artifacts,
        examine=lambda trained, sample: _examine(service, trained, sample),
        principal=local.principal,
        clock=local.clock,
        data=data,
        load=lambda digest: snapshot_rows(local, digest),
    )
    record_reproduction(local.unit, listed, found, principal=local.principal, clock=local.clock)
    return found


def _examine(service: Service, trained: Trained, sample: Sample | None) -> Answers:
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        store = LocalArtifactStore(Path(folder))
        prepared = prepare(trained.model, trained.sample, contract=service.contract)
        spec, contract = prepared.store(store), prepared.contract
        if sample is None:
            return Answers(spec.artifact, None)
        columns = load_columns(sample.inputs)
        n_rows = len(next(iter(columns.values())))
        predictor = build(spec, BuildContext(contract, store.open), BUILDERS)
        try:
            outputs = predictor.predict(Batch(columns, n_rows))
        finally:
            predictor.close()
        return Answers(spec.artifact, store_columns({name: outputs[name] for name in contract.output.names}))
