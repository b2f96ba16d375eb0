"""By what records are counted apart follows from the contract alone."""

from __future__ import annotations

import pytest

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.slicing import MAX_FIELDS, slicing_of
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Evaluation
from tidegate.monitoring.declaration import Monitoring
from tidegate.predictor.protocol import Spec
from tidegate.service.manifest import Manifest


def contract(*fields: Field, output: Field | None = None) -> Contract:
    return Contract(Schema(fields), Schema((output or Field("p", DataType.FLOAT64),)))


def names(field: Field) -> tuple[str, ...]:
    (found,) = slicing_of(contract(field), [field.name]).fields
    return found.names


def test_a_declared_range_is_cut_into_tenths() -> None:
    parts = names(Field("age", DataType.FLOAT64, ge=0, le=100))

    assert parts[:3] == ("below 10", "10 to 20", "20 to 30")
    assert parts[-2:] == ("90 and above", "missing")


def test_few_whole_numbers_have_a_part_each() -> None:
    assert names(Field("hour", DataType.INT64, gt=0, lt=4)) == ("1", "2", "3", "missing")


def test_numbers_without_a_range_have_parts_by_magnitude() -> None:
    both = names(Field("amount", DataType.FLOAT64))
    positive = names(Field("amount", DataType.FLOAT64, ge=0))

    assert {"-10 to -5", "0 to 0.001", "100 to 200"} <= set(both)
    assert not any("-" in part for part in positive)


def test_texts_and_truth_values_are_taken_as_they_are() -> None:
    assert names(Field("carrier", DataType.CATEGORY, categories=("AA",))) == ()


def test_there_is_a_bound_on_fields() -> None:
    fields = [Field(f"f{n}", DataType.BOOL) for n in range(20)]

    assert len(slicing_of(contract(*fields), [field.name for field in fields]).fields) == MAX_FIELDS


def test_a_vector_is_not_held_against_outcomes() -> None:
    output = Field("scores", DataType.FLOAT64, shape=(3,))

    assert slicing_of(contract(Field("a", DataType.BOOL), output=output), ["a"], judged="scores").judged == ""


@pytest.mark.parametrize("kind", [DataType.BYTES, DataType.TIMESTAMP])
def test_a_slice_that_cannot_be_is_refused_when_it_is_declared(kind: DataType) -> None:
    with pytest.raises(InvalidSetting, match="counted apart"):
        Monitoring(slices=("x",)).checked(contract(Field("x", kind)))


def test_a_manifest_puts_declared_and_protected_fields_together() -> None:
    fields = (
        Field("a", DataType.BOOL),
        Field("b", DataType.BOOL, roles=(Role.PROTECTED,)),
        Field("c", DataType.BOOL),
    )
    manifest = Manifest(
        "loans",
        contract(*fields),
        Spec("constant", options={"outputs": {"p": 0.5}}),
        monitoring=Monitoring(slices=("a",)),
        evaluation=Evaluation(target="late", protected=("c",)),
    )

    found = manifest.slicing
    again = Manifest.from_json(manifest.to_json()).slicing

    assert [each.field for each in found.fields] == ["a", "b", "c"]
    assert (found.judged, found.outcome) == ("p", "late")
    assert again == found
