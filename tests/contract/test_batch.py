from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.batch import Batch, BlockColumns
from tidegate.contract.decode import RowDecoder
from tidegate.contract.schema import DataType, Field, Schema

SCHEMA = Schema(
    (
        Field("a", DataType.FLOAT64),
        Field("n", DataType.INT32),
        Field("b", DataType.FLOAT64),
        Field("name", DataType.STRING),
        Field("trace", DataType.FLOAT32, shape=(2,)),
        Field("free", DataType.FLOAT32, shape=(None,)),
    )
)


def gathered(values: list[int]) -> Batch:
    decoder = RowDecoder(SCHEMA)
    rows = [
        decoder.row_type(a=v, n=v + 1, b=v + 2, name=str(v), trace=[v, v + 1], free=[v] * (v % 3))
        for v in values
    ]
    return decoder.gather(rows)


def plain(batch: Batch) -> dict[str, Any]:
    return {
        name: [value.tolist() if isinstance(value, np.ndarray) else value for value in batch[name]]
        for name in batch.columns
    }


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=4), min_size=1, max_size=4))
def test_concat_of_parts_equals_gathering_all_rows_at_once(parts: list[list[int]]) -> None:
    joined = Batch.concat([gathered(part) for part in parts])

    whole = gathered([value for part in parts for value in part])
    assert joined.n_rows == whole.n_rows
    assert plain(joined) == plain(whole)
    block = joined.block(("a", "b"))
    assert block is not None
    assert np.array_equal(block, np.column_stack([whole["a"], whole["b"]]))


def test_concat_of_parts_laid_out_differently_keeps_columns() -> None:
    whole = gathered([1, 2])
    loose = Batch({name: whole[name] for name in SCHEMA.names}, 2)

    joined = Batch.concat([gathered([7]), loose])

    assert plain(joined) == plain(gathered([7, 1, 2]))
    assert not isinstance(joined.columns, BlockColumns)
