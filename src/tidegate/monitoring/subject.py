"""What is watched: a service's records as one table, and how its answers are judged."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.field import DataType, Field
from tidegate.contract.objective import Objectives
from tidegate.contract.schema import Contract
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import CostMatrix, Evaluation
from tidegate.monitoring.declaration import Monitoring

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Task = Literal["binary", "regression", "multiclass", "none"]

AT, LABEL, LABELLED_AT, FAILED = "arrived_at", "label", "labelled_at", "failed"
"""Columns of a table of records beside `input.*` and `output.*`: when it arrived, what came true (null:
not known), when that was known, and whether the caller got an error."""

KPI, KPI_AT = "kpi.", "kpi_at."
"""Columns of a table of records, each with the name of a KPI behind it: its value (null: not known), and when
that was known."""

DECIDED, SURE = "answer.class", "answer.probability"
"""Columns that are made of one value a class: the likeliest class, and how likely it is said to be."""

_EPOCH = date(1970, 1, 1)
_TRUTHS = {"false": 0.0, "true": 1.0}
_WHOLE = 2.0**53


class History(Protocol):
    """Where records come from."""

    def days(self) -> list[date]:
        """Return the days that have records, ascending."""
        ...

    def records(self, since: date, until: date) -> pl.DataFrame:
        """Return the records that arrived from the first to the last of these days.

        Columns: `arrived_at` (UTC), `label`, `labelled_at`, and `input.*` and `output.*` of the contract;
        `failed` may be missing, and so may `kpi.*` and `kpi_at.*` of declared KPIs.
        """
        ...


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A service as its monitors see it.

    Attributes:
        service: Its name.
        inputs: Columns that go in, with their prefix.
        outputs: Columns that come out.
        judged: The output column that is held against labels; empty: none is.
        task: What it predicts.
        classes: Names of the classes, in the order of `scores`, or of the outcomes of an event that is
            told in words.
        scores: The output column with one probability a class; empty: there is none.
        threshold: Probabilities of at least this are acted upon.
        horizon_days: Days after which a label that has not come will not.
        costs: What decisions bring in money.
        objectives: Service levels.
        monitoring: How closely it is watched.
    """

    service: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    judged: str = ""
    task: Task = "none"
    classes: tuple[str, ...] = ()
    scores: str = ""
    threshold: float = 0.5
    horizon_days: int = 1
    costs: CostMatrix | None = None
    objectives: Objectives = Objectives()
    monitoring: Monitoring = Monitoring()

    def within(self, *columns: Collection[str]) -> Subject:
        """Return the subject with only those fields that every one of these tables has."""

        def kept(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if all(name in each for each in columns))

        judged = self.judged if not self.judged or kept((self.judged,)) else ""
        return msgspec.structs.replace(
            self,
            inputs=kept(self.inputs),
            outputs=kept(self.outputs),
            judged=judged,
            task=self.task if judged else "none",
        )

    def prepared(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return records with labels, and answers of several classes, in the form that is compared.

        Labels of an event are 0 and 1, of a number numbers, of classes their names; what is none of
        these is as good as missing (see `unreadable`). Records are prepared once: where the classes are
        called 1 and 2, a 1 would be read again.
        """
        if self.scores in table.columns:
            scores = pl.col(self.scores).cast(pl.List(pl.Float64))
            places = scores.list.eval(pl.element().fill_nan(None)).list.arg_max()
            names = dict(enumerate(self.classes))
            table = table.with_columns(
                places.replace_strict(names, default=None, return_dtype=pl.String).alias(DECIDED),
                scores.list.max().alias(SURE),
            )
        if self.task == "none" or LABEL not in table.columns:
            return table
        if self.task == "multiclass":
            named = [name for name in (self.judged, LABEL) if name in table.columns and name != DECIDED]
            return table.with_columns(_class_name(name, table.schema[name]) for name in named)
        number = pl.col(LABEL).cast(pl.Float64, strict=False)
        if self.task == "binary" and table.schema[LABEL] != pl.Boolean:
            number = self._event() if table.schema[LABEL] == pl.String else self._numbered(number)
        known = number.is_in([0.0, 1.0]) if self.task == "binary" else number.is_finite()
        return table.with_columns(pl.when(known).then(number).otherwise(None).alias(LABEL))

    def _event(self) -> pl.Expr:
        """Return labels of an event that are told in words as 0 and 1: as declared, else as true or false."""
        label = pl.col(LABEL)
        lower = label.str.to_lowercase()
        plain = lower.replace_strict(_TRUTHS, default=label.cast(pl.Float64, strict=False))
        if len(self.classes) != 2:
            return plain
        no, yes = self.classes
        told = label.replace_strict({no: 0.0, yes: 1.0}, default=None, return_dtype=pl.Float64)
        # classes that are called 1 and 2 leave nothing for a 0 to say
        is_told = any(name in ("0", "1") or name.lower() in _TRUTHS for name in self.classes)
        return told if is_told else pl.coalesce(told, plain)

    def _numbered(self, number: pl.Expr) -> pl.Expr:
        """Return labels of an event that are numbers as 0 and 1: by the classes, where those are numbers."""
        try:
            no, yes = (float(name) for name in self.classes)
        except ValueError:  # not two, or words
            return number
        return number.replace_strict({no: 0.0, yes: 1.0}, default=None, return_dtype=pl.Float64)

    def unreadable(self, table: pl.DataFrame) -> list[Any]:
        """Return the labels of a table, as it came, that the answer could not be held against."""
        if self.task == "none" or LABEL not in table.columns:
            return []
        read = self.prepared(table)[LABEL]
        strange = read.is_null()
        if self.task == "multiclass" and self.classes:
            strange |= ~read.is_in(self.classes)
        return table[LABEL].filter(strange).drop_nulls().to_list()

    def losses(self, table: pl.DataFrame, *, scale: float = 1.0) -> Floats:
        """Return the loss of each prepared row in [0, 1], NaN where there is no label.

        Binary: (y - p)^2. Classes: 1 where it was wrong. Numbers: |y - f| / scale, at most 1.
        """
        if self.task == "none" or LABEL not in table.columns:
            return np.full(table.height, np.nan)
        if self.task == "multiclass":
            wrong = table[self.judged].cast(pl.String) != table[LABEL].cast(pl.String)
            return wrong.cast(pl.Float64).to_numpy()
        given = table[self.judged].cast(pl.Float64).to_numpy()
        label = table[LABEL].cast(pl.Float64).to_numpy()
        if self.task == "binary":
            return np.asarray(np.minimum((label - given) ** 2, 1.0))
        return np.asarray(np.minimum(np.abs(label - given) / scale, 1.0))


def _class_name(column: str, kind: pl.DataType) -> pl.Expr:
    """Write classes as texts: 2.0 and 2 are the same class."""
    value = pl.col(column)
    if not kind.is_float():
        return value.cast(pl.String)
    whole = value.is_finite() & (value == value.floor()) & (value.abs() < _WHOLE)
    short = pl.when(whole).then(value).cast(pl.Int64).cast(pl.String)
    return pl.coalesce(short, pl.when(value.is_finite()).then(value).cast(pl.String)).alias(column)


def subject_of(
    service: str,
    contract: Contract,
    *,
    evaluation: Evaluation | None = None,
    objectives: Objectives | None = None,
    monitoring: Monitoring | None = None,
) -> Subject:
    """Return how a service is watched, from what it declares.

    Fields that monitors make nothing of are left out: keys, texts without categories, times, vectors.
    """
    declared = evaluation or Evaluation()
    classes: tuple[str, ...] = ()
    try:
        judged = declared.judged(contract)
        task = _task(declared, contract, judged)
        if task == "multiclass" and not judged.is_scalar:
            classes = _names(declared, contract, judged.shape[0] or 0)
    except InvalidSetting:  # several outputs, none declared: drift is watched, quality is not
        judged, task = None, "none"
    horizon_s = objectives.outcome_within_s if objectives else None
    threshold = declared.threshold
    if threshold is None:
        threshold = declared.costs.threshold() if declared.costs else 0.5
    key = contract.key
    scores = f"output.{judged.name}" if judged is not None and classes else ""
    column = "" if judged is None or task == "none" else DECIDED if scores else f"output.{judged.name}"
    outputs = tuple(f"output.{f.name}" for f in contract.output.fields if _watched(f))
    return Subject(
        service=service,
        inputs=tuple(f"input.{f.name}" for f in contract.input.fields if _watched(f) and f != key),
        outputs=(*outputs, DECIDED, SURE) if scores else outputs,
        judged=column,
        task=task,
        classes=classes or declared.classes,
        scores=scores,
        threshold=threshold,
        horizon_days=max(1, int(np.ceil((horizon_s or 86_400.0) / 86_400))),
        costs=declared.costs,
        objectives=objectives or Objectives(),
        monitoring=(monitoring or Monitoring()).checked(contract),
    )


def _names(declared: Evaluation, contract: Contract, n_classes: int) -> tuple[str, ...]:
    """Return the names of the classes in the order of their probabilities: declared, or told beside them."""
    beside = [field.categories for field in contract.output.fields if len(field.categories) == n_classes]
    told = beside[0] if len(beside) == 1 else tuple(str(place) for place in range(n_classes))
    return declared.classes or told


def _task(declared: Evaluation, contract: Contract, judged: Field) -> Task:
    """Return how single answers are judged; a ranking is judged by list, and is not."""
    kind = declared.kind(contract)
    if kind == "multiclass":
        is_vector = len(judged.shape) == 1 and judged.shape[0] is not None
        return "multiclass" if judged.is_scalar or is_vector else "none"
    if kind == "ranking" or not judged.is_scalar:
        return "none"
    return "binary" if kind == "binary" else "regression"


def _watched(field: Field) -> bool:
    return (
        field.is_scalar
        and not field.type.is_time
        and field.type is not DataType.BYTES
        and not field.sensitive
    )


def day_numbers(table: pl.DataFrame) -> Integers:
    """Return the day of each record, days since 1970 UTC, shape (n_rows,)."""
    return table[AT].cast(pl.Date).cast(pl.Int32).cast(pl.Int64).to_numpy()


def number_of(day: date) -> int:
    """Return a day as days since 1970."""
    return (day - _EPOCH).days


class TableHistory:
    """A history that lies in memory: back-tests on files of one's own, and tests."""

    def __init__(self, table: pl.DataFrame) -> None:
        """Take records with the columns that `History.records` describes."""
        self._table = table.sort(AT)
        self._day = day_numbers(self._table)

    def days(self) -> list[date]:
        days = self._table[AT].cast(pl.Date).unique().sort().to_list()
        return [day for day in days if day is not None]

    def records(self, since: date, until: date) -> pl.DataFrame:
        first = int(np.searchsorted(self._day, number_of(since), side="left"))
        last = int(np.searchsorted(self._day, number_of(until), side="right"))
        return self._table.slice(first, last - first)
