import numpy as np
import pytest

from tidegate.contract.batch import Batch, BatchError, BlockColumns


def blocked():
    block = np.arange(6.0).reshape(3, 2)
    columns = BlockColumns(("a", "n", "b"), {"a": (0, 0), "b": (0, 1)}, [block], {"n": np.arange(3)})
    return Batch(columns, 3, blocks={("a", "b"): block}), block


def test_columns_of_one_length_make_a_batch():
    batch = Batch.of({"a": np.zeros(2), "b": np.ones((2, 3))})

    assert (len(batch), batch["b"].shape) == (2, (2, 3))


@pytest.mark.parametrize("columns", [{}, {"a": np.zeros(1), "b": np.zeros(2)}])
def test_columns_that_make_no_batch_are_refused(columns):
    with pytest.raises(BatchError):
        Batch.of(columns)


def test_block_columns_are_views_in_order():
    batch, block = blocked()

    assert list(batch.columns) == ["a", "n", "b"]
    assert (len(batch.columns), "b" in batch.columns, "z" in batch.columns) == (3, True, False)
    assert np.shares_memory(batch["b"], block)
    assert batch["b"].tolist() == [1, 3, 5]
    assert batch.columns.get("z") is None


def test_matrix_of_a_block_is_the_block():
    batch, block = blocked()

    assert batch.matrix(("a", "b"), np.float64) is block
    assert batch.matrix(("b", "a"), np.float64).tolist() == block[:, ::-1].tolist()
    assert batch.matrix(("a", "b"), np.float32).dtype == np.float32


def test_rows_keep_their_blocks_as_views():
    batch, block = blocked()
    piece = batch.rows(1, 3)

    assert (piece.n_rows, piece["n"].tolist(), piece["a"].tolist()) == (2, [1, 2], [2, 4])
    assert np.shares_memory(piece.block(("a", "b")), block)


def test_take_and_concat_copy_rows_in_order():
    batch, _ = blocked()
    twice = Batch.concat([batch.take([2, 0]), batch.rows(1, 2)])

    assert twice["n"].tolist() == [2, 0, 1]
    assert twice["b"].tolist() == [5, 1, 3]
    assert Batch.concat([batch]) is batch


def test_select_keeps_the_named_columns():
    batch, _ = blocked()

    assert list(batch.select(["n"]).columns) == ["n"]
