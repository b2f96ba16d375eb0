"""Models that run in the library they were fitted with: what their predictors share."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract, DataType
from tidegate.core.error import InvalidSetting, MissingExtra
from tidegate.predictor.binding import Binding, Signature, Tensor
from tidegate.predictor.protocol import LoadError, PredictorError, Spec
from tidegate.predictor.tensor import Extract, Gather

TABLE = "table"
"""Name of a native model's one input: its features side by side."""

Run = Callable[[Any], Mapping[str, Column]]
"""Takes a matrix or a data frame, gives named outputs."""


class NativeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of specs whose model runs in its own library.

    Attributes:
        binding: See `tidegate.predictor.binding.Binding`.
        frame: Names of the data frame's columns that the model was fitted on, in order, where it
            needs a data frame; empty where it takes a matrix.
        classes: What a classifier's labels are, in the order of its scores.
        trusted: skops only: types beyond the safe ones that the file may hold, as a person has
            agreed to.
        missing: xgboost only: the number that stands for a missing value beside NaN, if there is one.
        nones: Text fields whose missing values are None to the model; in others they are NaN.
        times: Field -> dtype of the data frame's column in which the model takes a time or duration.
    """

    binding: dict[str, Any]
    frame: tuple[str, ...] = ()
    classes: tuple[str | int | float | bool, ...] = ()
    trusted: tuple[str, ...] = ()
    missing: float | None = None
    nones: tuple[str, ...] = ()
    times: dict[str, str] = {}

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON values, for a spec."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @property
    def tensors(self) -> frozenset[str]:
        """Which of the model's outputs are used."""
        return frozenset(item["tensor"] for item in self.binding["outputs"])


def read_options(spec: Spec) -> NativeOptions:
    """Read the options of a native predictor.

    Raises:
        InvalidSetting: They cannot be used.
        LoadError: The spec names no artifact.
    """
    if spec.artifact is None:
        raise LoadError(f"A predictor of kind {spec.kind!r} needs an artifact.")
    try:
        return msgspec.convert(spec.options, NativeOptions)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"The options of a {spec.kind} predictor cannot be used: {error}") from error


class NativePredictor:
    """Calls a fitted model in its own library."""

    def __init__(self, contract: Contract, options: NativeOptions, run: Run, *, engine: str) -> None:
        """Take a loaded model.

        Args:
            contract: What is promised.
            options: How it maps to the model.
            run: Calls the model.
            engine: The library's name, for errors.

        Raises:
            InvalidSetting: The binding does not fit the contract.
        """
        self.contract = contract
        binding = Binding.from_options(options.binding, contract)
        self._engine = engine
        self._run = run
        self._frame = options.frame
        self._fields = binding.inputs[0].fields
        self._makes = frame_maker(options.nones, options.times)
        self._gather = Gather(
            binding.inputs[0],
            contract.input,
            missing={name: missing_text(name, options.nones) for name in self._fields}
            if binding.inputs[0].row_shape
            else {},
        )
        self._outputs = [
            (item.tensor, Extract(item, contract.output.by_name[item.field], 0)) for item in binding.outputs
        ]

    def predict(self, batch: Batch) -> Batch:
        """Call the model; see `Predictor.predict`."""
        n_rows = batch.n_rows
        try:
            table = self._make_frame(batch) if self._frame else self._gather.tensor(batch)
            answers = self._run(table)
        except Exception as error:
            raise self._failure(error) from error
        return self.answered(answers, n_rows)

    def answered(self, answers: Mapping[str, Column], n_rows: int) -> Batch:
        """Return the contract's columns of what the model gave."""
        return Batch(
            {output.name: output.column(answers[tensor], n_rows) for tensor, output in self._outputs}, n_rows
        )

    def warm_up(self) -> None:
        """Call the model once on zeros, where it takes numbers."""
        fields = [self.contract.input.by_name[name] for name in self._fields]
        if any(field.type.dtype.hasobject for field in fields):
            return  # an invented text may be one that the model refuses
        columns: dict[str, Column] = {
            field.name: np.zeros((1, *(dim or 0 for dim in field.shape)), field.type.dtype)
            for field in fields
        }
        try:
            self.predict(Batch(columns, 1))
        except PredictorError:
            return

    def close(self) -> None:
        """The model goes with the last reference."""

    def _make_frame(self, batch: Batch) -> Any:
        return self._makes(self._frame, self._fields, batch)

    def _failure(self, error: Exception) -> PredictorError:
        if isinstance(error, PredictorError):
            return error
        # A library's message may quote a value; where a field is sensitive it stays inside.
        is_open = not any(field.sensitive for field in self.contract.input.fields)
        told = f": {' '.join(str(error).split())}"[:400] if is_open else "."
        return PredictorError(
            f"{self._engine} failed with {type(error).__name__}{told}", error=type(error).__name__
        )


