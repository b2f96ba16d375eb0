"""Simple models beside a candidate, on the same rows: one that cannot beat them is not worth its keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Estimate, resampled
from tidegate.training.design import Design, as_floats
from tidegate.training.linear import fit_linear, fit_logistic, probability
from tidegate.training.trial import Trial

Floats = npt.NDArray[np.float64]
Answer = Callable[[Mapping[str, Column]], Floats]

_LEAST_PROBABILITY = 1e-15
_MIN_UNITS = 10
"""From fewer rows or groups no interval is drawn: a bootstrap of a handful is too sure of itself."""

_MAX_LINEAR_ROWS = 100_000
"""A hundred coefficients are as well known from this many rows as from more, and memory stays small."""


class Baseline(msgspec.Struct, frozen=True, omit_defaults=True):
    """A simple model and by how much the candidate beats it.

    Attributes:
        name: `constant`, `lookup` or `linear`.
        loss: Its mean loss on the test rows.
        gain: Its mean loss less the candidate's, with a paired bootstrap interval: above 0 where the
            candidate is better.
        by: Key fields of a lookup.
    """

    name: str
    loss: float
    gain: Estimate
    by: tuple[str, ...] = ()

    @property
    def beaten(self) -> bool:
        """The interval of the gain lies above 0."""
        return self.gain.low is not None and self.gain.low > 0


class Comparison(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate beside its baselines, on the same test rows.

    Attributes:
        measure: `log_loss` (nats) for a target of 0 and 1, `squared_error` (the target's unit, squared)
            for numbers.
        n_train: Rows that all were fitted on.
        n_test: Rows that all were asked about.
        loss: The candidate's mean loss.
        baselines: Constant, lookup by the declared fallback's keys if one is declared, linear.
        n_groups: Groups that were drawn whole for the intervals; None where rows were.
    """

    measure: str
    n_train: int
    n_test: int
    loss: float
    baselines: tuple[Baseline, ...]
    n_groups: int | None = None

    @property
    def beats_all(self) -> bool:
        """The candidate is better than every baseline, with intervals apart from 0."""
        return all(baseline.beaten for baseline in self.baselines)


class TrialColumns(msgspec.Struct, frozen=True):
    """A trial as columns, checked.

    Attributes:
        train: Columns of the training rows.
        test: Columns of the test rows.
        train_target: What came true, shape (n_train,).
        test_target: What came true, shape (n_test,).
        is_binary: The target is 0 or 1.
        cluster: Test rows' group, numbered from 0; None without groups.
    """

    train: dict[str, Column]
    test: dict[str, Column]
    train_target: Floats
    test_target: Floats
    is_binary: bool
    cluster: npt.NDArray[np.int64] | None

    def loss(self, predicted: Floats) -> Floats:
        """Return each test row's loss."""
        if not self.is_binary:
            return np.square(predicted - self.test_target)
        likelihood = np.where(self.test_target == 1, predicted, 1 - predicted)
        return -np.log(np.maximum(likelihood, _LEAST_PROBABILITY))


def read_trial(trial: Trial) -> TrialColumns:
    """Return a trial's columns.

    Raises:
        InvalidSetting: The target or group is missing, the target has gaps or is no number, or there are
            no rows.
    """
    train, test = columns_of(trial.train), columns_of(trial.test)
    for name, columns, part in ((trial.target, train, "train"), (trial.target, test, "test")):
        if name not in columns:
            raise InvalidSetting(f"The trial's target {name!r} is no column of its {part} rows.", field=name)
    try:
        targets = [as_floats(columns[trial.target]) for columns in (train, test)]
    except (TypeError, ValueError) as error:
        raise InvalidSetting(
            f"The trial's target {trial.target!r} is neither 0 and 1 nor a number: {error}.",
            hint="Leave the trial out for other outcomes, such as names of classes.",
        ) from error
    if not all(np.isfinite(target).all() for target in targets):
        raise InvalidSetting(
            f"The trial's target {trial.target!r} has gaps.",
            hint="Leave out rows whose outcome is not known.",
        )
    cluster = None
    if trial.group is not None:
        if trial.group not in test:
            raise InvalidSetting(f"The trial's group {trial.group!r} is no column of its test rows.")
        numbers: dict[object, int] = {}
        cluster = np.array(
            [numbers.setdefault(value, len(numbers)) for value in test[trial.group].tolist()], np.int64
        )
    is_binary = all(bool(np.isin(target, (0.0, 1.0)).all()) for target in targets)
    return TrialColumns(train, test, targets[0], targets[1], is_binary, cluster)


def candidate_answers(columns: TrialColumns, predicted: object) -> Floats:
    """Return a candidate's answers to the test rows, checked.

    Raises:
        InvalidSetting: They are not one finite number a row, or no probabilities where they should be.
    """
    values = np.asarray(predicted, dtype=np.float64)
    if values.shape != columns.test_target.shape or not np.isfinite(values).all():
        raise InvalidSetting(
            f"The trial's predicted must be {len(columns.test_target)} finite numbers, one a test row. "
            f"Got shape {values.shape}."
        )
    if columns.is_binary and not bool(((values >= 0) & (values <= 1)).all()):
        raise InvalidSetting(
            "The trial's target is 0 or 1, so its predicted must be probabilities in [0, 1]."
        )
    return values


