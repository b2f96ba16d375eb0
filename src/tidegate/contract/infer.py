"""A first contract from data that someone already has, for a person to edit."""

from __future__ import annotations

import datetime as dt
import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import msgspec
import numpy as np

from tidegate.contract.batch import Column
from tidegate.contract.check import RESERVED_NAMES, check_fields
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting

MAX_INFERRED_CATEGORIES = 32
"""Texts of more distinct values than these are taken for open-ended: identifiers, names."""

_MIN_ROWS_PER_CATEGORY = 5
"""Each value must have been seen this often on average, or it is too early to close the list."""


class InferredField(msgspec.Struct, frozen=True):
    """What was concluded of one column.

    Attributes:
        source: The column's name where it came from.
        field: The field.
    """

    source: str
    field: Field


def infer_schema(columns: Mapping[str, Column], *, side: str = "input", prefix: str = "feature") -> Schema:
    """Infer a schema; see `infer_fields` for the names that changed."""
    return Schema(tuple(inferred.field for inferred in infer_fields(columns, side=side, prefix=prefix)))


def infer_fields(
    columns: Mapping[str, Column],
    *,
    categories: Mapping[str, Sequence[str]] | None = None,
    side: str = "input",
    prefix: str = "feature",
) -> list[InferredField]:
    """Infer a field from each column.

    Types come from the dtypes; a float that has NaN, and a text that has None, becomes optional. Texts
    of few distinct values become categories. Ranges are not inferred: what a sample has not shown is
    not forbidden.

    Args:
        columns: By name, as `columns_of` gives them.
        categories: Values that a column of texts may hold, as `categories_of` gives them: those that the
            rows happen not to show are then taken too.
        side: `input` or `output`.
        prefix: Begins the name of a column whose own cannot be used in a contract.

    Raises:
        InvalidSetting: A column holds what no field can.
    """
    names, known = field_names(columns, prefix=prefix), categories or {}
    inferred = [
        InferredField(source, _infer(name, np.asarray(column), source, known.get(source, ())))
        for (source, column), name in zip(columns.items(), names, strict=True)
    ]
    check_fields(side, tuple(one.field for one in inferred))
    return inferred


def field_names(sources: Iterable[object], *, prefix: str = "feature") -> list[str]:
    """Return a name for each source that a field can have: "petal length (cm)" -> petal_length_cm.

    Names that are good stay as they are. Names that become equal are numbered.
    """
    taken: set[str] = set()
    named: list[str] = []
    for position, source in enumerate(sources):
        base = _identifier(str(source)) or f"{prefix}_{position}"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        named.append(name)
    return named


def columns_of(
    data: Any, *, names: Sequence[str] | None = None, prefix: str = "feature"
) -> dict[str, Column]:
    """Return data of any usual form as named numpy columns.

    Args:
        data: A pandas or polars data frame, a mapping of columns, or an array of shape
            (n_rows, n_columns) or (n_rows,).
        names: Names of an array's columns, such as a model's `feature_names_in_`.
        prefix: An array's columns without names are prefix_0, prefix_1, ...

    Raises:
        InvalidSetting: It has another form, no rows, two columns of one name, a column of a type that no
            field has, or `names` do not fit.
    """
    check_rows(data)
    if isinstance(data, Mapping):
        columns = {str(name): _column(_held(name, values)) for name, values in data.items()}
    elif hasattr(data, "columns"):
        _check_names(data)
        # pandas and polars both give columns by name; neither is imported to find out which it is.
        columns = {str(name): _column(_held(name, _series(data, name))) for name in data.columns}
    else:
        columns = _array_columns(data, names, prefix)
    lengths = {name: len(column) for name, column in columns.items()}
    if not columns or len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise InvalidSetting(
            f"A contract is inferred from columns of one length above 0. Got {lengths}.",
            hint="Give a few rows that are typical.",
        )
    return columns


