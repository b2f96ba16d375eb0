from __future__ import annotations

import polars as pl
import pytest

from tidegate.adapter.parquet.stack import TableStack


@pytest.mark.parametrize("n_tables", [1, 31, 32, 33, 1023, 1024, 1100])
def test_rows_stay_in_order_in_few_tables(n_tables):
    stack = TableStack()

    for number in range(n_tables):
        stack.push(pl.DataFrame({"x": [2 * number, 2 * number + 1], "t": [str(number)] * 2}))

    whole = stack.whole()
    assert whole["x"].to_list() == list(range(2 * n_tables))
    assert whole["t"].to_list() == [str(number) for number in range(n_tables) for _ in range(2)]
    assert stack.n_tables < 3 * 32