def compare_with_baselines(
    trial: Trial, schema: Schema, *, by: Sequence[str] | None = None, seed: int = 0
) -> Comparison:
    """Fit the baselines on a trial's training rows and compare the candidate with them on its test rows.

    Args:
        trial: The trial.
        schema: Input side of the contract: what the linear model may look at.
        by: Keys of the lookup; None: there is none.
        seed: For the bootstrap.

    Raises:
        InvalidSetting: The trial does not hold together.

    Source: percentile bootstrap of paired differences; Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, chapters 13 and 16.
    """
    columns = read_trial(trial)
    predicted = candidate_answers(columns, trial.predicted)
    fitted: list[tuple[str, Answer]] = [("constant", fit_constant(columns.train_target))]
    keys = tuple(by or ())
    if keys and all(name in columns.train and name in columns.test for name in keys):
        fitted.append(("lookup", fit_lookup(columns.train, columns.train_target, keys)))
    fitted.append(
        ("linear", fit_linear_model(schema, columns.train, columns.train_target, is_binary=columns.is_binary))
    )
    losses = [columns.loss(answer(columns.test)) for _, answer in fitted]
    own = columns.loss(predicted)
    gains = gain_estimates(own, losses, cluster=columns.cluster, seed=seed)
    return Comparison(
        measure="log_loss" if columns.is_binary else "squared_error",
        n_train=len(columns.train_target),
        n_test=len(columns.test_target),
        loss=float(own.mean()),
        baselines=tuple(
            Baseline(name, float(loss.mean()), gain, keys if name == "lookup" else ())
            for (name, _), loss, gain in zip(fitted, losses, gains, strict=True)
        ),
        n_groups=None if columns.cluster is None else int(columns.cluster.max()) + 1,
    )


def gain_estimates(
    own: Floats, others: Sequence[Floats], *, cluster: npt.NDArray[np.int64] | None, seed: int
) -> tuple[Estimate, ...]:
    """Return how much more others lose than one's own model, row by row on the same rows.

    Args:
        own: The model's loss on each row, shape (n_rows,).
        others: The others' losses on the same rows.
        cluster: Which rows belong together.
        seed: For the bootstrap.

    Returns:
        Estimates of the mean difference; without an interval where there are fewer than ten rows or groups.
    """
    terms = np.column_stack([np.ones_like(own), *(loss - own for loss in others)])
    figures = {str(place): (_mean_of(place), True) for place in range(1, terms.shape[1])}
    found = resampled(terms, figures, rng=np.random.default_rng(seed), cluster=cluster)
    n_units = len(own) if cluster is None else len(np.unique(cluster))
    ends = {"low": None, "high": None, "method": ""} if n_units < _MIN_UNITS else {}
    return tuple(msgspec.structs.replace(estimate, name="gain", **ends) for estimate in found)


def fit_constant(target: Floats) -> Answer:
    """Return a model that always answers the mean."""
    mean = float(target.mean())
    return lambda columns: np.full(len(next(iter(columns.values()))), mean)


def fit_lookup(columns: Mapping[str, Column], target: Floats, by: Sequence[str]) -> Answer:
    """Return a model that answers the mean of the rows with the same keys.

    One row of the overall mean is added to each key's, so that a key seen once is not certain.
    """
    mean = float(target.mean())
    sums: dict[tuple[object, ...], list[float]] = {}
    for key, value in zip(_keys(columns, by), target.tolist(), strict=True):
        total = sums.setdefault(key, [mean, 1.0])
        total[0] += value
        total[1] += 1
    means = {key: total / count for key, (total, count) in sums.items()}
    return lambda asked: np.array([means.get(key, mean) for key in _keys(asked, by)], dtype=np.float64)


def fit_linear_model(
    schema: Schema, columns: Mapping[str, Column], target: Floats, *, is_binary: bool, seed: int = 0
) -> Answer:
    """Return a logistic model for a target of 0 and 1, else a linear one; fitted on 100,000 rows at most."""
    if len(target) > _MAX_LINEAR_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(target), _MAX_LINEAR_ROWS, replace=False))
        columns, target = {name: column[chosen] for name, column in columns.items()}, target[chosen]
    design = Design(schema, columns)
    matrix = design.matrix(columns)
    if is_binary:
        odds = fit_logistic(matrix, target)
        return lambda asked: probability(design.matrix(asked) @ odds)
    slope = fit_linear(matrix, target)
    return lambda asked: design.matrix(asked) @ slope


def _mean_of(place: int) -> Callable[[Floats], Floats]:
    return lambda sums: sums[:, place] / sums[:, 0]


def _keys(columns: Mapping[str, Column], by: Sequence[str]) -> list[tuple[object, ...]]:
    return list(zip(*(columns[name].tolist() for name in by), strict=True))
