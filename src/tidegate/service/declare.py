"""`tg.Service`: where a person writes down what a service is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.contract import objective
from tidegate.contract.declare import Input, Output, contract_of
from tidegate.contract.objective import Limits
from tidegate.contract.placement import Placement
from tidegate.contract.schema import Contract, DataType
from tidegate.core.declared import check_types, typed
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.core.identifier import check_name
from tidegate.evaluation.declaration import Evaluation
from tidegate.feature.definition import merged_contract
from tidegate.feature.view import FeatureView, Policy
from tidegate.gate.declaration import Gates
from tidegate.journal.record import JournalMode
from tidegate.monitoring.declaration import Monitoring
from tidegate.predictor.remote import RemoteOptions, split_url
from tidegate.registry.card import Card
from tidegate.release.declaration import Experiment
from tidegate.release.plan import Plan
from tidegate.training.trial import Trial

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class TrainerFailed(TidegateError):
    """A trainer raised; the cause is chained, with the traceback of the trainer's own code."""

    code = "trainer_failed"


def duration_s(text: str | float) -> float:
    """Return a duration such as `90s`, `15m`, `6h`, `1d` or `2w` in seconds; a number is seconds.

    Raises:
        InvalidSetting: It has another form.
    """
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.match(text.strip())
    if match is None:
        raise InvalidSetting(
            f"{text!r} is not a duration.", hint="Write for example '90s', '15m', '6h', '1d', '2w'."
        )
    return float(match[1]) * _UNIT_S[match[2]]


@typed
def Objectives(  # noqa: N802 - reads as the class it makes
    *,
    latency_p99_ms: float | None = None,
    availability: float | None = None,
    outcome_within: str | float | None = None,
    tolerance: Mapping[str, float] | None = None,
) -> objective.Objectives:
    """Declare service levels.

    Args:
        latency_p99_ms: 99th percentile of service time, milliseconds, above 0.
        availability: Share of requests answered well, in (0, 1).
        outcome_within: Horizon of outcomes: seconds, or text such as `1d`.
        tolerance: Numeric output field -> difference between two versions' answers that means nothing,
            in the field's unit. A field that is not named has a twentieth of its range, or without a
            range a twentieth of the larger value.

    Raises:
        InvalidSetting: A value is out of its range.
    """
    horizon_s = None if outcome_within is None else duration_s(outcome_within)
    return objective.Objectives(latency_p99_ms, availability, horizon_s, dict(tolerance or {}))


@typed
def Cache(  # noqa: N802 - reads as the class it makes
    ttl: str | float, *, max_mb: float = 64
) -> objective.Cache:
    """Declare that answers are kept for a while.

    Args:
        ttl: How long an answer may be given again: seconds, or text such as `60s`.
        max_mb: What the kept answers of one version may take in one worker, in units of 2^20 bytes.

    Raises:
        InvalidSetting: A value is not above 0.
    """
    return objective.Cache(duration_s(ttl), int(max_mb * (1 << 20)))


@typed
def Remote(  # noqa: N802 - reads as the class it makes
    url: str, *, model: str, version: str = "", timeout: str | float = 10.0, hedge: bool = False
) -> RemoteOptions:
    """Name a model that another server runs, asked by the Open Inference Protocol.

    A trainer returns it as `tg.Trained(model=tg.Remote(...))`. Only what is declared here is ever asked:
    no address comes from a caller, and redirects are not followed.

    Args:
        url: Where the server is, such as `https://models.example:8443`.
        model: What it calls the model.
        version: Which version of it; "" for the server's choice.
        timeout: Longest time that one call may take: seconds, or text such as `5s`.
        hedge: Ask a second time where the first ask takes longer than most; the first answer wins.
            Not for a service with side effects.

    Raises:
        InvalidSetting: It is not the address of a server.
    """
    split_url(url)
    return RemoteOptions(url, model, version, duration_s(timeout), hedge)


