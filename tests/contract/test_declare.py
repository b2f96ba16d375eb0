from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

import numpy as np
import pytest

import tidegate.contract.declare as tg
from tidegate.contract.field import DataType, Field, Role
from tidegate.core.error import InvalidSetting


class Delay(tg.Output):
    p_late: float = tg.field(ge=0, le=1, doc="probability")


def only_field(declared):
    (field,) = tg.schema_of(declared).fields
    return field


def test_class_of_every_kind_of_field_becomes_a_schema():
    class Flight(tg.Input):
        carrier: str = tg.category("AA", "UA")
        dest: str = tg.field(min_length=3, max_length=3, pattern="^[A-Z]+$")
        minute: int = tg.field(ge=0, lt=1440, unit="minute of day")
        distance: float = tg.field(gt=0, unit="mile")
        night: bool
        photo: bytes
        when: datetime = tg.timestamp(role="timestamp", ge=datetime(2013, 1, 1, tzinfo=UTC))
        wait: timedelta = tg.duration(le=timedelta(hours=1))
        embedding: list[float] = tg.vector(20, item=np.float32)
        tailnum: str = tg.field(key=True)

    assert tg.schema_of(Flight).fields == (
        Field("carrier", DataType.CATEGORY, categories=("AA", "UA")),
        Field("dest", DataType.STRING, min_length=3, max_length=3, pattern="^[A-Z]+$"),
        Field("minute", DataType.INT64, ge=0, lt=1440, unit="minute of day"),
        Field("distance", DataType.FLOAT64, gt=0.0, unit="mile"),
        Field("night", DataType.BOOL),
        Field("photo", DataType.BYTES),
        Field("when", DataType.TIMESTAMP, ge=1_356_998_400_000_000, roles=(Role.TIMESTAMP,)),
        Field("wait", DataType.DURATION, le=3_600_000_000),
        Field("embedding", DataType.FLOAT32, shape=(20,)),
        Field("tailnum", DataType.STRING, roles=(Role.KEY,)),
    )


@pytest.mark.parametrize("kind", [kind for kind in DataType if kind.is_float or kind.is_integer])
def test_numpy_scalar_type_gives_the_exact_width(kind):
    scalar = np.dtype(kind.value).type
    declared = type("Row", (tg.Input,), {"__annotations__": {"x": scalar}})

    assert only_field(declared).type is kind


def test_none_in_the_annotation_makes_the_field_optional():
    class Row(tg.Input):
        x: float | None

    assert only_field(Row) == Field("x", DataType.FLOAT64, optional=True)


def test_plain_default_makes_the_field_optional():
    class Row(tg.Input):
        x: int = 3

    assert only_field(Row) == Field("x", DataType.INT64, optional=True, default=3)


def test_none_as_default_needs_none_in_the_annotation():
    with pytest.raises(InvalidSetting, match=r"'x' has the default None.*`str \| None`"):

        class Row(tg.Input):
            x: str = None


def test_default_of_a_time_is_stored_in_microseconds():
    class Row(tg.Input):
        at: datetime = datetime(1970, 1, 2, tzinfo=UTC)
        wait: timedelta = timedelta(seconds=2)

    assert [field.default for field in tg.schema_of(Row).fields] == [86_400_000_000, 2_000_000]


def test_naive_time_is_refused():
    with pytest.raises(InvalidSetting, match="'at' has the naive time"):

        class Row(tg.Input):
            at: datetime = tg.timestamp(ge=datetime(2013, 1, 1))


def test_literal_and_text_enumeration_are_categories():
    class Origin(enum.StrEnum):
        EWR = "EWR"
        JFK = "JFK"

    class Row(tg.Input):
        a: Literal["x", "y"]
        b: Origin = Origin.JFK

    a, b = tg.schema_of(Row).fields
    assert a == Field("a", DataType.CATEGORY, categories=("x", "y"))
    assert b == Field("b", DataType.CATEGORY, categories=("EWR", "JFK"), optional=True, default="JFK")


