import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.decode import RowDecoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.gather import block_groups
from tidegate.contract.schema import Schema
from tidegate.testing import strategy

SCHEMA = Schema(
    (
        Field("a", DataType.FLOAT64),
        Field("n", DataType.INT64),
        Field("s", DataType.STRING),
        Field("b", DataType.FLOAT64, optional=True),
        Field("at", DataType.TIMESTAMP),
        Field("v", DataType.FLOAT64, shape=(2,)),
    )
)
BODY = b'{"rows":[{"a":1,"n":2,"s":"x","b":3,"at":4,"v":[5,6]},{"a":7,"n":8,"s":"y","at":9,"v":[0,1]}]}'


def gathered(schema, body):
    decoder = RowDecoder(schema)
    return decoder.gather(decoder.decode(body)[0])


def test_scalars_of_one_dtype_share_a_block_in_schema_order():
    batch = gathered(SCHEMA, BODY)

    np.testing.assert_array_equal(batch.block(("a", "b")), [[1, 3], [7, np.nan]])
    np.testing.assert_array_equal(batch.block(("n", "at")), [[2, 4], [8, 9]])
    assert block_groups(SCHEMA.fields)[0] == (("a", "b"), np.float64)


def test_columns_are_views_of_their_block():
    batch = gathered(SCHEMA, BODY)

    assert np.shares_memory(batch["a"], batch.block(("a", "b")))
    assert batch.matrix(("a", "b"), np.float64) is not None
    assert np.shares_memory(batch.matrix(("a", "b"), np.float64), batch.block(("a", "b")))


def test_columns_come_in_schema_order():
    assert list(gathered(SCHEMA, BODY).columns) == list(SCHEMA.names)


def test_columns_can_be_written_to():
    batch = gathered(SCHEMA, BODY)
    batch["a"][0] = 11.0

    assert batch["a"].tolist() == [11.0, 7.0]


def test_rows_of_several_bodies_gather_into_one_batch():
    decoder = RowDecoder(SCHEMA)
    rows = decoder.decode(BODY)[0] + decoder.decode(BODY)[0]

    assert decoder.gather(rows)["n"].tolist() == [2, 8, 2, 8]


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_columns_have_the_dtype_and_shape_of_their_fields(data, schema):
    batch = data.draw(strategy.batches(schema))

    for field in schema.fields:
        column = batch[field.name]
        if None in field.shape:
            assert column.dtype == object
            assert {array.ndim for array in column} == {len(field.shape)}
            assert {array.dtype for array in column} == {field.type.dtype}
        else:
            assert (column.dtype, column.shape) == (field.type.dtype, (batch.n_rows, *field.shape))


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_rows_gather_alone_as_they_do_together(data, schema):
    decoder = RowDecoder(schema)
    drawn = data.draw(st.lists(strategy.rows(schema), min_size=2, max_size=4))
    rows = [decoder.decode(msgspec.json.encode(row))[0][0] for row in drawn]

    together = decoder.gather(rows)

    for position, row in enumerate(rows):
        alone = decoder.gather([row])
        piece = together.rows(position, position + 1)
        assert all(strategy.same(alone[name], piece[name]) for name in schema.names)