def missing_text(field: str, nones: Collection[str]) -> float | None:
    """Return what a missing text of a field is to the model."""
    return None if field in nones else math.nan


def marked(column: Column, missing: float | None) -> Column:
    """Return a column in which a value that is missing is what it is to the model."""
    values = column.tolist()
    if None not in values:
        return column
    return np.array([missing if value is None else value for value in values], dtype=object)


def frame_maker(
    nones: Collection[str], times: Mapping[str, str]
) -> Callable[[Sequence[str], Sequence[str], Batch], Any]:
    """Return a function from column names, their fields, and rows to a data frame.

    pandas where it is installed, since that is what most models were fitted on. Each column has the same
    dtype whatever the rows are: a row must be answered alone as it is among others.

    Args:
        nones: As in `NativeOptions`.
        times: Likewise.
    """
    if importlib.util.find_spec("pandas") is not None:
        make = _pandas_column
        import pandas as pd  # type: ignore[import-untyped]  # ships no types

        frame = pd.DataFrame
    else:
        make = _polars_column
        import polars as pl

        frame = pl.DataFrame

    def made(sources: Sequence[str], fields: Sequence[str], batch: Batch) -> Any:
        columns = {}
        for source, field in zip(sources, fields, strict=True):
            column = batch.columns[field]
            if column.dtype == object:
                column = marked(column, missing_text(field, nones))
            columns[source] = make(column, times.get(field, ""))
        return frame(columns)

    return made


def _pandas_column(column: Column, time: str) -> Any:
    import pandas as pd

    if not time:
        return pd.Series(column, dtype=column.dtype)
    if not time.startswith("datetime64"):
        return pd.Series(column.view("m8[us]")).astype(time)
    moments = pd.Series(column.view("M8[us]"))
    return (moments.dt.tz_localize("UTC") if "," in time else moments).astype(time)


def _polars_column(column: Column, time: str) -> Any:
    import polars as pl

    if not time:
        return pl.Series([None if value != value else value for value in column.tolist()])  # noqa: PLR0124
    kind, _, rest = time.partition("[")
    if kind != "datetime64":
        return pl.Series(column.view("m8[us]"))
    moments = pl.Series(column.view("M8[us]"))
    zone = rest.rstrip("]").partition(", ")[2]
    return moments.dt.replace_time_zone("UTC").dt.convert_time_zone(zone) if zone else moments


def require(feature: str, package: str, *, extra: str) -> None:
    """Check that an optional package is there.

    Raises:
        MissingExtra: It is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(feature, extra=extra, package=package)


def classifier_outputs(classes: Sequence[Any], *, has_scores: bool = True) -> tuple[Tensor, ...]:
    """Return the outputs of a classifier: its label, and its classes' probabilities."""
    if any(isinstance(value, str) for value in classes):
        kind = DataType.STRING
    else:
        kind = DataType.BOOL if all(isinstance(value, bool) for value in classes) else DataType.INT64
    label = Tensor("label", kind)
    if not has_scores:
        return (label,)
    names = tuple(str(value) for value in classes)
    return (label, Tensor("probabilities", DataType.FLOAT64, (len(names),), classes=names))


def table_signature(width: int, kind: DataType, outputs: tuple[Tensor, ...]) -> Signature:
    """Return the signature of a model of one matrix."""
    return Signature((Tensor(TABLE, kind, (width,)),), outputs)


def labels_of(classes: Sequence[Any]) -> Callable[[Column], Column]:
    """Return a function from probabilities, shape (n_rows, n_classes), to the likeliest class."""
    values = np.array(list(classes), dtype=object if isinstance(classes[0], str) else None)
    return lambda scores: values[np.argmax(scores, axis=1)]


def classifier_answers(scores: Column, to_label: Callable[[Column], Column]) -> dict[str, Column]:
    """Return label and probabilities; one column of scores is that of the positive class."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        positive = scores.reshape(-1)
        scores = np.stack([1.0 - positive, positive], axis=1)
    return {"label": to_label(scores), "probabilities": scores}
