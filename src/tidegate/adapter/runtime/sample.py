"""Rows that a model comes with: named, put in the model's order, checked against the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    if isinstance(sample, Mapping) or hasattr(sample, "columns"):
        return columns_of(sample)
    width = np.shape(sample)[1] if len(np.shape(sample)) == 2 else 1
    names: Sequence[str] | None = fitted.features if len(fitted.features) == width else None
    if names is None and contract is not None:
        names = _matrix_names(contract.input, width)
    return columns_of(sample, names=names)


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
        index = np.linspace(0, n_rows - 1, PARITY_ROWS).astype(np.intp)
        columns = {name: column[index] for name, column in columns.items()}
    validator = Validator(Schema(tuple(fields)))
    batch = validator.coerce(columns)
    violations = validator.violations(batch)
    if violations:
        raise ContractViolation.of(violations, hint="These are real rows: correct the contract, or the rows.")
    return batch
