"""The lookup table: exact match on key columns, and what happens where nothing matches."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract, DataType, Field
from tidegate.contract.wire import duration_us, timestamp_us
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec

TABLE_FILE = "table.json"
"""Name of the table inside an artifact that is a folder."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of keys and values, as plain JSON.

    Attributes:
        columns: Names: key columns and output columns, in any order.
        rows: One list a row, in the order of `columns`. A key that is null makes the row one of a
            coarser level (see `LookupOptions.levels`).
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class LookupOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a spec of kind `lookup`; `constant` is one with a default and nothing else.

    Attributes:
        levels: Key columns of each level, tried in order until one matches. A row of the table
            belongs to the level whose columns are exactly its keys that are not null.
        table: The table, unless the spec's artifact is it.
        missing: What a row without a match gets: the default row, or an error.
        default: Output field -> value for rows without a match.
    """

    levels: tuple[tuple[str, ...], ...] = ()
    table: Table | None = None
    missing: Literal["default", "raise"] = "default"
    default: dict[str, Any] | None = None


class LookupPredictor:
    """Answers from a table in memory."""

    def __init__(self, contract: Contract, options: LookupOptions, table: Table | None = None) -> None:
        """Index a table.

        Args:
            contract: Names the key columns among its inputs, and the outputs.
            options: Levels, and what happens without a match.
            table: The rows; `options.table` where None.

        Raises:
            InvalidSetting: Table, options and contract do not fit together; says where.
        """
        self.contract = contract
        self._options = options
        table = table or options.table or Table((), ())
        self._check(table)
        self._levels = list(self._index(table))
        self._columns = {field.name: self._values(table, field) for field in contract.output.fields}

    def predict(self, batch: Batch) -> Batch:
        """Look every row up; see `Predictor.predict`.

        Raises:
            PredictorError: A row matches nothing, and the options say that this is an error.
        """
        found: npt.NDArray[np.intp] | None = None
        for names, positions in self._levels:
            if found is None:
                found = _find(names, positions, batch)
                continue
            missing = np.flatnonzero(found < 0)
            if not len(missing):
                break
            found[missing] = _find(names, positions, batch.select(names).take(missing))
        if found is None:
            found = np.full(batch.n_rows, -1, np.intp)
        if self._options.missing == "raise" and bool((found < 0).any()):
            rows = np.flatnonzero(found < 0)
            keys = " and ".join(", ".join(names) for names, _ in self._levels)
            raise PredictorError(
                f"{len(rows)} of {batch.n_rows} rows have no entry in the lookup table by {keys}; "
                f"the first is row {rows[0]}.",
                hint="Add the missing keys to the table, or declare a default row (missing='default').",
                row=int(rows[0]),
            )
        # Position -1 of each column is the default row.
        return Batch({name: column[found] for name, column in self._columns.items()}, batch.n_rows)

    def warm_up(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""

    def _check(self, table: Table) -> None:
        inputs, outputs = self.contract.input.by_name, self.contract.output.names
        keys = {name for level in self._options.levels for name in level}
        unknown = sorted(name for name in keys if name not in inputs)
        if unknown:
            raise InvalidSetting(
                f"The lookup's key columns {', '.join(unknown)} are not input fields of the contract.",
                hint=f"The contract takes {', '.join(inputs)}.",
            )
        vectors = sorted(name for name in keys if not inputs[name].is_scalar)
        if vectors:
            raise InvalidSetting(f"The lookup's key columns {', '.join(vectors)} are not scalars.")
        if any(not level for level in self._options.levels):
            raise InvalidSetting("A level of a lookup without key columns is its default row; leave it out.")
        if self._options.levels:
            lacking = sorted((keys | set(outputs)) - set(table.columns))
            if lacking:
                raise InvalidSetting(
                    f"The lookup table lacks the columns {', '.join(lacking)}; "
                    f"it has {', '.join(table.columns)}."
                )
        bad = next((row for row, cells in enumerate(table.rows) if len(cells) != len(table.columns)), None)
        if bad is not None:
            raise InvalidSetting(
                f"Row {bad} of the lookup table has {len(table.rows[bad])} cells, expected "
                f"{len(table.columns)}.",
                row=bad,
            )
        self._check_default(outputs)

    def _check_default(self, outputs: Sequence[str]) -> None:
        default = self._options.default
        if self._options.missing == "raise":
            if not self._options.levels:
                raise InvalidSetting("A lookup without key columns needs a default row.")
            return
        if default is None or set(default) != set(outputs):
            raise InvalidSetting(
                f"The lookup's default row must give {', '.join(outputs)}; it gives "
                f"{', '.join(default or {}) or 'nothing'}.",
                hint="Give default={...} with every output field, or declare missing='raise'.",
            )

    def _index(self, table: Table) -> Iterator[tuple[tuple[str, ...], dict[Hashable, int]]]:
        """Yield each level's key columns and the row that each key stands in."""
        at = {name: position for position, name in enumerate(table.columns)}
        all_keys = list(dict.fromkeys(name for level in self._options.levels for name in level))
        used = 0
        for names in self._options.levels:
            positions: dict[Hashable, int] = {}
            for row, cells in enumerate(table.rows):
                if any((cells[at[name]] is not None) != (name in names) for name in all_keys):
                    continue
                key = tuple(cells[at[name]] for name in names)
                if not all(isinstance(part, Hashable) for part in key):
                    raise InvalidSetting(
                        f"The key in row {row} of the lookup table is not a scalar.", row=row
                    )
                single = key[0] if len(key) == 1 else key
                if single in positions:
                    raise InvalidSetting(
                        f"Rows {positions[single]} and {row} of the lookup table have the same key "
                        f"({', '.join(names)}).",
                        row=row,
                    )
                positions[single] = row
            used += len(positions)
            yield names, positions
        if self._options.levels and used != len(table.rows):
            raise InvalidSetting(
                f"{len(table.rows) - used} rows of the lookup table belong to no level: their keys that are "
                f"not null are none of {[list(level) for level in self._options.levels]}."
            )

    def _values(self, table: Table, field: Field) -> Column:
        """Return one output's values by table row, and the default's at the end."""
        cells: list[Any] = []
        if self._options.levels:
            position = table.columns.index(field.name)
            cells = [row[position] for row in table.rows]
        default = (self._options.default or {}).get(field.name)
        if self._options.missing == "default":
            cells.append(default)
        column = to_column(cells, field, f"the lookup's column {field.name!r}")
        if self._options.missing == "raise":  # nothing is ever taken from position -1
            column = np.concatenate([column, column[-1:]]) if len(column) else column
        return column


