"""One call from a contract, a declaration and rows to the whole report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Contract
from tidegate.contract.validate import Validator
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.assessment import Subject, assess_binary, assess_regression
from tidegate.evaluation.declaration import Evaluation, Task
from tidegate.evaluation.estimate import Column, Floats
from tidegate.evaluation.measure import class_name, classes_of, measure_of, numbered, within_bounds
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.report import Report, Span
from tidegate.evaluation.robustness import Predict
from tidegate.evaluation.rolling import roll
from tidegate.evaluation.several import assess_forecast, assess_multiclass, assess_ranking

Times = npt.NDArray[np.int64]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to judge a model by.

    Attributes:
        columns: By name: inputs, what came true, and whatever the declaration names.
        target: Column of what came true; rows where it is missing are left out.
        predicted: The answers, if they are known: shape (n_rows,), or (n_rows, n_classes).
        model: Answers batches; for rows without known answers, robustness, rules and importance.
        history: Of a forecast: the series before, in order of time.
        evaluated_at_us: When this is, microseconds UTC.
        every_us: Length of the stretches of time that are measured apart; None: a sixth of the whole.
    """

    columns: Mapping[str, Column]
    target: str
    predicted: Column | None = None
    model: Callable[[Batch], Batch] | None = None
    history: Column | None = None
    evaluated_at_us: int = 0
    every_us: int | None = None


