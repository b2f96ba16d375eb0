"""How contracts meet models: what is found alone, and what is asked back."""

import numpy as np
import pytest

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Role, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import Binding, InputBinding, Signature, Tensor, bind, contract_from
from tidegate.predictor.tensor import Gather

F32, F64, I64, TEXT = DataType.FLOAT32, DataType.FLOAT64, DataType.INT64, DataType.STRING
P = Field("p", F64, ge=0, le=1)
MATRIX = Tensor("X", F32, (2,))
LABEL, SCORES = Tensor("label", I64), Tensor("probabilities", F32, (2,))


def contract(*fields, outputs=(P,), batched=True):
    return Contract(Schema(fields), Schema(tuple(outputs)), batched=batched)


def found(binding):
    return [item.fields for item in binding.inputs], [
        (item.field, item.tensor, item.index) for item in binding.outputs
    ]


def test_scalar_fields_fill_a_matrix_and_a_probability_is_the_positive_class():
    promise = contract(Field("a", F64), Field("b", I64))

    binding = bind(promise, Signature((MATRIX,), (LABEL, SCORES)))

    assert found(binding) == ([("a", "b")], [("p", "probabilities", 1)])
    assert Binding.from_options(binding.to_options(), promise) == binding


def test_fields_that_cannot_be_numbers_and_keys_stay_out_of_a_matrix():
    promise = contract(
        Field("tail", TEXT), Field("customer", I64, roles=(Role.KEY,)), Field("a", F64), Field("b", F64)
    )

    assert found(bind(promise, Signature((MATRIX,), (SCORES,))))[0] == [("a", "b")]


def test_the_models_own_feature_order_goes_before_the_contracts():
    promise = contract(Field("a", F64), Field("b", F64), Field("c", F64))

    binding = bind(promise, Signature((MATRIX,), (SCORES,)), features=["c", "a"])

    assert binding.inputs[0].fields == ("c", "a")


def test_a_matrix_of_another_width_is_refused_with_both_widths():
    promise = contract(Field("a", F64), Field("b", F64), Field("c", F64))

    with pytest.raises(InvalidSetting, match=r"has 2 columns; the contract has 3 fields .* a, b, c"):
        bind(promise, Signature((MATRIX,), (SCORES,)))


def test_tensors_take_the_fields_of_their_names():
    signature = Signature((Tensor("dep time", F32, (1,)), Tensor("carrier", TEXT, (1,))), (SCORES,))
    promise = contract(Field("carrier", DataType.CATEGORY, categories=("AA",)), Field("dep_time", F64))

    assert found(bind(promise, signature))[0] == [("dep_time",), ("carrier",)]


def test_missing_and_unfit_fields_are_named():
    signature = Signature(
        (Tensor("a", F32, (1,)), Tensor("b", TEXT, (1,)), Tensor("c", I64, (1,))), (SCORES,)
    )

    with pytest.raises(
        InvalidSetting, match=r"No field of these names: a\. .* b \(string\[1\]\) from field b"
    ):
        bind(contract(Field("b", F64), Field("c", I64)), signature)


def test_a_float_never_becomes_an_integer_unasked():
    signature = Signature((Tensor("a", I64, (1,)), Tensor("b", I64, (1,))), (SCORES,))

    with pytest.raises(InvalidSetting, match="do not fit: a"):
        bind(contract(Field("a", F64), Field("b", I64)), signature)


def test_one_vector_field_is_the_matrix_whatever_its_name():
    binding = bind(contract(Field("pixels", F32, (2,))), Signature((MATRIX,), (SCORES,)))

    assert found(binding)[0] == [("pixels",)]


@pytest.mark.parametrize(
    ("fields", "outputs", "expected"),
    [
        ([Field("score", F64)], [Tensor("variable", F32, (1,))], [("score", "variable", 0)]),
        ([Field("score", F64)], [Tensor("y", F32)], [("score", "y", None)]),
        ([Field("kind", TEXT)], [Tensor("label", TEXT), SCORES], [("kind", "label", None)]),
        (
            [Field("y", F32), Field("z", F32)],
            [Tensor("z", F32), Tensor("y", F32)],
            [("y", "y", None), ("z", "z", None)],
        ),
        (
            [Field("one", F64), Field("two", F64)],
            [Tensor("out", F32, (2,))],
            [("one", "out", 0), ("two", "out", 1)],
        ),
        (
            [Field("p_b", F64), Field("p_a", F64)],
            [LABEL, Tensor("probabilities", F32, (2,), classes=("a", "b"))],
            [("p_b", "probabilities", 1), ("p_a", "probabilities", 0)],
        ),
        (
            [Field("scores", F32, (3,))],
            [LABEL, Tensor("probabilities", F32, (3,))],
            [("scores", "probabilities", None)],
        ),
    ],
)
def test_outputs_are_found_by_name_type_and_shape(fields, outputs, expected):
    binding = bind(contract(Field("x", F32, (2,)), outputs=fields), Signature((MATRIX,), tuple(outputs)))

    assert found(binding)[1] == expected