def _find(names: Sequence[str], positions: Mapping[Hashable, int], batch: Batch) -> npt.NDArray[np.intp]:
    """Return each row's position in the table, -1 where its key is not there."""
    get = positions.get
    columns = [batch.columns[name].tolist() for name in names]
    keys = columns[0] if len(columns) == 1 else zip(*columns, strict=True)
    return np.fromiter((get(key, -1) for key in keys), np.intp, batch.n_rows)


def to_column(cells: Sequence[Any], field: Field, where: str) -> Column:
    """Make a column of an output field out of plain JSON values, checked against the field.

    Raises:
        InvalidSetting: A value is not of the field's type, shape or range.
    """
    cells = [_value_of(cell, field) for cell in cells]
    for row, cell in enumerate(cells):
        if not _fits(cell, field):
            raise InvalidSetting(
                f"Value {cell!r} in row {row} of {where} is not a {field.type.value} "
                f"{'within its range ' if field.has_range else ''}as the contract declares {field.name!r}.",
                field=field.name,
                row=row,
            )
    column = np.empty((len(cells), *(dim or 0 for dim in field.shape)), field.type.dtype)
    if None in field.shape:
        raise InvalidSetting(f"Output field {field.name!r} has a free dimension, which no table can give.")
    for row, cell in enumerate(cells):
        column[row] = np.nan if cell is None and field.type.is_float else cell
    return column


def _value_of(cell: Any, field: Field) -> Any:
    """Return a cell as a column holds it: times and bytes are text in JSON, as they are on the wire."""
    if isinstance(cell, list | tuple) and field.shape:
        return [_value_of(part, field) for part in cell]
    if not isinstance(cell, str):
        return cell
    try:
        if field.type is DataType.TIMESTAMP:
            moment = msgspec.convert(cell, datetime)
            return timestamp_us(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
        if field.type is DataType.DURATION:
            return duration_us(msgspec.convert(cell, timedelta))
        if field.type is DataType.BYTES:
            return msgspec.convert(cell, bytes)
    except msgspec.ValidationError:
        return cell  # refused as what it is
    return cell


def _fits(cell: Any, field: Field) -> bool:
    if field.shape:
        return np.shape(cell) == field.shape and all(
            _fits_scalar(part, field) for part in np.asarray(cell, object).ravel().tolist()
        )
    return _fits_scalar(cell, field)


def _fits_scalar(cell: Any, field: Field) -> bool:
    if cell is None:
        return field.optional and not (field.type.is_integer or field.type is DataType.BOOL)
    if field.type is DataType.CATEGORY:
        return cell in field.categories
    if field.type is DataType.STRING:
        return isinstance(cell, str)
    if field.type is DataType.BYTES:
        return isinstance(cell, bytes)
    if field.type is DataType.BOOL:
        return isinstance(cell, bool)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return False
    if not field.type.is_float and not isinstance(cell, int):
        return False
    return (
        (field.ge is None or cell >= field.ge)
        and (field.gt is None or cell > field.gt)
        and (field.le is None or cell <= field.le)
        and (field.lt is None or cell < field.lt)
    )


def read_table(path: Path) -> Table:
    """Read a table from its JSON file, or from the folder that holds it.

    Raises:
        LoadError: It cannot be read as a table.
    """
    file = path / TABLE_FILE if path.is_dir() else path
    try:
        return msgspec.json.decode(file.read_bytes(), type=Table)
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadError(
            f"The lookup table {file.name} cannot be read: {error}",
            hint='It is JSON: {"columns": ["carrier", "p_late"], "rows": [["AA", 0.2], ...]}.',
            path=str(file),
        ) from error


def build_lookup(spec: Spec, context: BuildContext) -> LookupPredictor:
    """Build the predictor of a spec of kind `lookup` or `constant`; see `LookupOptions`.

    Raises:
        LoadError: The table cannot be read.
        InvalidSetting: Options, table and contract do not fit together.
    """
    try:
        options = msgspec.convert(spec.options, LookupOptions)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"The options of a {spec.kind} predictor cannot be used: {error}") from error
    if spec.kind == "constant" and (options.levels or options.table or options.missing != "default"):
        raise InvalidSetting("A constant predictor has a default row and no table.")
    table = read_table(context.open_artifact(spec.artifact)) if spec.artifact is not None else None
    return LookupPredictor(context.contract, options, table)
