"""A run: what one training was given, where it ran, what it gave, and how long it took."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.training.baseline import Comparison
from tidegate.training.environment import Machine, PackageLock
from tidegate.training.source import Source


class DataUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of a training.

    Attributes:
        path: File that the trainer was given the rows of; None where it loads its own.
        digest: Digest of that file's bytes.
        trained_on: Digest of the rows, as the trainer says.
        n_rows: Rows, where they are known.
        in_memory: The rows were handed over in memory: they cannot be found again.
        snapshot: Snapshot that holds the rows as the trainer got them; None where there is none.
        label: The snapshot's name and number.
    """

    path: str | None = None
    digest: Digest | None = None
    trained_on: str | None = None
    n_rows: int | None = None
    in_memory: bool = False
    snapshot: Digest | None = None
    label: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One training. It is stored once, as JSON under its own digest, and never changes.

    Which version came of it is said by the decision that lists it.

    Attributes:
        service: Name of the service.
        data: What it was trained on.
        source: The code that ran.
        revision: Commit of the repository that holds the code.
        revision_changed: There were changes that the commit does not hold.
        given: Parameters that the trainer was called with.
        used: Parameters that it says it used.
        seed: What the global generators of Python and numpy were seeded with before.
        packages: Everything installed.
        machine: Where it ran.
        fit_s: Duration of the trainer, seconds.
        total_s: Duration from reading the data to the registered version, seconds.
        metrics: What the trainer measured; None stands for undefined (NaN).
        comparison: The model beside simple ones, on the rows of the trial; None without a trial.
        artifacts: `manifest`, `model`, `sample`, and `held_out` (the trial, kept): digests in the artifact
            store.
        who: Who ran it.
        started_at_us: When, microseconds UTC.
    """

    service: str
    data: DataUse
    source: Source
    revision: str | None = None
    revision_changed: bool | None = None
    given: dict[str, Any] = {}
    used: dict[str, Any] = {}
    seed: int
    packages: PackageLock
    machine: Machine
    fit_s: float
    total_s: float
    metrics: dict[str, float | None] = {}
    comparison: Comparison | None = None
    artifacts: dict[str, Digest] = {}
    who: str
    started_at_us: int

    def to_json(self) -> bytes:
        """Return the stored form."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Run:
        """Read the stored form.

        Raises:
            msgspec.MsgspecError: It is something else.
        """
        return msgspec.json.decode(data, type=cls)

    @property
    def digest(self) -> Digest:
        """The name of the run."""
        return digest_bytes(self.to_json())

    @property
    def rows_per_s(self) -> float | None:
        """Rows that the trainer got through in a second; None where their number is not known."""
        n_rows = self.data.n_rows
        return None if n_rows is None or self.fit_s <= 0 else n_rows / self.fit_s


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as they read after a round through JSON; numbers of numpy become plain ones."""
    encoded = msgspec.json.encode(
        {str(name): value for name, value in parameters.items()}, enc_hook=_plain_value
    )
    found: dict[str, Any] = msgspec.json.decode(encoded)
    return found


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return metrics as plain numbers, with None for those that are not finite.

    Raises:
        InvalidSetting: One is no number; names it.
    """
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        try:
            number = float("nan") if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise InvalidSetting(
                f"The metric {name!r} is no number; it is {type(value).__name__}.",
                hint="Return one figure a name.",
            ) from error
        found[str(name)] = number if math.isfinite(number) else None
    return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, and put them back afterwards.

    A trainer that draws from them without seeding would otherwise give another model each time.
    """
    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def _plain_value(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else repr(value)
