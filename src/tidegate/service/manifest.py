"""The manifest: one version of a service as plain data, all that a worker needs to serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidegate.contract.objective import Cache, Limits, Objectives
from tidegate.contract.placement import Placement
from tidegate.contract.schema import Contract
from tidegate.contract.slicing import Slicing, slicing_of
from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Evaluation
from tidegate.feature.definition import ViewDefinition, request_contract
from tidegate.gate.declaration import Gates
from tidegate.journal.record import JournalMode
from tidegate.monitoring.declaration import Monitoring
from tidegate.predictor.protocol import Spec
from tidegate.registry.card import Card
from tidegate.release.declaration import Experiment
from tidegate.release.plan import Plan


class FallbackSpec(msgspec.Struct, frozen=True):
    """A cheaper predictor that answers when the model cannot.

    Attributes:
        name: What the answer is marked with.
        spec: How to build it. It runs in the worker: lookups, constants and rules only.
    """

    name: str
    spec: Spec


class CheckInputs(msgspec.Struct, frozen=True):
    """Rows with known answers, put through the real path before a version gets traffic.

    Attributes:
        rows: Request rows as JSON objects.
        outputs: What the model answered when it was registered, one object a row.
        tolerance: Largest absolute difference of a number that still counts as equal.
    """

    rows: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    tolerance: float = 1e-4


class NativeTensor(msgspec.Struct, frozen=True):
    """The one matrix that a model itself takes, offered beside the contract's own fields.

    Attributes:
        name: Tensor name in the model.
        fields: Contract fields that its columns are, in order.
    """

    name: str
    fields: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True):
    """One version of a service, complete and immutable; its digest is its identity.

    Attributes:
        service: Name of the service.
        contract: What goes into the model and comes out: with features, more than callers send.
        predictor: The model.
        fallback: Who answers in its place, in order.
        objectives: Declared service levels.
        limits: Bounds on requests.
        journal: What happens when the journal cannot be written.
        check_inputs: Rows with known answers; None where none were given.
        tensor_names: Contract field -> the model's own tensor name, where they differ.
        native_input: The model's own matrix, if it takes one.
        evaluation: How its answers are judged; None where nothing is declared.
        gates: What it must show before it gets traffic; None: the defaults.
        card: What a person says of it; None where nothing is written.
        explainer: The booster that the model was converted from, for explanations; None where
            `predictor` is it, or there is none.
        views: Where the features among the contract's inputs come from.
        placement: Where the model runs; None where nothing is declared.
        monitoring: How closely it is watched; None: the defaults.
        cache: How long answers are kept; None: they are not.
        side_effects: Whether a prediction does something beside answering.
        plan: What a release of it goes through; None: the default plan.
        experiment: What experiments measure; None: nothing beyond traffic.
    """

    service: str
    contract: Contract
    predictor: Spec
    fallback: tuple[FallbackSpec, ...] = ()
    objectives: Objectives = Objectives()
    limits: Limits = Limits()
    journal: JournalMode = JournalMode.AVAILABLE
    check_inputs: CheckInputs | None = None
    tensor_names: dict[str, str] = {}
    native_input: NativeTensor | None = None
    evaluation: Evaluation | None = None
    gates: Gates | None = None
    card: Card | None = None
    views: tuple[ViewDefinition, ...] = ()
    placement: Placement | None = None
    monitoring: Monitoring | None = None
    cache: Cache | None = None
    side_effects: bool = False
    plan: Plan | None = None
    experiment: Experiment | None = None
    explainer: Spec | None = None

    @property
    def request(self) -> Contract:
        """What callers send, and are answered: the contract without the features of views."""
        return request_contract(self.contract, [view.plan for view in self.views])

    def request_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return rows of the contract, such as the check inputs, as callers send them."""
        names = self.request.input.names
        return [{name: row[name] for name in names if name in row} for row in rows]

    @property
    def target(self) -> str:
        """Name of the outcome that the service is judged by; empty where none is declared."""
        return self.evaluation.target if self.evaluation is not None else ""

    @property
    def slicing(self) -> Slicing:
        """By what its records are counted apart: the declared slices, and what is protected."""
        declared = self.monitoring.slices if self.monitoring is not None else ()
        evaluation = self.evaluation or Evaluation()
        try:
            judged = evaluation.judged(self.contract).name
        except InvalidSetting:  # several outputs, none declared: traffic is counted, quality is not
            judged = ""
        return slicing_of(
            self.contract,
            [*declared, *evaluation.attributes(self.contract)],
            judged=judged,
            outcome=self.target,
        )

    @property
    def digest(self) -> Digest:
        return digest_bytes(self.to_json())

    @property
    def artifacts(self) -> tuple[Digest, ...]:
        """Digests of all files that this version needs."""
        specs = [self.predictor, *(fallback.spec for fallback in self.fallback)]
        specs += [] if self.explainer is None else [self.explainer]
        return tuple(spec.artifact for spec in specs if spec.artifact is not None)

    def to_json(self) -> bytes:
        """Return the canonical JSON form, UTF-8."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read the canonical JSON form.

        Raises:
            InvalidSetting: It is not a manifest, or its contract contradicts itself.
        """
        try:
            manifest = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise InvalidSetting(f"This is not a manifest: {error}") from error
        return msgspec.structs.replace(manifest, contract=manifest.contract.checked())


# Learnt here, once: a worker reads the manifests of several versions in threads, and msgspec's learning of a
# class is not made for that (see `tidegate.core.struct`).
_decoder = msgspec.json.Decoder(Manifest)
