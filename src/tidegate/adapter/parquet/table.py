"""Turns as tables: what column of a record becomes what column of a data frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tidegate.contract.batch import Batch
from tidegate.contract.batch import Column as Values
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.journal.decode import Ints, Turns
from tidegate.journal.record import NO_ID, Flag

TIME = pl.Datetime("us", "UTC")

_SCALARS: dict[DataType, pl.DataType] = {
    DataType.BOOL: pl.Boolean(),
    DataType.INT8: pl.Int8(),
    DataType.INT16: pl.Int16(),
    DataType.INT32: pl.Int32(),
    DataType.INT64: pl.Int64(),
    DataType.UINT8: pl.UInt8(),
    DataType.UINT16: pl.UInt16(),
    DataType.UINT32: pl.UInt32(),
    DataType.UINT64: pl.UInt64(),
    DataType.FLOAT16: pl.Float32(),  # few readers of Parquet know its half precision
    DataType.FLOAT32: pl.Float32(),
    DataType.FLOAT64: pl.Float64(),
    DataType.STRING: pl.String(),
    DataType.BYTES: pl.Binary(),
    DataType.TIMESTAMP: TIME,
    DataType.DURATION: pl.Duration("us"),
}
_META: dict[str, pl.DataType] = {
    "prediction_id": pl.String(),
    "kind": pl.String(),
    "version": pl.Int64(),
    "arm": pl.String(),
    "share": pl.Float64(),
    "arrived_at": TIME,
    "event_at": TIME,
    "caller_id": pl.String(),
    "trace_id": pl.String(),
    "key_hash": pl.String(),
    "bucket": pl.Float64(),
    **{str(flag.name).lower(): pl.Boolean() for flag in Flag},
    "error": pl.String(),
    "answered_by": pl.String(),
    "service_us": pl.Float32(),
    "batch_rows": pl.Int64(),
    "segment": pl.String(),
    "offset": pl.Int64(),
}


def scalar_of(column: Column) -> pl.DataType:
    """Return the type of one element of a stored column."""
    if column.type is DataType.CATEGORY:
        return pl.String() if column.group_only else pl.Enum(column.categories)
    return _SCALARS[column.type]


def type_of(column: Column) -> pl.DataType:
    """Return the type of one row's value of a stored column."""
    element = scalar_of(column)
    if None not in column.shape:
        fixed = tuple(size or 0 for size in column.shape)
        return pl.Array(element, fixed) if fixed else element
    for _ in column.shape:
        element = pl.List(element)
    return element


def schema_of(layout: Layout) -> dict[str, pl.DataType]:
    """Return the columns of a table of records: what every record has, then inputs and outputs."""
    return (
        _META
        | {f"input.{column.name}": type_of(column) for column in layout.inputs}
        | {f"output.{column.name}": type_of(column) for column in layout.outputs}
    )


def table_of(turns: Turns, segment: str, offsets: Ints) -> pl.DataFrame:
    """Return the rows of turns.

    Args:
        turns: Turns of one stream.
        segment: Name of the segment they are from.
        offsets: Where each frame begins, shape (n_frames,).
    """
    layout = turns.stream.layout
    found = _meta(turns, segment, offsets)
    for side, columns, batch in (
        ("input", layout.inputs, turns.inputs),
        ("output", layout.outputs, turns.outputs),
    ):
        for column in columns:
            found[f"{side}.{column.name}"] = _series(column, batch, turns.n_rows)
    return pl.DataFrame(found).with_columns(_prediction_id()).select(list(schema_of(layout)))


def _meta(turns: Turns, segment: str, offsets: Ints) -> dict[str, pl.Series]:
    request = turns.request_of_row
    frame = turns.frame_of_request[request]
    flags = turns.flags[request]
    stream = turns.stream

    def per_request(values: Values) -> Values:
        column: Values = values[request]
        return column

    def constant(value: object, dtype: pl.DataType) -> pl.Series:
        return pl.Series([value], dtype=dtype).new_from_index(0, turns.n_rows)

    def texts(values: list[str | None] | None, index: Values) -> pl.Series:
        if values is None:
            return constant(None, pl.String())
        return pl.Series(values, dtype=pl.String).gather(index)

    has_time = bool(stream.layout.event_time)
    return {
        "_request": _sixteen(turns.request_ids).gather(request),
        "_row": pl.Series(turns.row_in_request),
        "kind": constant(stream.kind.value, pl.String()),
        "version": constant(stream.version, pl.Int64()),
        "arm": constant(stream.arm, pl.String()),
        "share": constant(stream.share, pl.Float64()),
        "arrived_at": pl.Series(per_request(turns.arrived_us)).cast(TIME),
        "event_at": pl.Series(turns.event_us).cast(TIME) if has_time else constant(None, TIME),
        "caller_id": texts(turns.caller_ids, request),
        "trace_id": _hex(turns.trace_ids, turns.n_requests).gather(request),
        "key_hash": _hex(turns.key_hashes, turns.n_rows),
        "bucket": constant(None, pl.Float64()) if turns.buckets is None else pl.Series(turns.buckets),
        **{str(flag.name).lower(): pl.Series((flags & flag.value) != 0) for flag in Flag},
        "error": texts(turns.errors, request),
        "answered_by": texts(list(turns.answered_by) if turns.answered_by else None, frame),
        "service_us": pl.Series(per_request(turns.service_us)),
        "batch_rows": pl.Series(turns.heads["batch_rows"][frame].astype(np.int64)),
        "segment": constant(segment, pl.String()),
        "offset": pl.Series(offsets[frame]),
    }


def _sixteen(joined: bytes) -> pl.Series:
    """Return 16 bytes each as hexadecimal digits."""
    pieces = np.frombuffer(joined, "V16").tolist()
    return pl.Series(pieces, dtype=pl.Binary).bin.encode("hex")


def _hex(joined: bytes | None, count: int) -> pl.Series:
    if joined is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    digits = _sixteen(joined)
    return digits.set(digits == NO_ID.hex(), None)


def _prediction_id() -> pl.Expr:
    """Write ids as `format_prediction_id` does, a column at a time."""
    digits = pl.col("_request")
    cuts = [(0, 8), (8, 4), (12, 4), (16, 4), (20, 12)]
    text = pl.concat_str([digits.str.slice(at, size) for at, size in cuts], separator="-")
    row = pl.col("_row")
    return (
        pl.when(row == 0).then(text).otherwise(pl.concat_str([text, row.cast(pl.String)], separator="."))
    ).alias("prediction_id")


def _series(column: Column, batch: Batch | None, n_rows: int) -> pl.Series:
    dtype = type_of(column)
    if batch is None:
        return pl.Series([None], dtype=dtype).new_from_index(0, n_rows)
    values = batch[column.name]
    if None in column.shape:
        rows: list[Any] = [None if row is None else row.tolist() for row in values]
        return pl.Series(rows, dtype=dtype)
    if values.dtype == np.dtype(object):
        return pl.Series(values.tolist(), dtype=dtype)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return pl.Series(np.ascontiguousarray(values)).cast(dtype)
