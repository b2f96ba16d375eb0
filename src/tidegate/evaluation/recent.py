"""The most recent outcomes as rows to judge by: what was asked, what was answered, what came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tidegate.contract.batch import Column
from tidegate.contract.infer import columns_of
from tidegate.core.error import NotFound
from tidegate.journal.record import RecordKind

AT = "at_us"
"""Column of when a prediction was asked for, where its event has no time of its own."""


class Known(NamedTuple):
    """A prediction whose outcome is known.

    Attributes:
        prediction_id: Its public id.
        at_us: When it was asked for, microseconds UTC, to the minute.
        outputs: What was answered.
        value: What came true.
    """

    prediction_id: str
    at_us: int
    outputs: Mapping[str, Any]
    value: Any


class RecentRows(NamedTuple):
    """Rows to judge by.

    Attributes:
        columns: The target, `AT`, the outputs, and the inputs if all of them are still in the journal.
        answers: The judged output, shape (n_rows,) or (n_rows, n_values).
        has_inputs: Whether the inputs are there.
    """

    columns: dict[str, Column]
    answers: Column
    has_inputs: bool


def recent_rows(
    known: Sequence[Known], files: Sequence[Path], *, target: str, output: str, version: int
) -> RecentRows:
    """Put outcomes beside what was asked.

    Args:
        known: Predictions with their outcomes, each once.
        files: The journal's records as Parquet, of the version's contract; those that are not among
            `known` are left out.
        target: Name of the outcome: the column that it becomes.
        output: Output field that is judged.
        version: Number of the version that answered.

    Raises:
        NotFound: There is no outcome.
    """
    usable = [each for each in known if each.outputs.get(output) is not None]
    if not usable:
        raise NotFound(
            f"No outcome {target!r} is known of any answer of version {version}.",
            hint="Outcomes are reported to POST /services/{name}/outcomes.",
        )
    answers = np.array([each.outputs[output] for each in usable])
    columns: dict[str, Column] = {
        target: columns_of({target: [each.value for each in usable]})[target],
        AT: np.array([each.at_us for each in usable], dtype=np.int64),
    }
    inputs = _inputs([each.prediction_id for each in usable], files)
    return RecentRows(inputs | columns, answers, bool(inputs))


def _inputs(ids: list[str], files: Sequence[Path]) -> dict[str, Column]:
    """Return the inputs of predictions in the order of `ids`; none where one of them is not there.

    A shadow's record holds none: they stand with what answered the request, whichever version that was.
    """
    wanted = pl.DataFrame({"prediction_id": ids})
    parts = []
    for path in files:
        rows = pl.scan_parquet(path).filter(pl.col("kind") == RecordKind.PREDICTION.value)
        names = [name for name in rows.collect_schema() if name.startswith("input.")]
        rows = rows.select("prediction_id", *names).join(wanted.lazy(), on="prediction_id", how="semi")
        parts.append(rows.collect())
    if not parts:
        return {}
    found = pl.concat(parts, how="diagonal_relaxed").unique("prediction_id", keep="first")
    if len(found) < len(ids):
        return {}
    joined = wanted.join(found, on="prediction_id", how="left", maintain_order="left").drop("prediction_id")
    plain = joined.select(
        column.cast(pl.String) if column.dtype in (pl.Enum, pl.Categorical) else column for column in joined
    )
    return {
        name.removeprefix("input."): _as_stored(plain[name], column)
        for name, column in columns_of(plain).items()
    }


def _as_stored(series: pl.Series, column: Column) -> Column:
    # A time is its microseconds in a batch, whatever a data frame makes of it.
    if series.dtype.is_temporal():
        return series.to_physical().to_numpy()
    return column