def assess_declared(
    contract: Contract,
    declared: Evaluation,
    judged: Judged,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Report:
    """Measure a model by rows, as its service declares it.

    Args:
        contract: What the model takes and gives.
        declared: What is predicted, and what is measured of it.
        judged: The rows.
        rng: Source of randomness of halves, shuffles and bootstraps.
        level: Confidence of intervals, in (0, 1).

    Raises:
        InvalidSetting: A column is missing, or the declaration does not fit.
        ContractViolation: The inputs do not convert.
        NotMeasurable: There are too few rows, or what came true is none of what can be predicted.
    """
    field, task = declared.judged(contract), declared.kind(contract)
    judged, n_left_out = _known(judged, declared)
    notes = [f"{n_left_out:,} rows: what came true is not known of them."] if n_left_out else []
    batch = _inputs(contract, judged.columns)
    classes = classes_of(declared, contract, field) if task == "multiclass" else ()
    answer = _answers(judged, contract, field, task, classes)
    predicted = judged.predicted
    if predicted is None:
        if answer is None or batch is None:
            raise InvalidSetting(
                "The rows hold neither answers nor all inputs of the model.",
                hint=f"It takes: {', '.join(contract.input.names)}.",
            )
        predicted = _raw(judged, batch, field)
    if task == "multiclass" and predicted.ndim == 1:
        predicted = _named(predicted)
    elif task in ("binary", "multiclass") and predicted.dtype.kind == "f":
        predicted = within_bounds(predicted)
    at_us = _times(judged.columns, declared.event_time)
    visible = _visible(contract, batch)
    complete = batch is not None and len(visible) == len(contract.input.fields)
    if batch is not None and not complete:
        notes.append(
            "Robustness, rules, importance: inputs that are sensitive or no single values are not shown."
        )
    target = judged.columns[judged.target]
    subject = Subject(
        outcomes=_named(target)
        if task == "multiclass"
        else measure_of(contract, declared).outcomes(target, name=judged.target),
        predictions=predicted,
        columns=visible,
        predict=answer if complete else None,
        protected={
            name: judged.columns[name] for name in declared.attributes(contract) if name in judged.columns
        },
        rules=tuple(declared.rules) if complete else (),
        matrix=declared.costs if task == "binary" else None,
        span=None if at_us is None else Span(int(at_us.min()), int(at_us.max()), judged.evaluated_at_us),
        cluster=_cluster(judged.columns, declared.group),
    )
    absent = [name for name in declared.attributes(contract) if name not in judged.columns]
    if absent:
        notes.append(f"Groups by {', '.join(absent)}: the rows have no such column.")
    report = _assessed(subject, task, declared, judged, classes=classes, rng=rng, level=level)
    if at_us is not None:
        losses, errors = _losses(subject, task, classes)
        report = msgspec.structs.replace(
            report,
            windows=()
            if losses is None
            else roll(at_us, losses, errors=errors, every_us=judged.every_us, rng=rng, level=level),
        )
    report = _with_times(report, contract)
    if subject.cluster is not None:
        beyond = "Figures of classes, slices" if task == "multiclass" else "Slices"
        notes.append(
            f"{beyond}, calibration, groups: rows of one {declared.group} count as independent there, and "
            "intervals are narrower than they should be."
        )
    return msgspec.structs.replace(report, notes=(*report.notes, *notes))


def _with_times(report: Report, contract: Contract) -> Report:
    """Tell slices by time as times."""
    times = {field.name for field in contract.input.fields if field.type is DataType.TIMESTAMP}
    slices = tuple(
        msgspec.structs.replace(
            found,
            conditions=tuple(
                msgspec.structs.replace(condition, is_time=condition.column in times)
                for condition in found.conditions
            ),
        )
        for found in report.slices
    )
    return msgspec.structs.replace(report, slices=slices)


def _assessed(
    subject: Subject,
    task: Task,
    declared: Evaluation,
    judged: Judged,
    *,
    classes: Sequence[str],
    rng: np.random.Generator,
    level: float,
) -> Report:
    if task == "binary":
        return assess_binary(subject, rng=rng, threshold=declared.threshold, level=level)
    if task == "multiclass":
        return assess_multiclass(subject, classes, rng=rng, level=level)
    if task == "ranking":
        if not declared.query or declared.query not in judged.columns:
            raise InvalidSetting(
                "A ranking is judged by list, and no column says which.",
                hint="Declare it: tg.Evaluation(query=...).",
            )
        return assess_ranking(subject, judged.columns[declared.query], rng=rng, level=level)
    if task == "forecast":
        if judged.history is None:
            raise NotMeasurable(
                "A forecast is held against the series before it, which was not given.",
                hint="Return a tg.Trial: its training rows are the series before.",
            )
        return assess_forecast(subject, judged.history, rng=rng, season=declared.season, level=level)
    return assess_regression(subject, rng=rng, level=level)


def _known(judged: Judged, declared: Evaluation) -> tuple[Judged, int]:
    """Leave out rows whose outcome is missing; put those of a forecast into the order of time."""
    names = [judged.target, *filter(None, (declared.event_time, declared.group))]
    for name in names[:1]:
        if name not in judged.columns:
            raise InvalidSetting(
                f"The rows have no column {name!r} of what came true.",
                hint=f"They have: {', '.join(judged.columns)}.",
                column=name,
            )
    target = judged.columns[judged.target]
    gone = (
        np.array([value is None or value != value for value in target.tolist()], dtype=np.bool_)  # noqa: PLR0124
        if target.dtype == object or target.dtype.kind == "f"
        else np.zeros(len(target), dtype=np.bool_)
    )
    keep = np.flatnonzero(~gone)
    if not len(keep):
        raise NotMeasurable("What came true is known of no row.")
    at_us = _times(judged.columns, declared.event_time)
    if declared.task == "forecast" and at_us is not None:
        keep = keep[np.argsort(at_us[keep], kind="stable")]
    if len(keep) == len(target) and declared.task != "forecast":
        return judged, 0
    return (
        msgspec.structs.replace(
            judged,
            columns={name: column[keep] for name, column in judged.columns.items()},
            predicted=None if judged.predicted is None else judged.predicted[keep],
        ),
        int(gone.sum()),
    )


def _inputs(contract: Contract, columns: Mapping[str, Column]) -> Batch | None:
    schema = contract.input
    if any(field.name not in columns and not field.optional for field in schema.fields):
        return None
    return Validator(schema).coerce({name: columns[name] for name in schema.names if name in columns})


def _visible(contract: Contract, batch: Batch | None) -> dict[str, Column]:
    """Return the inputs that a report may speak of: single values that are not sensitive."""
    if batch is None:
        return {}
    return {
        field.name: batch[field.name]
        for field in contract.input.fields
        if field.is_scalar and not field.sensitive
    }


def _raw(judged: Judged, batch: Batch, field: Field) -> Column:
    assert judged.model is not None
    return judged.model(batch)[field.name]


def _answers(
    judged: Judged, contract: Contract, field: Field, task: Task, classes: Sequence[str]
) -> Predict | None:
    """Return the model as a function of columns, which gives a number or a class a row."""
    model = judged.model
    if model is None:
        return None
    names: Column = np.array(classes, dtype=object)

    def answer(columns: Mapping[str, Column]) -> Column:
        n_rows = len(next(iter(columns.values())))
        given = model(Batch(dict(columns), n_rows))[field.name]
        if task != "multiclass":
            return given
        return names[given.argmax(axis=1)] if given.ndim == 2 else _named(given)

    return answer


def _named(column: Column) -> Column:
    return np.array([class_name(value) for value in column.tolist()], dtype=object)


def _times(columns: Mapping[str, Column], name: str) -> Times | None:
    column = columns.get(name)
    if not name or column is None:
        return None
    if column.dtype == object:
        try:
            column = np.array(column.tolist(), dtype="M8[us]")
        except ValueError as error:
            raise InvalidSetting(f"Column {name!r} holds no times.", column=name) from error
    if column.dtype.kind == "M":
        if bool(np.isnat(column).any()):
            raise InvalidSetting(f"Column {name!r} is missing in some rows: they have no age.", column=name)
        return column.astype("M8[us]").astype(np.int64)
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    raise InvalidSetting(f"Column {name!r} holds no times.", column=name)


def _cluster(columns: Mapping[str, Column], name: str) -> Times | None:
    if not name or name not in columns:
        return None
    return numbered(columns[name])


def _losses(subject: Subject, task: Task, classes: Sequence[str]) -> tuple[Floats | None, Floats | None]:
    """Return each row's loss and error, for stretches of time."""
    if task == "ranking":
        return None, None
    if task == "multiclass":
        given = np.asarray(subject.predictions)
        decided = np.array(classes, dtype=object)[given.argmax(axis=1)] if given.ndim == 2 else given
        return (np.asarray(subject.outcomes) != decided).astype(np.float64), None
    errors = np.asarray(subject.predictions, np.float64) - np.asarray(subject.outcomes, np.float64)
    return (np.square(errors) if task == "binary" else np.abs(errors)), errors