def test_vector_of_free_length_tensor_and_categories():
    class Row(tg.Input):
        free: list[float]
        image: list[list[list[float]]] = tg.vector(shape=(3, 224, 224), item=np.float32)
        words: list[str] = tg.vector(2, categories=("a", "b"))
        inline: tg.vector(3)

    free, image, words, inline = tg.schema_of(Row).fields
    assert free.shape == (None,)
    assert (image.type, image.shape) == (DataType.FLOAT32, (3, 224, 224))
    assert (words.type, words.categories) == (DataType.CATEGORY, ("a", "b"))
    assert (inline.type, inline.shape) == (DataType.FLOAT64, (3,))


def test_subclass_adds_and_replaces_fields():
    class Base(tg.Input):
        a: float
        b: float

    class More(Base):
        b: int
        c: str

    assert tg.schema_of(More).names == ("a", "b", "c")
    assert tg.schema_of(More).by_name["b"].type is DataType.INT64
    assert tg.schema_of(Base).names == ("a", "b")


def test_class_variables_are_no_fields():
    class Row(tg.Input):
        about: ClassVar[str] = "nothing"
        x: float

    assert tg.schema_of(Row).names == ("x",)


def declared_with(annotation, value=...):
    namespace = {"__annotations__": {"x": annotation}}
    if value is not ...:
        namespace["x"] = value
    return type("Row", (tg.Input,), namespace)


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (complex, ..., "no type of a field"),
        (int | str, ..., "no type of a field"),
        (float, tg.category("a"), "is a category but annotated as float"),
        (str, tg.category(), "is a category without values"),
        (str, tg.category(...), "has a category that is not text"),
        (float, tg.vector(3), "is a vector annotated as float"),
        (list[str], tg.category("a"), "is a list declared as category"),
        (list[float], tg.vector(shape=(2, 2)), "has 2 dimensions but is annotated with 1"),
        (list[float], tg.vector(2, item=np.int8), "annotated as float but declared as int8"),
        (list[float], tg.vector(2, item=complex), "has elements of complex"),
        (float, tg.timestamp(), "annotated as float but declared as timestamp"),
        (bytes, "text", "which is not bytes"),
        (float, tg.field(default="a"), "which is not float64"),
        (str, tg.field(role="timestamp"), "cannot be the timestamp"),
    ],
)
def test_contradiction_is_refused_by_name(annotation, value, problem):
    with pytest.raises(InvalidSetting, match=problem) as caught:
        declared_with(annotation, value)

    assert caught.value.context["field"] == "x"


def test_declaration_without_a_type_is_refused():
    with pytest.raises(InvalidSetting, match=r"'x' has no type.*`x: float = \.\.\.`"):

        class Row(tg.Input):
            x = tg.field(ge=0)


def test_unknown_role_is_refused_with_the_known_ones():
    with pytest.raises(InvalidSetting, match="Roles: key, protected, timestamp"):
        tg.field(role="owner")


def test_vector_of_length_and_shape_is_refused():
    with pytest.raises(InvalidSetting, match="a length or a shape"):
        tg.vector(3, shape=(3,))


def test_contract_of_gives_the_key_its_role():
    class Flight(tg.Input):
        tail: str
        x: float

    contract = tg.contract_of(Flight, Delay, key="tail")

    assert contract.key == Field("tail", DataType.STRING, roles=(Role.KEY,))
    assert tg.schema_of(Flight).by_name["tail"].roles == ()


def test_contract_of_refuses_a_key_that_is_no_field():
    class Flight(tg.Input):
        x: float

    with pytest.raises(InvalidSetting, match=r"'tail' is no input field\. Input fields: x"):
        tg.contract_of(Flight, Delay, key="tail")


@pytest.mark.parametrize("declared", [int, 3, tg.Input])
def test_schema_of_refuses_what_declares_none(declared):
    with pytest.raises(InvalidSetting):
        tg.schema_of(declared)