def categories_of(data: Any) -> dict[str, tuple[str, ...]]:
    """Return column -> the texts that a data frame's own type of it allows, in its order."""
    found = {}
    for name in data if isinstance(data, Mapping) else getattr(data, "columns", ()):
        kind: Any = getattr(data[name], "dtype", None)
        # A Categorical of polars has no list of its own.
        values = list(kind.categories) if type(kind).__name__ in ("CategoricalDtype", "Enum") else []
        if _all(values, str):
            found[str(name)] = tuple(map(str, values))
    return found


def check_rows(data: Any) -> None:
    """Pass if data holds rows: nothing is asked of a lazy frame, which warns of every question.

    Raises:
        InvalidSetting: Its rows are still to be read.
    """
    if type(data).__name__ == "LazyFrame":
        raise InvalidSetting(
            "A contract cannot be inferred from a LazyFrame, which holds no rows yet.",
            hint="Collect it first: frame.head(1000).collect().",
        )


def _check_names(frame: Any) -> None:
    twice = [str(name) for name, times in Counter(map(str, frame.columns)).items() if times > 1]
    if twice:
        raise InvalidSetting(
            f"Several columns have the name {', '.join(map(repr, twice))}, and fields go by their names.",
            hint="Rename them.",
            columns=twice,
        )


def _held(name: Any, values: Any) -> Any:
    """Return values of a type that numpy has."""
    kind = str(getattr(values, "dtype", ""))
    if "Int128" in kind:  # polars' own, also within lists; it has them of sums and of huge numbers
        raise InvalidSetting(
            f"Column {str(name)!r} is {kind}, which no field can hold.",
            hint="Cast it: to Int64 where the numbers fit, else to Float64 or String.",
            field=str(name),
        )
    if "Struct" in kind:
        raise InvalidSetting(
            f"Column {str(name)!r} is {kind}, which no field can hold.",
            hint="Make it a column each: frame.unnest(...).",
            field=str(name),
        )
    return values


def _series(frame: Any, name: Any) -> Any:
    series = frame[name]
    # A categorical of pandas is more than its values; as objects it is just those.
    return (
        series.astype(object)
        if str(getattr(series, "dtype", "")) in ("category", "str", "string")
        else series
    )


def _array_columns(data: Any, names: Sequence[str] | None, prefix: str) -> dict[str, Column]:
    try:
        array = np.asarray(data.toarray() if hasattr(data, "toarray") else data)
    except ValueError as error:
        raise InvalidSetting(f"A contract cannot be inferred from {type(data).__name__}: {error}.") from error
    if array.dtype.kind in "SU" and not isinstance(data, np.ndarray):
        array = np.array(data, dtype=object)  # as it was, before numbers became text
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2:
        raise InvalidSetting(
            f"A contract cannot be inferred from {type(data).__name__} of shape {list(array.shape)}.",
            hint="Give a data frame, a mapping of columns, or an array of shape (n_rows, n_columns).",
        )
    width = array.shape[1]
    if names is not None and len(names) != width:
        raise InvalidSetting(f"There are {len(names)} names for {width} columns.")
    named = [f"{prefix}_{position}" for position in range(width)] if names is None else list(names)
    return {str(name): _column(array[:, position]) for position, name in enumerate(named)}


def _column(values: Any) -> Column:
    """Return values as a column of a dtype that fields know, vectors as 2-D."""
    array: Column
    if isinstance(values, list | tuple):
        array = _objects(values)  # numpy would make text of numbers that stand beside it
    else:
        array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.dtype != object:
        return array.astype(object) if array.dtype.kind in "SU" else array
    flat = array.tolist()
    kept = [value for value in flat if not _is_missing(value)]
    if kept and all(isinstance(value, bool | np.bool_) for value in kept) and len(kept) == len(flat):
        return np.array(flat, dtype=np.bool_)
    if kept and all(_is_number(value) for value in kept):
        return np.array([np.nan if _is_missing(value) else value for value in flat])
    if kept and all(isinstance(value, list | tuple | np.ndarray) for value in kept):
        return _vectors(flat)
    return _objects([None if _is_missing(value) else value for value in flat])