@dataclass(frozen=True)
class Lookup:
    """Answer from a table by exact match.

    Attributes:
        by: Input fields that together select a row.
        table: Name of a table that the trainer returns in `Trained.tables`.
        default: Outputs for a combination that the table does not have. None: the table itself
            supplies the mean of its numeric outputs.
    """

    by: Sequence[str]
    table: str
    default: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Constant:
    """Answer the same to everything.

    Attributes:
        outputs: One value for each output field.
    """

    outputs: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Rule:
    """Answer by an expression over the input fields for each output field.

    Attributes:
        outputs: Output field -> expression, for example `{"p_late": "0.2 + 0.1 * (origin == 'EWR')"}`.
    """

    outputs: Mapping[str, str]

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Cheaper:
    """Answer by a simpler model, which runs in the workers: one whose call is short.

    Attributes:
        model: Name of a model that the trainer returns in `Trained.models`.
    """

    model: str

    def __post_init__(self) -> None:
        check_types(self)


Fallback = Lookup | Constant | Rule | Cheaper


@dataclass(frozen=True)
class Trained:
    """What a trainer returns.

    Attributes:
        model: A fitted model of a supported kind, a path to a model file, or `tg.Remote`.
        sample: Real input rows (data frame or array): parity and check inputs are taken from it.
        metrics: Figures to keep with the version.
        parameters: Parameters that were used.
        tables: Data frames that fallbacks name.
        models: Simpler fitted models that fallbacks name.
        data_digest: Digest of the data it was trained on.
        notes: One line for the changelog.
        trial: The model on rows that it was not fitted on: baselines are fitted and compared on them.
    """

    model: Any
    sample: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    data_digest: str | None = None
    notes: str = ""
    trial: Trial | None = None


Trainer = Callable[[Any, Mapping[str, Any]], Trained]


