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
from tidegate.evaluation.measure import Measure, are_events, numbered
from tidegate.training.simple import (
    Answer,
    fit_constant,
    fit_linear_model,
    fit_lookup,
    fit_seasonal,
    steps,
)
from tidegate.training.trial import Trial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SAME_ANSWERS = 0.02
"""Two models answer the same where they are this far apart: two points of probability, or a fiftieth of the
outcomes' spread (root of the mean square)."""

_N_PARTS = 5


class Baseline(msgspec.Struct, frozen=True, omit_defaults=True):
    """A simple model and by how much the candidate beats it.

    Attributes:
        name: `constant`, `lookup`, `linear`, or of a forecast `seasonal`.
        loss: Its mean loss on the test rows.
        gain: Its mean loss less the candidate's, with a paired bootstrap interval: above 0 where the
            candidate is better.
        by: Key fields of a lookup.
        same: The candidate answers as it does: it is as simple a model itself.
    """

    name: str
    loss: float
    gain: Estimate
    by: tuple[str, ...] = ()
    same: bool = False

    @property
    def beaten(self) -> bool:
        """The interval of the gain lies above 0."""
        return self.gain.low is not None and self.gain.low > 0


class Comparison(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate beside its baselines, on the same test rows.

    Attributes:
        measure: `log_loss` (nats) of probabilities, `squared_error` (the target's unit, squared) of numbers,
            `absolute_error` of forecasts, `share_wrong` of classes without probabilities, `lost_ndcg` (1 less
            the NDCG of a list) of rankings.
        n_train: Rows that all were fitted on.
        n_test: Rows that all were asked about.
        loss: The candidate's mean loss.
        baselines: Constant, lookup by the declared fallback's keys if one is declared, linear.
        n_groups: Groups that were drawn whole for the intervals; None where rows were.
        crossed: The baselines were fitted on the test rows themselves, each asked about the part that
            it was not fitted on.
    """

    measure: str
    n_train: int
    n_test: int
    loss: float
    baselines: tuple[Baseline, ...]
    n_groups: int | None = None
    crossed: bool = False

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
        measure: What an answer loses.
        cluster: Which losses belong together, numbered from 0; None without groups.
        lists: Of a ranking: the list of each test row, numbered from 0.
    """

    train: dict[str, Column]
    test: dict[str, Column]
    train_target: Floats
    test_target: Floats
    measure: Measure
    cluster: Ints | None = None
    lists: Ints | None = None

    @property
    def is_binary(self) -> bool:
        return self.measure.is_binary

    def loss(self, predicted: Floats) -> Floats:
        """Return what each test row loses; of a ranking each list."""
        return self.measure.loss(self.test_target, predicted, self.lists)


def read_trial(trial: Trial, measure: Measure | None = None) -> TrialColumns:
    """Return a trial's columns.

    Args:
        trial: The trial.
        measure: What is predicted; None: an event where the target is 0 or 1, else a number.

    Raises:
        InvalidSetting: The target, group or list is missing, the target has gaps or fits nothing that can
            be measured, or there are no rows.
    """
    train, test = columns_of(trial.train), columns_of(trial.test)
    for name, columns, part in ((trial.target, train, "train"), (trial.target, test, "test")):
        if name not in columns:
            raise InvalidSetting(f"The trial's target {name!r} is no column of its {part} rows.", field=name)
        if any(value is None or value != value for value in columns[name].tolist()):  # noqa: PLR0124 - NaN
            raise InvalidSetting(
                f"The trial's target {name!r} has gaps.",
                hint="Leave out rows whose outcome is not known.",
            )
    known = measure or Measure(task="binary")
    targets = [known.outcomes(columns[trial.target], name=trial.target) for columns in (train, test)]
    if not all(np.isfinite(target).all() for target in targets):
        raise InvalidSetting(f"The trial's target {trial.target!r} holds what is no finite number.")
    if measure is None:
        measure = known if are_events(*targets) else Measure(task="regression")
    else:
        measure = measure.fitting(*targets)
    if not all(map(len, targets)):
        raise InvalidSetting("The trial has no training rows, or no test rows.")
    lists = None
    if measure.task == "ranking":
        lists = _lists(measure, test, targets[1])
    cluster = None
    if trial.group is not None:
        if trial.group not in test:
            raise InvalidSetting(f"The trial's group {trial.group!r} is no column of its test rows.")
        cluster = numbered(test[trial.group])
        if lists is not None:
            cluster = _of_lists(cluster, lists, targets[1])
    elif measure.task == "forecast" and measure.season > 1:
        cluster = steps(test, measure) // measure.season
    return TrialColumns(train, test, targets[0], targets[1], measure, cluster, lists)


def candidate_answers(columns: TrialColumns, predicted: object) -> Floats:
    """Return a candidate's answers to the test rows, checked.

    Raises:
        InvalidSetting: They are not one finite answer a row, or no probabilities where they should be.
    """
    return columns.measure.checked_answers(
        predicted, len(columns.test_target), what="The trial's `predicted`"
    )


def compare_with_baselines(
    trial: Trial,
    schema: Schema,
    *,
    measure: Measure | None = None,
    by: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Fit the baselines on a trial's training rows and compare the candidate with them on its test rows.

    Args:
        trial: The trial.
        schema: Input side of the contract: what the linear model may look at.
        measure: What is predicted; None: an event where the target is 0 or 1, else a number.
        by: Keys of the lookup; None: there is none.
        seed: For the bootstrap.

    Raises:
        InvalidSetting: The trial does not hold together.

    Source: percentile bootstrap of paired differences; Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, chapters 13 and 16.
    """
    columns = read_trial(trial, measure)
    predicted = candidate_answers(columns, trial.predicted)
    fitted = _fitted(columns.measure, schema, columns.train, columns.train_target, by=by)
    if columns.measure.task == "forecast":
        fitted["seasonal"] = fit_seasonal(columns.train, columns.train_target, columns.measure)
    answers = {name: answer(columns.test) for name, answer in fitted.items()}
    return _comparison(columns, predicted, answers, by=by, seed=seed)


def compare_crossed(
    rows: TrialColumns, predicted: Floats, schema: Schema, *, by: Sequence[str] | None = None, seed: int = 0
) -> Comparison:
    """Compare answers with baselines that are fitted on the same rows, each asked about other parts of them.

    For a model whose training rows are not known. The baselines learn from four fifths of the rows, in
    turn; groups stay together.

    Args:
        rows: The rows, as test rows; training rows are not looked at.
        predicted: The model's answers to them.
        schema: Input side of the contract.
        by: Keys of the lookup; None: there is none.
        seed: For the parts and the bootstrap.

    Raises:
        InvalidSetting: There are too few rows.
    """
    measure, target = rows.measure, rows.test_target
    if len(target) < 2 * _N_PARTS:
        raise InvalidSetting(f"{len(target)} rows are too few to fit baselines on a part of them.")
    whole = rows.lists if rows.lists is not None else rows.cluster
    n_units = len(target) if whole is None else int(whole.max()) + 1
    order = np.random.default_rng(seed).permutation(n_units) % _N_PARTS
    part = order if whole is None else order[whole]
    answers: dict[str, Floats] = {}
    for each in range(_N_PARTS):
        held = part == each
        if held.all() or not held.any():
            continue
        known = {name: column[~held] for name, column in rows.test.items()}
        asked = {name: column[held] for name, column in rows.test.items()}
        for name, answer in _fitted(measure, schema, known, target[~held], by=by).items():
            part_of = answer(asked)
            answers.setdefault(name, np.zeros((len(target), *part_of.shape[1:])))[held] = part_of
    found = _comparison(rows, predicted, answers, by=by, seed=seed)
    return msgspec.structs.replace(found, n_train=len(target) * (_N_PARTS - 1) // _N_PARTS, crossed=True)


def _fitted(
    measure: Measure,
    schema: Schema,
    columns: Mapping[str, Column],
    target: Floats,
    *,
    by: Sequence[str] | None,
) -> dict[str, Answer]:
    fitted: dict[str, Answer] = {"constant": fit_constant(target, measure)}
    if by and all(name in columns for name in by):
        fitted["lookup"] = fit_lookup(columns, target, by, measure)
    fitted["linear"] = fit_linear_model(schema, columns, target, measure=measure)
    return fitted


def _comparison(
    columns: TrialColumns,
    predicted: Floats,
    answers: Mapping[str, Floats],
    *,
    by: Sequence[str] | None,
    seed: int,
) -> Comparison:
    own = columns.loss(predicted)
    losses = [columns.loss(each) for each in answers.values()]
    gains = gain_estimates(own, losses, cluster=columns.cluster, seed=seed)
    return Comparison(
        measure=columns.measure.name,
        n_train=len(columns.train_target),
        n_test=len(columns.test_target),
        loss=float(own.mean()),
        baselines=tuple(
            Baseline(
                name,
                float(lost.mean()),
                gain,
                tuple(by or ()) if name == "lookup" else (),
                name == "linear" and is_same(columns.measure, columns.test_target, predicted, answered),
            )
            for (name, answered), lost, gain in zip(answers.items(), losses, gains, strict=True)
        ),
        n_groups=None if columns.cluster is None else int(columns.cluster.max()) + 1,
    )


def is_same(measure: Measure, outcomes: Floats, one: Floats, other: Floats) -> bool:
    """Tell whether two models answer the same, to `SAME_ANSWERS` of what answers range over."""
    if measure.task == "ranking":
        return False  # scores have no scale of their own
    if measure.task == "multiclass" and one.ndim == 1:
        return bool((one != other).mean() <= SAME_ANSWERS)
    scale = float(outcomes.std()) if measure.is_number else 1.0
    return bool(np.sqrt(np.square(one - other).mean()) <= SAME_ANSWERS * scale)


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
    return tuple(msgspec.structs.replace(estimate, name="gain") for estimate in found)


def _lists(measure: Measure, columns: Mapping[str, Column], grades: Floats) -> Ints:
    if measure.query not in columns:
        raise InvalidSetting(
            f"The rows have no column {measure.query!r}, which says which results stand in one list.",
            hint="Keep it in the trial's rows; it need not be an input.",
        )
    lists = numbered(columns[measure.query])
    if (grades < 0).any() or not (grades > 0).any():
        raise InvalidSetting("Grades of a ranking are at least 0, and above 0 where a result is relevant.")
    return lists


def _of_lists(cluster: Ints, lists: Ints, grades: Floats) -> Ints:
    """Return the group of each list that has a relevant result: that of its first result."""
    _, first = np.unique(lists, return_index=True)
    has_any = np.bincount(lists, weights=grades > 0) > 0
    return numbered(cluster[first][has_any])


def _mean_of(place: int) -> Callable[[Floats], Floats]:
    return lambda sums: sums[:, place] / sums[:, 0]
