import msgspec
from hypothesis import given, settings

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.layout import Column, Layout, journal_layout
from tidegate.contract.schema import Contract, Schema
from tidegate.testing import strategy

OUT = Schema((Field("p", DataType.FLOAT64),))


def layout_of(*fields):
    return journal_layout(Contract(Schema(fields), OUT).checked())


def test_layout_lists_fields_in_order_with_what_a_reader_needs():
    layout = layout_of(
        Field("c", DataType.CATEGORY, categories=("a", "b")),
        Field("v", DataType.FLOAT32, shape=(None, 3)),
    )

    assert layout == Layout(
        (
            Column("c", DataType.CATEGORY, categories=("a", "b")),
            Column("v", DataType.FLOAT32, (None, 3)),
        ),
        (Column("p", DataType.FLOAT64),),
    )


def test_sensitive_field_is_not_stored():
    assert layout_of(Field("ssn", DataType.STRING, sensitive=True), Field("x", DataType.BOOL)).inputs == (
        Column("x", DataType.BOOL),
    )


def test_sensitive_and_protected_field_is_stored_as_its_group_only():
    sex = Field("sex", DataType.CATEGORY, categories=("f", "m"), sensitive=True, roles=(Role.PROTECTED,))

    assert layout_of(sex).inputs == (
        Column("sex", DataType.CATEGORY, categories=("f", "m"), group_only=True),
    )


def test_protected_field_that_is_not_sensitive_is_stored_as_it_is():
    field = Field("b", DataType.BOOL, roles=(Role.PROTECTED,))

    assert not layout_of(field).inputs[0].group_only


@settings(max_examples=40)
@given(strategy.contracts())
def test_no_sensitive_value_is_stored(contract):
    layout = journal_layout(contract)

    for side, columns in ((contract.input, layout.inputs), (contract.output, layout.outputs)):
        for column in columns:
            field = side.by_name[column.name]
            assert not field.sensitive or (column.group_only and Role.PROTECTED in field.roles)
        assert {field.name for field in side.fields if not field.sensitive} <= {c.name for c in columns}


@settings(max_examples=40)
@given(strategy.contracts())
def test_layout_survives_json(contract):
    layout = journal_layout(contract)

    assert msgspec.json.decode(msgspec.json.encode(layout), type=Layout) == layout
