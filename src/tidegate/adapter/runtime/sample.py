"""Rows that a model comes with: named, put in the model's order, checked against the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.adapter.runtime.fitted import FittedModel
from tidegate.contract.batch import Batch, Column
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Contract, Field, Role, Schema
from tidegate.contract.validate import Validator
from tidegate.contract.violation import ContractViolation
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import as_field_name

PARITY_ROWS = 2000
"""Rows of the sample that a conversion is checked on, evenly spread over it: enough to meet most
leaves of an ensemble, few enough that a slow native model answers in seconds."""


def sample_columns(sample: Any, fitted: FittedModel, contract: Contract | None) -> dict[str, Column]:
    """Return the sample's columns by name; an array's are named by the model or the contract."""
    if _has_columns(sample):
        return columns_of(sample)
    if len(fitted.features) == _width(sample):
        return columns_of(sample, names=fitted.features)
    names = None if contract is None else _matrix_names(contract.input, _width(sample))
    return columns_of(sample, names=names)


def contract_columns(sample: Any, schema: Schema) -> dict[str, Column]:
    """Return the sample's columns by name; an array's are named by the contract.

    Raises:
        InvalidSetting: An array's columns may be other fields.
    """
    if _has_columns(sample):
        return columns_of(sample)
    first = schema.fields[0]
    if len(schema.fields) == 1 and first.shape and first.shape == np.shape(sample)[1:]:
        return {first.name: np.asarray(sample)}
    return columns_of(sample, names=_matrix_names(schema, _width(sample)))


def _width(sample: Any) -> int:
    return np.shape(sample)[1] if len(np.shape(sample)) == 2 else 1


def _matrix_names(schema: Schema, width: int) -> Sequence[str]:
    """Return which fields an array's columns are, where the contract leaves no doubt."""
    scalars = [field for field in schema.fields if field.is_scalar]
    apart = {Role.KEY, Role.TIMESTAMP}
    for chosen in (scalars, [field for field in scalars if not apart.intersection(field.roles)]):
        if len(chosen) == width:
            return [field.name for field in chosen]
    raise InvalidSetting(
        f"The sample is an array of {width} columns without names; the contract has {len(scalars)} fields.",
        hint="Give a data frame or a mapping whose columns are named as the fields.",
    )


def feature_columns(fitted: FittedModel, columns: Mapping[str, Column]) -> list[str]:
    """Return the sample's columns that are the model's features, in the model's order."""
    if fitted.features:
        plain = {as_field_name(name): name for name in columns}  # LightGBM writes blanks as '_'
        found = [name if name in columns else plain.get(as_field_name(name)) for name in fitted.features]
        missing = [name for name, column in zip(fitted.features, found, strict=True) if column is None]
        if missing:
            raise InvalidSetting(
                f"The sample lacks the model's features {', '.join(missing)}.",
                hint=f"The sample has {', '.join(columns)}.",
                missing=missing,
            )
        return [column for column in found if column is not None]
    if fitted.n_features is not None and fitted.n_features != len(columns):
        raise InvalidSetting(
            f"The model takes {fitted.n_features} features, and the sample has {len(columns)} columns.",
            hint="Give rows as the model takes them.",
            expected=fitted.n_features,
            got=len(columns),
        )
    return list(columns)


def to_batch(fields: Sequence[Field], columns: Mapping[str, Column]) -> Batch:
    """Return rows of the sample, evenly spread over it, under the contract's names and types."""
    n_rows = len(next(iter(columns.values())))
    if n_rows > PARITY_ROWS:
        index = _spread(n_rows)
        columns = {name: column[index] for name, column in columns.items()}
    validator = Validator(Schema(tuple(fields)))
    batch = validator.coerce(columns)
    violations = validator.violations(batch)
    if violations:
        raise ContractViolation.of(violations, hint="These are real rows: correct the contract, or the rows.")
    return batch


def _spread(n_rows: int) -> npt.NDArray[np.intp]:
    """Return the rows of the sample that are looked at, evenly spread over it."""
    return np.linspace(0, n_rows - 1, min(n_rows, PARITY_ROWS)).astype(np.intp)


def given_rows(sample: Any, sources: Sequence[str]) -> Any:
    """Return the rows that `to_batch` takes, as they were given; None where a model cannot take them so.

    Args:
        sample: The sample.
        sources: Its columns that are the model's features.
    """
    if isinstance(sample, Mapping):
        return None
    if not hasattr(sample, "columns"):
        array = np.asarray(sample)
        return array[_spread(len(array))] if array.ndim == 1 or array.shape[1] == len(sources) else None
    names = {str(name): name for name in sample.columns}
    chosen = sample[[names[source] for source in sources]]
    index = _spread(len(sample))
    return chosen.iloc[index] if hasattr(chosen, "iloc") else chosen[index.tolist()]


def _originals(sample: Any, sources: Sequence[str]) -> dict[str, Any]:
    """Return a frame's or mapping's columns as they were given, by the names that they have as text."""
    names = {str(name): name for name in (sample if isinstance(sample, Mapping) else sample.columns)}
    return {source: sample[names[source]] for source in sources}


def none_columns(sample: Any, sources: Sequence[str]) -> frozenset[str]:
    """Return which columns mark a missing text by None: to a fitted encoder it is another value than NaN."""
    if not _has_columns(sample):
        return frozenset(sources) if _has_none(np.asarray(sample)) else frozenset()
    return frozenset(
        source for source, values in _originals(sample, sources).items() if _has_none(np.asarray(values))
    )


def _has_none(values: npt.NDArray[Any]) -> bool:
    return values.dtype == object and any(value is None for value in values.ravel().tolist())


def time_columns(sample: Any, sources: Sequence[str]) -> dict[str, str]:
    """Return column -> the dtype of its times or durations, as pandas writes it, in the sample."""
    if not _has_columns(sample):
        return {}
    found = {source: _time_dtype(values) for source, values in _originals(sample, sources).items()}
    return {source: dtype for source, dtype in found.items() if dtype}


def _has_columns(sample: Any) -> bool:
    return isinstance(sample, Mapping) or hasattr(sample, "columns")


def _time_dtype(values: Any) -> str:
    dtype = getattr(values, "dtype", None)
    unit, zone = getattr(dtype, "time_unit", None), getattr(dtype, "time_zone", None)
    if unit is not None:  # of polars
        is_moment = type(dtype).__name__ == "Datetime"
        return f"{'datetime64' if is_moment else 'timedelta64'}[{unit}{f', {zone}' if zone else ''}]"
    text = str(dtype)
    return text if text.startswith(("datetime64[", "timedelta64[")) else ""
