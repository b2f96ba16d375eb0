"""Train again from what a run recorded, and say what differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import Digest
from tidegate.core.error import Corrupt, InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.operation.decide import record_decision
from tidegate.operation.key import new_key
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.run import ListedRun
from tidegate.operation.train import SnapshotRows, train
from tidegate.registry.artifact import ArtifactStore
from tidegate.service.declare import Service, Trained
from tidegate.training.reproduction import Reproduction, compare_answers, compare_model, compare_runs
from tidegate.training.run import Run
from tidegate.training.sample import Sample, StoredColumn

KIND = "reproduction"


class Answers(NamedTuple):
    """What a model that was just trained is, and says.

    Attributes:
        model: Digest of its files; None where it has none.
        outputs: Its answers to the rows it was asked about.
    """

    model: Digest | None
    outputs: dict[str, StoredColumn] | None


class Examiner(Protocol):
    """Stores a trained model as registering would, and asks it."""

    def __call__(self, trained: Trained, sample: Sample | None) -> Answers:
        """Return the model's files' digest and its answers to the inputs of `sample`."""
        ...


def reproduce(
    listed: ListedRun,
    service: Service,
    folder: Path,
    *,
    artifacts: ArtifactStore,
    examine: Examiner,
    principal: Principal,
    clock: Clock,
    data: Path | None = None,
    load: Callable[[Digest], SnapshotRows] | None = None,
) -> Reproduction:
    """Call the trainer with what a run recorded, and compare.

    Args:
        listed: The run.
        service: The declaration as it is now.
        folder: Where it stands.
        artifacts: Holds the run's sample.
        examine: Turns the trained model into answers.
        principal: Who asks.
        clock: Says how long it takes.
        data: The data file, where it is no longer where it was.
        load: Loads the rows of a snapshot.

    Raises:
        NotFound: The data file or snapshot is gone.
        InvalidSetting: The data were never a file.
        Corrupt: The stored sample is damaged.
        TidegateError: The training fails.
    """
    run = listed.run
    training = train(
        service,
        folder,
        principal=principal,
        clock=clock,
        data=_rows(run, data, load),
        params=run.given,
        seed=run.seed,
    )
    sample = _read_sample(run, artifacts)
    answers = examine(training.trained, sample)
    return Reproduction(
        listed.digest,
        (
            *compare_runs(run, training.run),
            compare_model(run.artifacts.get("model"), answers.model),
            compare_answers(None if sample is None else sample.outputs, answers.outputs),
        ),
        training.run.fit_s,
    )


def record_reproduction(
    unit: UnitOfWork, listed: ListedRun, found: Reproduction, *, principal: Principal, clock: Clock
) -> None:
    """Note that a run was trained again, and what came of it."""
    is_same = not found.differing
    evidence = Evidence(
        rule=KIND,
        verdict=Verdict.SAFE if is_same else Verdict.REGRESSED,
        reason="; ".join(f"{aspect.name} differs" for aspect in found.differing),
        observed={"run": listed.digest, "aspects": msgspec.to_builtins(found.aspects)},
    )
    decision = Decision(
        kind=KIND,
        service=listed.run.service,
        version=listed.version,
        outcome="identical" if is_same else "differs",
        principal=principal,
        at_us=clock.wall_us(),
        evidence=[evidence],
    )
    record_decision(unit, decision, key=new_key(), clock=clock)


def _rows(
    run: Run, given: Path | None, load: Callable[[Digest], SnapshotRows] | None
) -> Path | SnapshotRows | None:
    """Return the rows again: from the file that is named now, else the snapshot, else the file of then."""
    use = run.data
    if given is not None or use.snapshot is None or load is None:
        return _data_path(run, given)
    path = None if use.path is None else Path(use.path)
    return load(use.snapshot)._replace(label=use.label, path=path, digest=use.digest)


def _data_path(run: Run, given: Path | None) -> Path | None:
    if given is not None:
        return given
    if run.data.in_memory:
        raise InvalidSetting(
            "The run's rows were handed over in memory; nothing says where they are now.",
            hint="Write them to a file and name it with --data.",
        )
    if run.data.path is None:
        return None
    path = Path(run.data.path)
    if not path.is_file():
        raise NotFound(
            f"The run's data file {path} is gone.",
            hint="Name another copy of it with --data; its digest is compared.",
            path=str(path),
        )
    return path


def _read_sample(run: Run, artifacts: ArtifactStore) -> Sample | None:
    digest = run.artifacts.get("sample")
    if digest is None:
        return None
    try:
        return Sample.from_bytes(artifacts.read_bytes(digest))
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The sample {digest} cannot be read: {error}", digest=digest) from error
