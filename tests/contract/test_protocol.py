import pytest

from tidegate.contract.field import DataType, Field
from tidegate.contract.protocol import DATATYPES, TensorMetadata, datatype_of, tensor_metadata
from tidegate.contract.schema import Schema

EXPECTED = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
    "category": "BYTES",
    "bytes": "BYTES",
    "timestamp": "INT64",
    "duration": "INT64",
}


@pytest.mark.parametrize("kind", list(DataType))
def test_datatype_of_every_type(kind):
    name = datatype_of(Field("x", kind))

    assert name == EXPECTED[kind.value]
    assert DATATYPES[name] == kind.dtype.newbyteorder("<")


def test_wire_dtypes_are_little_endian():
    assert {dtype.str[0] for dtype in DATATYPES.values()} == {"<", "|"}


def test_metadata_has_a_tensor_a_field_with_the_row_first():
    schema = Schema(
        (
            Field("x", DataType.FLOAT64),
            Field("v", DataType.FLOAT32, shape=(None, 3)),
            Field("s", DataType.STRING),
        )
    )

    assert tensor_metadata(schema) == [
        TensorMetadata("x", "FP64", (-1,)),
        TensorMetadata("v", "FP32", (-1, -1, 3)),
        TensorMetadata("s", "BYTES", (-1,)),
    ]


def test_metadata_without_batching_has_the_shapes_of_one_row():
    schema = Schema((Field("x", DataType.INT32), Field("v", DataType.INT32, shape=(1, 16))))

    assert [tensor.shape for tensor in tensor_metadata(schema, batched=False)] == [(1,), (1, 16)]
