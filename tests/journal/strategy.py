"""Random layouts, batches and turns."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.journal.record import RecordKind, Stream, Turn

US = st.integers(min_value=0, max_value=2**52)
TEXT = st.text(max_size=12)
SIZES = st.sampled_from([None, 1, 2, 3])


@st.composite
def columns(draw: st.DrawFn, *, prefix: str, min_size: int = 0) -> tuple[Column, ...]:
    types = draw(st.lists(st.sampled_from(list(DataType)), min_size=min_size, max_size=3))
    found = []
    for position, kind in enumerate(types):
        shape = draw(st.one_of(st.just(()), st.lists(SIZES, min_size=1, max_size=2).map(tuple)))
        categories: tuple[str, ...] = ()
        group_only = False
        if kind is DataType.CATEGORY:
            categories = tuple(draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)))
            group_only = draw(st.booleans())
        found.append(Column(f"{prefix}{position}", kind, shape, categories, group_only=group_only))
    return tuple(found)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    return Stream(
        service=draw(st.sampled_from(["churn", "delay"])),
        version=draw(st.integers(1, 9)),
        contract=Digest("sha256:" + "0" * 64),
        layout=Layout(draw(columns(prefix="in", min_size=1)), draw(columns(prefix="out", min_size=1))),
        arm=draw(st.sampled_from(["stable", "candidate"])),
        share=draw(st.floats(0, 1)),
        kind=draw(st.sampled_from([RecordKind.PREDICTION, RecordKind.SHADOW])),
    )


def _element(column: Column) -> st.SearchStrategy[Any]:
    if column.type is DataType.STRING:
        return st.one_of(st.none(), TEXT)
    if column.type is DataType.BYTES:
        return st.one_of(st.none(), st.binary(max_size=8))
    return st.one_of(st.none(), st.sampled_from(column.categories))


def _array(draw: st.DrawFn, column: Column, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if column.type.dtype != np.dtype(object):
        return draw(hnp.arrays(column.type.dtype, shape))
    size = int(np.prod(shape, dtype=np.int64))
    flat = np.empty(size, dtype=object)
    flat[:] = draw(st.lists(_element(column), min_size=size, max_size=size))
    return flat.reshape(shape)


@st.composite
def batches(draw: st.DrawFn, stored: tuple[Column, ...], n_rows: int) -> Batch:
    found: dict[str, Any] = {}
    for column in stored:
        if None not in column.shape:
            found[column.name] = _array(draw, column, (n_rows, *(size or 0 for size in column.shape)))
            continue
        ragged = np.empty(n_rows, dtype=object)
        for row in range(n_rows):
            shape = tuple(draw(st.integers(0, 3)) if size is None else size for size in column.shape)
            ragged[row] = draw(st.one_of(st.none(), st.just(_array(draw, column, shape))))
        found[column.name] = ragged
    return Batch(found, n_rows)


@st.composite
def turns(draw: st.DrawFn, stream: Stream, *, lone: bool = False) -> Turn:
    """Draw a turn of one stream; a lone one has one request of one row."""
    n_requests = 1 if lone else draw(st.integers(1, 4))
    sizes = st.just(1) if lone else st.integers(0, 3)
    per_request = draw(st.one_of(st.none(), st.lists(sizes, min_size=n_requests, max_size=n_requests)))
    n_rows = n_requests if per_request is None else sum(per_request)

    def some(element: st.SearchStrategy[Any], size: int) -> Any:
        return draw(st.one_of(st.none(), st.lists(element, min_size=size, max_size=size)))

    def one_or_each(element: st.SearchStrategy[Any]) -> Any:
        return draw(st.one_of(element, st.lists(element, min_size=n_requests, max_size=n_requests)))

    each = {"min_size": n_requests, "max_size": n_requests}
    sixteen = st.binary(min_size=16, max_size=16)
    return Turn(
        request_ids=draw(st.lists(sixteen, **each)),
        arrived_us=draw(st.lists(US, **each)),
        inputs=draw(st.one_of(st.none(), batches(stream.layout.inputs, n_rows))),
        outputs=draw(st.one_of(st.none(), batches(stream.layout.outputs, n_rows))),
        rows_per_request=per_request,
        caller_ids=some(TEXT, n_requests),
        trace_ids=some(sixteen, n_requests),
        key_hashes=some(sixteen, n_rows),
        buckets=some(st.floats(0, 1), n_rows),
        flags=one_or_each(st.integers(0, 63)),
        errors=some(
            st.one_of(st.none(), st.sampled_from(["deadline_exceeded", "predictor_failed"])), n_requests
        ),
        service_time_us=one_or_each(st.floats(0, 1e8, width=32)),
        batch_rows=draw(st.integers(0, 2**32 - 1)),
        answered_by=draw(st.sampled_from(["", "constant", "délai"])),
        took_us=some(st.floats(0, 1e8, width=32), n_requests),
        parent_ids=some(st.binary(min_size=8, max_size=8), n_requests),
    )
