import math

import pytest
from hypothesis import given, settings

from tidegate.contract.check import check_field, check_fields
from tidegate.contract.field import DataType, Field, Role
from tidegate.core.error import InvalidSetting
from tidegate.testing import strategy


def field(kind=DataType.FLOAT64, name="x", **settings):
    return Field(name, kind, **settings)


IMPOSSIBLE = {
    "empty range": field(ge=2, le=1),
    "empty range of exclusive bounds": field(DataType.INT64, gt=3, lt=4),
    "range outside of the type": field(DataType.INT8, ge=300),
    "range beyond float32": field(DataType.FLOAT32, ge=1e39),
    "two lower bounds": field(ge=0, gt=0),
    "two upper bounds": field(le=0, lt=0),
    "infinite bound": field(le=math.inf),
    "bound that is no number": field(DataType.FLOAT64, ge=True),
    "fractional bound of an integer": field(DataType.INT64, ge=0.5),
    "range of text": field(DataType.STRING, ge=0),
    "range of a boolean": field(DataType.BOOL, le=1),
    "length of a number": field(min_length=1),
    "length of a category": field(DataType.CATEGORY, categories=("a",), max_length=1),
    "least length above greatest": field(DataType.STRING, min_length=3, max_length=2),
    "negative length": field(DataType.STRING, min_length=-1),
    "bad pattern": field(DataType.STRING, pattern="("),
    "pattern of bytes": field(DataType.BYTES, pattern="a"),
    "category without values": field(DataType.CATEGORY),
    "category twice": field(DataType.CATEGORY, categories=("a", "a")),
    "category that no text carries": field(DataType.CATEGORY, categories=("\ud800",)),
    "categories of text": field(DataType.STRING, categories=("a",)),
    "too many categories": field(DataType.CATEGORY, categories=tuple(map(str, range(65_535)))),
    "optional integer without default": field(DataType.INT64, optional=True),
    "optional boolean without default": field(DataType.BOOL, optional=True),
    "optional timestamp without default": field(DataType.TIMESTAMP, optional=True),
    "optional free vector without default": field(shape=(None,), optional=True),
    "default without being optional": field(default=1.0),
    "default outside of the range": field(ge=0, optional=True, default=-1.0),
    "default of another type": field(DataType.INT64, optional=True, default="1"),
    "boolean default of an integer": field(DataType.INT64, optional=True, default=True),
    "float default of an integer": field(DataType.INT64, optional=True, default=1.0),
    "default beyond the type": field(DataType.INT8, optional=True, default=200),
    "infinite default": field(optional=True, default=math.inf),
    "unknown default category": field(DataType.CATEGORY, categories=("a",), optional=True, default="b"),
    "default that the pattern excludes": field(DataType.STRING, pattern="^b", optional=True, default="a"),
    "default that is too long": field(DataType.STRING, max_length=1, optional=True, default="ab"),
    "default of another shape": field(shape=(2,), optional=True, default=[1.0]),
    "default vector that is none": field(shape=(2,), optional=True, default=1.0),
    "default bytes that are not base64": field(DataType.BYTES, optional=True, default="$"),
    "dimension of nothing": field(shape=(0,)),
    "nine dimensions": field(shape=(1,) * 9),
    "name with a space": field(name="a b"),
    "name that is a keyword": field(name="class"),
    "private name": field(name="_x"),
    "no name": field(name=""),
    "reserved name": field(name="rows"),
    "long name": field(name="x" * 129),
    "name that Python spells otherwise": field(name="ﬁeld"),
    "float key": field(roles=(Role.KEY,)),
    "optional key": field(DataType.STRING, roles=(Role.KEY,), optional=True),
    "vector key": field(DataType.STRING, shape=(2,), roles=(Role.KEY,)),
    "timestamp that is none": field(roles=(Role.TIMESTAMP,)),
    "sensitive and protected without groups": field(sensitive=True, roles=(Role.PROTECTED,)),
}


@pytest.mark.parametrize("impossible", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_field_is_refused_by_name(impossible):
    with pytest.raises(InvalidSetting) as caught:
        check_field(impossible)

    assert repr(impossible.name) in caught.value.message
    assert caught.value.context["field"] == impossible.name


def test_empty_category_says_what_to_do():
    with pytest.raises(InvalidSetting, match=r'List them, as in tg\.category\("AA", "UA"\)'):
        check_field(field(DataType.CATEGORY))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((), "The input has no fields"),
        ((field(), field()), "'x' is declared twice"),
        (
            (
                field(DataType.STRING, name="a", roles=(Role.KEY,)),
                field(DataType.STRING, name="b", roles=(Role.KEY,)),
            ),
            "'b' cannot be a second key",
        ),
    ],
)
def test_fields_that_cannot_stand_together_are_refused(fields, problem):
    with pytest.raises(InvalidSetting, match=problem):
        check_fields("input", fields)


def test_role_of_an_output_is_refused():
    with pytest.raises(InvalidSetting, match="only input fields have"):
        check_field(field(DataType.STRING, roles=(Role.KEY,)), side="output")


def test_normal_form_has_bounds_and_defaults_of_the_field_type():
    number = check_field(field(ge=0, optional=True, default=3))
    count = check_field(field(DataType.INT64, le=10.0))

    assert (type(number.ge), type(number.default), type(count.le)) == (float, float, int)


def test_normal_form_orders_the_roles():
    both = (Role.PROTECTED, Role.KEY)
    checked = check_field(field(DataType.CATEGORY, categories=("a",), roles=both))

    assert checked.roles == (Role.KEY, Role.PROTECTED)


def test_nan_default_of_a_float_is_no_default():
    assert check_field(field(optional=True, default=math.nan)).default is None


@settings(max_examples=40)
@given(strategy.fields())
def test_checking_twice_changes_nothing(checked):
    assert check_field(checked) == checked