def _vectors(values: list[Any]) -> Column:
    arrays = [np.asarray(value) for value in values]
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else _objects(arrays)


def _objects(values: Sequence[Any]) -> Column:
    out = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        out[position] = value
    return out


def _infer(name: str, column: Column, source: str, known: Sequence[str] = ()) -> Field:
    doc = "" if name == source else f"From the column {source!r}."
    if column.dtype == object:
        return _infer_objects(name, column, source, doc, known)
    shape = column.shape[1:]
    kind = column.dtype.kind
    if kind in "Mm":
        missing = bool(np.isnat(column).any())
        if missing:
            raise InvalidSetting(
                f"Column {source!r} has missing times, which a contract cannot leave open.",
                hint="Fill them, or leave those rows out.",
                field=name,
            )
        return Field(name, DataType.TIMESTAMP if kind == "M" else DataType.DURATION, shape=shape, doc=doc)
    type_ = _TYPES.get(column.dtype.newbyteorder("="))
    if type_ is None:
        raise InvalidSetting(
            f"Column {source!r} has dtype {column.dtype}, which no field can hold.", field=name
        )
    return Field(name, type_, shape=shape, optional=kind == "f" and bool(np.isnan(column).any()), doc=doc)


def _infer_objects(name: str, column: Column, source: str, doc: str, known: Sequence[str]) -> Field:
    values = column.tolist()
    present = [value for value in values if value is not None]
    optional = len(present) < len(values)
    if _all(present, np.ndarray):
        element = _infer(name, np.concatenate([value.reshape(-1) for value in present]), source)
        free: tuple[int | None, ...] = (None,) * present[0].ndim
        return msgspec.structs.replace(element, shape=free, optional=False, categories=(), doc=doc)
    if _all(present, str):
        shown = sorted({str(value) for value in present})  # numpy's own str is none that JSON knows
        distinct = tuple(dict.fromkeys([*known, *shown]))
        most = MAX_INFERRED_CATEGORIES if known else len(present) // _MIN_ROWS_PER_CATEGORY
        if len(distinct) <= min(MAX_INFERRED_CATEGORIES, most):
            return Field(name, DataType.CATEGORY, categories=distinct, optional=optional, doc=doc)
        return Field(name, DataType.STRING, optional=optional, doc=doc)
    for kind, type_ in _OBJECT_TYPES.items():
        if _all(present, kind) and (type_ is DataType.BYTES or not optional):
            return Field(name, type_, optional=optional, doc=doc)
    kinds = sorted({type(value).__name__ for value in values})
    hint = "Make it numbers, text, times or vectors of one of them."
    if _all(present, bool):
        hint = "A truth value cannot be missing: fill the gaps, or make it numbers (pandas: .astype(float))."
    raise InvalidSetting(
        f"Column {source!r} holds {', '.join(kinds)}, which no field can.",
        hint=hint,
        field=name,
    )


_TYPES = {kind.dtype: kind for kind in DataType if kind.is_float or kind.is_integer or kind is DataType.BOOL}
_OBJECT_TYPES: dict[type, DataType] = {
    bytes: DataType.BYTES,
    dt.datetime: DataType.TIMESTAMP,
    dt.timedelta: DataType.DURATION,
}


def _all(values: list[Any], kind: type) -> bool:
    return bool(values) and all(isinstance(value, kind) for value in values)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
        or (type(value).__name__ in ("NAType", "NaTType"))
    )


def _identifier(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text)
    name = re.sub(r"\W+", "_", plain).strip("_")
    if not name or not name[0].isidentifier():
        name = f"x_{name}" if name else ""
    if keyword.iskeyword(name) or name in RESERVED_NAMES:
        name += "_"
    return name if name.isidentifier() else ""
