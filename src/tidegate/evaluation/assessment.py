"""One call that measures a model in every way that the rows given allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation.calibration import calibration
from tidegate.evaluation.classification import binary
from tidegate.evaluation.cost import value
from tidegate.evaluation.declaration import CostMatrix, Invariant, Monotone, Task
from tidegate.evaluation.estimate import Column, Estimate, Floats, few_units, numbers
from tidegate.evaluation.fairness import fairness
from tidegate.evaluation.importance import Importance, Loss, importance, squared_error
from tidegate.evaluation.recalibration import recalibration_gain
from tidegate.evaluation.regression import regression
from tidegate.evaluation.report import Report, Span, ThresholdBy
from tidegate.evaluation.robustness import Predict, check_rule, robustness
from tidegate.evaluation.slice import N_PART_BINS, encode, find_slices, least_rows
from tidegate.statistics.bootstrap import count_units

MAX_IMPORTANCE_ROWS = 10_000
"""Rows on which columns are shuffled: each column costs the model three passes over them."""

_SHOWN = 8


class Subject(msgspec.Struct, frozen=True):
    """The model and the rows. What is left out is not measured, and the report says so.

    Attributes:
        outcomes: What should have been predicted, shape (n_rows,).
        predictions: What was predicted: probabilities for events, numbers otherwise.
        columns: Features; for slices, robustness, rules and importance.
        predict: The model; for robustness, rules and importance.
        protected: Protected attributes by name; they need not be features.
        rules: Rules that the model must keep.
        matrix: What decisions bring in money.
        span: When the rows are from.
        cluster: Which rows belong together, integers from 0; None: rows are independent. It counts for
            the figures of events and numbers.
    """

    outcomes: Column
    predictions: Column
    columns: Mapping[str, Column] = {}
    predict: Predict | None = None
    protected: Mapping[str, Column] = {}
    rules: Sequence[Monotone | Invariant] = ()
    matrix: CostMatrix | None = None
    span: Span | None = None
    cluster: npt.NDArray[np.int64] | None = None


def assess_binary(
    subject: Subject, *, rng: np.random.Generator, threshold: float | None = None, level: float = 0.95
) -> Report:
    """Measure predicted probabilities of an event. Slices and importance are by squared error (Brier).

    Args:
        subject: The model and the rows.
        rng: Source of randomness of halves, shuffles and bootstraps.
        threshold: From which probability on one acts; None: the best one where there is a cost matrix,
            else 0.5.
        level: Confidence of intervals, in (0, 1).

    Raises:
        NotMeasurable: See the functions of this package.
        InvalidSetting: See the functions of this package.
    """
    predicted = np.asarray(subject.predictions, dtype=np.float64)
    worth = None
    if subject.matrix is not None:
        worth = value(subject.outcomes, predicted, subject.matrix, rng=rng, level=level)
    by: ThresholdBy = "declared"
    if threshold is None:
        threshold, by = (0.5, "default") if worth is None else (worth.threshold, "costs")
    figures = binary(
        subject.outcomes, predicted, rng=rng, threshold=threshold, level=level, cluster=subject.cluster
    )
    report = common_report(
        subject,
        ("binary", figures),
        losses=squared_error(np.asarray(subject.outcomes), predicted),
        loss=squared_error,
        threshold=threshold,
        rng=rng,
        level=level,
    )
    notes = [*report.notes]
    if worth is None:
        notes.append("Value in money: no cost matrix was declared.")
    if not subject.protected:
        notes.append("Groups: no protected attribute was declared.")
    audits = tuple(
        fairness(
            subject.outcomes,
            predicted >= threshold,
            _groups(name, column),
            attribute=name,
            min_rows=least_rows(len(predicted)),
            level=level,
        )
        for name, column in subject.protected.items()
    )
    for each in audits:
        if each.left_out:
            named, n_more = ", ".join(each.left_out[:_SHOWN]), len(each.left_out) - _SHOWN
            named += f" and {n_more} more" if n_more > 0 else ""
            notes.append(
                f"Groups by {each.attribute}: {named}: fewer than "
                f"{least_rows(len(predicted))} rows, not compared."
            )
    return msgspec.structs.replace(
        report,
        calibration=calibration(subject.outcomes, predicted, rng=rng, level=level),
        recalibration=recalibration_gain(subject.outcomes, predicted, rng=rng, level=level),
        value=worth,
        fairness=audits,
        threshold=threshold,
        threshold_by=by,
        notes=tuple(notes),
    )


def _groups(name: str, column: Column) -> Column:
    """Return the groups of an attribute: its values, or fifths of a number that has many."""
    if column.dtype.kind not in "iuf" or len(np.unique(column[column == column])) <= N_PART_BINS:  # noqa: PLR0124
        return column
    codes, conditions = encode({name: column}, N_PART_BINS)
    return np.array([str(each) for each in conditions[name]], dtype=object)[codes[name]]


def assess_regression(
    subject: Subject,
    *,
    rng: np.random.Generator,
    cluster: npt.NDArray[np.int64] | None = None,
    level: float = 0.95,
) -> Report:
    """Measure predicted numbers. Slices and importance are by absolute error.

    Args:
        subject: The model and the rows; a cost matrix and protected attributes are for decisions and
            do not apply.
        rng: Source of randomness of halves, shuffles and bootstraps.
        cluster: Which rows belong together, integers from 0; None: rows are independent.
        level: Confidence of intervals, in (0, 1).

    Raises:
        NotMeasurable: See the functions of this package.
        InvalidSetting: See the functions of this package.
    """
    observed = numbers(subject.outcomes, name="Outcomes")
    predicted = numbers(subject.predictions, name="Predictions", n_rows=len(observed))
    if cluster is not None:
        subject = msgspec.structs.replace(subject, cluster=cluster)
    figures = regression(observed, predicted, rng=rng, level=level, cluster=subject.cluster)
    report = common_report(
        subject,
        ("regression", figures),
        losses=np.abs(predicted - observed),
        loss=_absolute_error,
        threshold=None,
        rng=rng,
        level=level,
    )
    left_out = [name for name, given in (("value", subject.matrix), ("groups", subject.protected)) if given]
    notes = [f"{name.capitalize()}: only measured of decisions." for name in left_out]
    return msgspec.structs.replace(report, notes=(*report.notes, *notes))


def common_report(
    subject: Subject,
    found: tuple[Task, tuple[Estimate, ...]],
    *,
    losses: Floats,
    loss: Loss,
    threshold: float | None,
    rng: np.random.Generator,
    level: float,
) -> Report:
    """Return what is measured the same way whatever is predicted: slices, robustness, rules, importance.

    Args:
        subject: The model and the rows.
        found: The task, and its figures.
        losses: Loss of each row, >= 0, for slices.
        loss: The same of other predictions, for importance.
        threshold: Where a decision turns; None: there is no decision.
        rng: Source of randomness.
        level: Confidence of intervals, in (0, 1).
    """
    task, figures = found
    report = Report(task=task, n_rows=len(losses), figures=figures, span=subject.span)
    # figures of classes are drawn from their confusion table, whatever belongs together
    cluster = None if task == "multiclass" else subject.cluster
    n_units = count_units(len(losses), cluster)
    notes = [*few_units(n_units, "rows" if cluster is None else "groups of rows")]
    if subject.span is None:
        notes.append("Age of the rows: they carry no time.")
    if not subject.columns:
        notes.append("Slices, robustness, rules, importance: no features were given.")
        return msgspec.structs.replace(report, notes=tuple(notes))
    report = msgspec.structs.replace(
        report, slices=find_slices(subject.columns, losses, rng=rng, level=level)
    )
    if subject.predict is None:
        notes.append("Robustness, rules, importance: the model itself was not given.")
        return msgspec.structs.replace(report, notes=tuple(notes))
    predict = subject.predict
    return msgspec.structs.replace(
        report,
        robustness=robustness(predict, subject.columns, rng=rng, threshold=threshold, level=level),
        rules=tuple(
            check_rule(predict, subject.columns, rule, rng=rng, level=level) for rule in subject.rules
        ),
        importance=_importance(predict, subject, rng=rng, loss=loss, level=level),
        notes=tuple(notes),
    )


def _importance(
    predict: Predict, subject: Subject, *, rng: np.random.Generator, loss: Loss, level: float
) -> tuple[Importance, ...]:
    columns, outcomes = subject.columns, np.asarray(subject.outcomes)
    if len(outcomes) > MAX_IMPORTANCE_ROWS:
        rows = np.sort(rng.permutation(len(outcomes))[:MAX_IMPORTANCE_ROWS])
        columns = {name: column[rows] for name, column in columns.items()}
        outcomes = outcomes[rows]
    return importance(predict, columns, outcomes, rng=rng, loss=loss, n_repeats=3, level=level)


def _absolute_error(outcomes: Column, predictions: Column) -> Floats:
    return np.abs(predictions.astype(np.float64) - outcomes.astype(np.float64))
