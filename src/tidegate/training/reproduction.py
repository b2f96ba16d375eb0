"""Two trainings side by side: what is the same to the last bit, and what is not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidegate.core.digest import Digest
from tidegate.training.run import Run
from tidegate.training.sample import StoredColumn, differing_rows


class Aspect(msgspec.Struct, frozen=True):
    """One thing that was compared.

    Attributes:
        name: `data`, `source`, `parameters`, `environment`, `metrics`, `model` or `predictions`.
        same: Whether it is the same; None where it could not be compared.
        differences: What differs, or why nothing was compared, in words.
    """

    name: str
    same: bool | None
    differences: tuple[str, ...] = ()


class Reproduction(msgspec.Struct, frozen=True):
    """A run that was trained again.

    Attributes:
        run: Digest of the run.
        aspects: What was compared.
        fit_s: Duration of the trainer this time, seconds.
    """

    run: Digest
    aspects: tuple[Aspect, ...]
    fit_s: float

    @property
    def differing(self) -> tuple[Aspect, ...]:
        """The aspects that are not the same."""
        return tuple(aspect for aspect in self.aspects if aspect.same is False)


def compare_runs(recorded: Run, again: Run) -> tuple[Aspect, ...]:
    """Compare what two trainings were given and measured."""
    return (
        _data(recorded, again),
        _aspect("source", recorded.source.differences(again.source)),
        _aspect("parameters", _values(recorded.used, again.used)),
        _aspect("environment", recorded.packages.differences(again.packages)),
        _aspect("metrics", _values(recorded.metrics, again.metrics)),
    )


def compare_model(recorded: Digest | None, again: Digest | None) -> Aspect:
    """Compare the bytes of two stored models."""
    if recorded is None or again is None:
        return Aspect("model", None, ("There are no files of the model to compare.",))
    return _aspect("model", [] if recorded == again else [f"the files were {recorded}, are {again}"])


def compare_answers(
    recorded: Mapping[str, StoredColumn] | None, again: Mapping[str, StoredColumn] | None
) -> Aspect:
    """Compare two models' answers to the same rows, bit by bit."""
    if recorded is None or again is None:
        return Aspect("predictions", None, ("The run keeps no sample: none was given, or it is sensitive.",))
    found = []
    for name in sorted(recorded.keys() | again.keys()):
        if name not in again or name not in recorded:
            found.append(f"{name} is {'gone' if name not in again else 'new'}")
            continue
        n_rows = differing_rows(recorded[name], again[name])
        if n_rows is None:
            found.append(f"{name} is of another type or length")
        elif n_rows:
            found.append(f"{name} differs in {n_rows} of {recorded[name].shape[0]} rows")
    return _aspect("predictions", found)


def _data(recorded: Run, again: Run) -> Aspect:
    pairs = [
        (name, old, new)
        for name, old, new in (
            ("the data file's digest", recorded.data.digest, again.data.digest),
            ("the rows' digest", recorded.data.trained_on, again.data.trained_on),
            ("the snapshot", recorded.data.snapshot, again.data.snapshot or recorded.data.snapshot),
        )
        if old is not None or new is not None
    ]
    if not pairs:
        hint = "The trainer says no digest of its data: return tg.Trained(data_digest=...)."
        return Aspect("data", None, (hint,))
    return _aspect("data", [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new])


def _values(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [
        f"{name} was {old.get(name, 'absent')!r}, is {new.get(name, 'absent')!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def _aspect(name: str, differences: list[str]) -> Aspect:
    return Aspect(name, not differences, tuple(differences))