class Service:
    """A named promise: contract, objectives, and what happens when the model cannot answer."""

    @typed
    def __init__(
        self,
        name: str,
        *,
        input: type[Input],
        output: type[Output],
        key: str | None = None,
        objectives: objective.Objectives | None = None,
        fallback: Fallback | Sequence[Fallback] = (),
        journal: str = "available",
        limits: Limits | None = None,
        evaluation: Evaluation | None = None,
        gates: Gates | None = None,
        card: Card | None = None,
        features: Sequence[FeatureView] = (),
        placement: Placement | None = None,
        monitoring: Monitoring | None = None,
        plan: Plan | None = None,
        experiment: Experiment | None = None,
        cache: objective.Cache | None = None,
        side_effects: bool = False,
    ) -> None:
        """Declare a service.

        Args:
            name: 1 to 63 letters, digits, '-', '_' and '.'.
            input: Class that lists the input fields.
            output: Class that lists the output fields.
            key: Input field whom traffic sticks to (a customer, an aircraft).
            objectives: Service levels.
            fallback: Who answers when the model cannot, in order.
            journal: `available`, `required` or `durable`; see the journal's documentation.
            limits: Bounds on requests.
            evaluation: How its answers are judged: costs, protected attributes, rules.
            gates: What a version must show before it gets traffic.
            card: The parts of the model card that only a person can write.
            features: Views that are read by fields of the request; the model gets their features
                after the request's fields, callers do not send them.
            placement: Where its model runs, and what it may take there.
            monitoring: How closely it is watched: budget of false alarms, tolerated loss, owner.
            plan: What a release of a version goes through; the default plan if None.
            experiment: What experiments measure, and the shares of their arms.
            cache: How long answers are kept for others who send the same; None: they are not.
            side_effects: Whether a prediction does something beside answering, so that it must neither
                be answered from a cache nor asked for twice.

        Raises:
            InvalidSetting: A declaration contradicts itself; the message names it.
        """
        self.name = check_name("service", name)
        self.features = tuple(features)
        self.request: Contract = contract_of(input, output, key=key)
        self.contract: Contract = merged_contract(self.request, [view.plan for view in self.features])
        self.objectives = objectives or objective.Objectives()
        self.limits = limits or Limits()
        self.placement = placement or Placement()
        self.evaluation = None if evaluation is None else evaluation.checked(self.contract)
        self.gates = None if gates is None else gates.checked()
        self.card = card
        self.plan = None if plan is None else plan.checked()
        if self.plan is not None:
            self.plan.check_outputs(self.contract.output.names)
        outputs = self.contract.output.names
        self.experiment = None if experiment is None else experiment.checked(outputs)
        self.monitoring = None if monitoring is None else monitoring.checked(self.contract)
        self.fallback: tuple[Fallback, ...] = (
            (fallback,) if isinstance(fallback, Fallback) else tuple(fallback)
        )
        self.journal = _journal_mode(name, journal)
        self.cache = cache
        self.side_effects = side_effects
        self._check_fallbacks()
        self._check_names()
        self._check_features()
        self._check_cache()
        self._trainer: Trainer | None = None

    def trainer(self, function: Trainer) -> Trainer:
        """Register the function that trains this service's model; use as a decorator.

        Raises:
            InvalidSetting: The service has a trainer already.
        """
        if self._trainer is not None:
            raise InvalidSetting(
                f"Service {self.name!r} has two trainers.", hint="Keep one @service.trainer."
            )
        self._trainer = function
        return function

    def train(self, data: Any, params: Mapping[str, Any]) -> Trained:
        """Call the trainer.

        Raises:
            InvalidSetting: There is none, or it returned something other than `Trained`.
            TrainerFailed: It raised.
        """
        if self._trainer is None:
            raise InvalidSetting(
                f"Service {self.name!r} has no trainer.",
                hint="Decorate a function (data, params) -> tg.Trained with @service.trainer.",
            )
        try:
            trained = self._trainer(data, params)
        except TidegateError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a person's code raises
            raise TrainerFailed(
                f"The trainer of service {self.name!r} raised {type(error).__name__}: {error}",
                service=self.name,
            ) from error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        if not isinstance(trained, Trained):
            raise InvalidSetting(
                f"The trainer of service {self.name!r} returned {type(trained).__name__}, "
                "expected tg.Trained.",
                hint="return tg.Trained(model=model, sample=X)",
            )
        return trained

    def _check_names(self) -> None:
        """Refuse names that no field has: what is said of them would be in force nowhere."""
        numbers = [
            field.name
            for field in self.contract.output.fields
            if not field.type.is_text and field.type not in (DataType.BOOL, DataType.BYTES)
        ]
        leaks = self.gates.known_leaks if self.gates is not None else ()
        for what, names, known in (
            ("Objectives(tolerance=...)", self.objectives.tolerance, numbers),
            ("Gates(known_leaks=...)", leaks, self.contract.input.names),
        ):
            for name in names:
                if name not in known:
                    raise InvalidSetting(
                        f"tg.{what} of service {self.name!r} names {name!r}, which is none of its "
                        f"{'numeric outputs' if known is numbers else 'inputs'}.",
                        hint=f"It has: {', '.join(known)}.",
                        field=name,
                    )

    def _check_features(self) -> None:
        if self.features and self.cache is not None:
            raise InvalidSetting(
                f"Service {self.name!r} declares features and a cache of answers: an answer would be kept "
                "while its features change.",
                hint="Leave one of them out.",
            )
        for view in self.features:
            if not self.fallback and Policy.FALLBACK in (view.missing, view.stale):
                raise InvalidSetting(
                    f"View {view.name!r} of service {self.name!r} falls back, and no fallback is declared.",
                    hint="Declare one, as in fallback=tg.Constant({...}), or another policy.",
                    view=view.name,
                )

    def _check_cache(self) -> None:
        if self.cache is not None and self.side_effects:
            raise InvalidSetting(
                f"Service {self.name!r} has side effects and declares a cache.",
                hint="Declare no cache: an answer that was kept does nothing but answer.",
            )

    def _check_fallbacks(self) -> None:
        for fallback in self.fallback:
            if isinstance(fallback, Cheaper):
                continue
            known, names = (
                (self.contract.input.names, fallback.by)
                if isinstance(fallback, Lookup)
                else (self.contract.output.names, fallback.outputs)
            )
            for name in names:
                if name not in known:
                    raise InvalidSetting(
                        f"A fallback of service {self.name!r} names the field {name!r}, which the "
                        "contract lacks.",
                        hint=f"Known fields: {', '.join(known)}.",
                        field=name,
                    )


def _journal_mode(service: str, mode: str) -> JournalMode:
    try:
        return JournalMode(mode)
    except ValueError:
        raise InvalidSetting(
            f"Service {service!r} declares journal={mode!r}.",
            hint=f"Use one of: {', '.join(mode.value for mode in JournalMode)}.",
        ) from None