@pytest.mark.parametrize(
    ("fields", "outputs", "message"),
    [
        ([Field("p", F64)], [LABEL, SCORES], "could come from none of the model outputs"),
        ([P], [Tensor("one", F32), Tensor("two", F32)], "could come from one, two"),
        ([P], [Tensor("p_many", F32, (3,))], "none of the model outputs"),
        ([Field("kind", TEXT)], [LABEL], "none of the model outputs"),
    ],
)
def test_outputs_that_leave_doubt_are_asked_back(fields, outputs, message):
    with pytest.raises(InvalidSetting, match=message):
        bind(contract(Field("x", F32, (2,)), outputs=fields), Signature((MATRIX,), tuple(outputs)))


def test_batched_and_unbatched_do_not_meet():
    with pytest.raises(InvalidSetting, match="batched=True, the model is not batched"):
        bind(
            contract(Field("x", F32, (1, 2))),
            Signature((Tensor("X", F32, (1, 2)),), (SCORES,), batched=False),
        )


def test_a_stored_binding_of_another_contract_is_refused():
    options = bind(contract(Field("a", F64), Field("b", F64)), Signature((MATRIX,), (SCORES,))).to_options()

    with pytest.raises(InvalidSetting, match=r"not in the contract \['b'\]"):
        Binding.from_options(options, contract(Field("a", F64)))
    with pytest.raises(InvalidSetting, match="cannot be read"):
        Binding.from_options({"inputs": 1}, contract(Field("a", F64)))


def test_a_model_without_a_contract_gets_one_field_a_tensor():
    signature = Signature(
        (Tensor("input.1", F32, (3,)), Tensor("class", F32, (1,)), Tensor("input:1", F32)), (SCORES,)
    )

    inferred, binding = contract_from(signature)

    assert [(f.name, f.shape) for f in inferred.input.fields] == [
        ("input_1", (3,)),
        ("class_", (1,)),
        ("input_1_2", ()),
    ]
    assert [item.tensor for item in binding.inputs] == ["input.1", "class", "input:1"]


def test_columns_of_a_table_model_are_scalars():
    signature = Signature((Tensor("dist", F32, (1,)),), (Tensor("variable", F32, (1,)),), column_inputs=True)

    inferred, binding = contract_from(signature)

    assert inferred.input.fields[0].shape == ()
    assert (inferred.output.fields[0].shape, binding.outputs[0].index) == ((), 0)


# --- columns to tensors


def gather(fields, kind, row_shape, *, codes=None):
    names = tuple(field.name for field in fields)
    return Gather(InputBinding("X", names, kind, row_shape, codes or {}), Schema(tuple(fields)))


def test_a_ready_block_reaches_the_model_without_a_copy():
    block = np.arange(6, dtype=np.float32).reshape(3, 2)
    batch = Batch({"a": block[:, 0], "b": block[:, 1]}, 3, blocks=[(("a", "b"), block)])

    tensor = gather([Field("a", F32), Field("b", F32)], F32, (2,)).tensor(batch)

    assert tensor is block


def test_columns_of_several_types_stand_side_by_side():
    batch = Batch.of({"a": np.array([1.5, 2.5]), "b": np.array([3, 4])})

    tensor = gather([Field("b", I64), Field("a", F64)], F32, (2,)).tensor(batch)

    assert tensor.tolist() == [[3.0, 1.5], [4.0, 2.5]]
    assert tensor.dtype == np.float32


def test_categories_become_the_models_own_codes_and_unknown_ones_nan():
    fields = [Field("a", F64), Field("c", TEXT)]
    batch = Batch.of({"a": np.zeros(3), "c": np.array(["UA", None, "AA"], object)})

    tensor = gather(fields, F64, (2,), codes={"c": ("AA", "UA")}).tensor(batch)

    np.testing.assert_array_equal(tensor[:, 1], [1.0, np.nan, 0.0])


def test_missing_text_is_empty_and_bytes_are_text():
    batch = Batch.of({"s": np.array(["x", None], object), "b": np.array([b"\xc3\xa9", None], object)})

    assert gather([Field("s", TEXT)], TEXT, (1,)).tensor(batch).tolist() == [["x"], [""]]
    assert gather([Field("b", DataType.BYTES)], TEXT, ()).tensor(batch).tolist() == ["é", ""]
