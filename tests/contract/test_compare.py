import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidegate.contract.compare import Compatibility, compare
from tidegate.contract.decode import RowDecoder
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.validate import Validator
from tidegate.core.error import InvalidSetting
from tidegate.testing import strategy

replace = msgspec.structs.replace
IDENTICAL, WIDENING, BREAKING = Compatibility
X = Field("x", DataType.FLOAT64)
Y = Field("y", DataType.FLOAT64)


def contract(*inputs, outputs=(Y,), batched=True):
    return Contract(Schema(inputs), Schema(outputs), batched).checked()


def x(kind=DataType.FLOAT64, **settings):
    return Field("x", kind, **settings)


def category(*values):
    return x(DataType.CATEGORY, categories=values)


INT, TEXT = DataType.INT64, DataType.STRING

# Old field, new field, verdict as an input, verdict as an output.
CHANGES = {
    "nothing": (x(), x(), IDENTICAL, IDENTICAL),
    "description": (x(doc="a"), x(doc="b"), IDENTICAL, IDENTICAL),
    "wider range": (x(ge=0, le=1), x(ge=0, le=2), WIDENING, BREAKING),
    "narrower range": (x(ge=0, le=2), x(ge=0, le=1), BREAKING, WIDENING),
    "shifted range": (x(ge=0, le=2), x(ge=1, le=3), BREAKING, BREAKING),
    "range taken away": (x(ge=0), x(), WIDENING, BREAKING),
    "range added": (x(), x(ge=0), BREAKING, WIDENING),
    "bound included": (x(gt=0), x(ge=0), WIDENING, BREAKING),
    "bound excluded": (x(le=0), x(lt=0), BREAKING, WIDENING),
    "the same bound of integers": (x(INT, gt=0), x(INT, ge=1), IDENTICAL, IDENTICAL),
    "integer to float": (x(INT), x(), WIDENING, BREAKING),
    "float to integer": (x(), x(INT), BREAKING, BREAKING),
    "wider integer": (x(DataType.INT8), x(DataType.INT16), WIDENING, BREAKING),
    "narrower integer": (x(DataType.INT16), x(DataType.INT8), BREAKING, BREAKING),
    "narrower integer of the same range": (
        x(INT, ge=0, le=9),
        x(DataType.INT8, ge=0, le=9),
        WIDENING,
        BREAKING,
    ),
    "wider float": (x(DataType.FLOAT32), x(), WIDENING, BREAKING),
    "narrower float": (x(), x(DataType.FLOAT32), BREAKING, BREAKING),
    "integer too wide for the float": (x(INT), x(DataType.FLOAT32), BREAKING, BREAKING),
    "number to text": (x(), x(TEXT), BREAKING, BREAKING),
    "number to boolean": (x(INT), x(DataType.BOOL), BREAKING, BREAKING),
    "category to text": (category("a"), x(TEXT), WIDENING, BREAKING),
    "text to category": (x(TEXT), category("a"), BREAKING, WIDENING),
    "category to text that takes it": (category("a", "b"), x(TEXT, max_length=36), WIDENING, BREAKING),
    "category to a pattern that it has": (category("a", "b"), x(TEXT, pattern="^[ab]$"), WIDENING, BREAKING),
    "category to text too short": (category("a", "bcd"), x(TEXT, max_length=2), BREAKING, BREAKING),
    "category to another pattern": (category("a", "b"), x(TEXT, pattern="^a$"), BREAKING, BREAKING),
    "text to category that fits": (x(TEXT, max_length=5), category("ab", "cd"), BREAKING, WIDENING),
    "text to category too long": (x(TEXT, max_length=1), category("ab", "c"), BREAKING, BREAKING),
    "new category": (category("a"), category("a", "b"), WIDENING, BREAKING),
    "removed category": (category("a", "b"), category("a"), BREAKING, WIDENING),
    "other category": (category("a", "b"), category("a", "c"), BREAKING, BREAKING),
    "order of categories": (category("a", "b"), category("b", "a"), IDENTICAL, IDENTICAL),
    "now optional": (x(), x(optional=True), WIDENING, BREAKING),
    "now required": (x(optional=True), x(), BREAKING, WIDENING),
    "default": (x(optional=True, default=1), x(optional=True, default=2), BREAKING, IDENTICAL),
    "default instead of NaN": (x(optional=True), x(optional=True, default=2), BREAKING, IDENTICAL),
    "unit": (x(unit="mile"), x(unit="km"), BREAKING, BREAKING),
    "unit where there was none": (x(), x(unit="km"), BREAKING, BREAKING),
    "length": (x(shape=(3,)), x(shape=(4,)), BREAKING, BREAKING),
    "length freed": (x(shape=(3,)), x(shape=(None,)), WIDENING, BREAKING),
    "length fixed": (x(shape=(None,)), x(shape=(3,)), BREAKING, WIDENING),
    "dimensions": (x(shape=(3,)), x(shape=(3, 1)), BREAKING, BREAKING),
    "longer text": (x(TEXT, max_length=3), x(TEXT, max_length=4), WIDENING, BREAKING),
    "text of any length": (x(TEXT, max_length=3), x(TEXT), WIDENING, BREAKING),
    "shorter text": (x(TEXT), x(TEXT, max_length=3), BREAKING, WIDENING),
    "text may be shorter": (x(TEXT, min_length=3), x(TEXT), WIDENING, BREAKING),
    "text must be longer": (x(TEXT), x(TEXT, min_length=3), BREAKING, WIDENING),
    "no pattern": (x(TEXT, pattern="a"), x(TEXT), WIDENING, BREAKING),
    "pattern": (x(TEXT), x(TEXT, pattern="a"), BREAKING, WIDENING),
    "other pattern": (x(TEXT, pattern="a"), x(TEXT, pattern="[ab]"), BREAKING, BREAKING),
    "sensitive": (x(), x(sensitive=True), WIDENING, WIDENING),
    "sensitive no more": (x(sensitive=True), x(), BREAKING, BREAKING),
}


@pytest.mark.parametrize(("old", "new", "verdict", "_"), CHANGES.values(), ids=CHANGES.keys())
def test_change_of_an_input(old, new, verdict, _):
    comparison = compare(contract(old), contract(new))

    assert comparison.verdict is verdict
    assert {(change.side, change.field) for change in comparison.changes} <= {("input", "x")}


@pytest.mark.parametrize(("old", "new", "_", "verdict"), CHANGES.values(), ids=CHANGES.keys())
def test_change_of_an_output(old, new, _, verdict):
    comparison = compare(contract(Y, outputs=(old,)), contract(Y, outputs=(new,)))

    assert comparison.verdict is verdict
    assert {(change.side, change.field) for change in comparison.changes} <= {("output", "x")}


KEY, AT = (Role.KEY,), (Role.TIMESTAMP,)


@pytest.mark.parametrize(
    ("old", "new", "verdict", "reason"),
    [
        ((X, Y), (X,), BREAKING, "was removed, and callers that send it are refused"),
        ((X,), (X, Y), BREAKING, "is new and required"),
        ((X,), (X, Field("y", DataType.FLOAT64, optional=True)), WIDENING, "is new and optional"),
        ((X, Y), (Y, X), IDENTICAL, "the order of fields changed; they go by name"),
        ((x(TEXT),), (x(TEXT, roles=KEY),), BREAKING, "became the key"),
        ((x(TEXT, roles=KEY),), (x(TEXT),), BREAKING, "is the key no more"),
        (
            (x(DataType.TIMESTAMP, roles=AT),),
            (x(DataType.TIMESTAMP),),
            BREAKING,
            "is the time of the event no more",
        ),
        (
            (x(DataType.TIMESTAMP),),
            (x(DataType.TIMESTAMP, roles=AT),),
            WIDENING,
            "became the time of the event",
        ),
        ((x(INT, ge=0, le=9),), (x(INT, ge=0, lt=9),), BREAKING, "the range [0, 9] became [0, 9)"),
        ((category("a", "b"),), (category("b"),), BREAKING, "removed categories: 'a'"),
        ((x(unit="mile"),), (x(unit="km"),), BREAKING, "the unit 'mile' became 'km'"),
    ],
)
def test_change_says_why(old, new, verdict, reason):
    comparison = compare(contract(*old), contract(*new))

    assert [(change.verdict, change.reason) for change in comparison.changes] == [(verdict, reason)]


def test_a_bound_that_is_another_number_in_another_type_is_said_to_be():
    comparison = compare(contract(x(le=0.1)), contract(x(DataType.FLOAT32, le=0.1)))

    reasons = [change.reason for change in comparison.changes]
    assert "the range [-inf, 0.1] has other ends in float32 than in float64" in reasons


def test_categories_that_a_text_excludes_are_named():
    comparison = compare(contract(category("a", "bcd")), contract(x(TEXT, max_length=2)))

    assert comparison.changes[0].reason == "the text's length or pattern excludes categories: 'bcd'"


def test_removed_output_breaks_and_a_new_one_does_not():
    wide, narrow = contract(X, outputs=(X, Y)), contract(X, outputs=(Y,))

    assert compare(wide, narrow).verdict is BREAKING
    assert compare(narrow, wide).verdict is WIDENING


def test_batching_that_ends_breaks():
    batched, single = contract(X), contract(X, batched=False)

    assert compare(batched, single).verdict is BREAKING
    assert compare(single, batched).verdict is WIDENING


def test_breaking_changes_come_first():
    comparison = compare(contract(x(doc="a"), Y), contract(x(doc="b", unit="km"), Y))

    assert [change.verdict for change in comparison.changes] == [BREAKING, IDENTICAL]
    assert [change.reason for change in comparison.breaking] == ["the unit 'none' became 'km'"]


@settings(max_examples=40)
@given(strategy.contracts())
def test_contract_is_identical_to_itself(same):
    assert compare(same, same).changes == ()


def one_change(field, side):
    """Fields like `field`, one setting or all of them changed."""
    other = strategy.fields(name=field.name, side=side, scalar=field.is_scalar, kinds=(field.type,))
    settings = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "categories", "shape")
    numbers = [kind for kind in DataType if kind.is_float or kind.is_integer]
    return st.one_of(
        other,
        st.tuples(other, st.sets(st.sampled_from(settings), min_size=1)).map(
            lambda drawn: replace(field, **{name: getattr(drawn[0], name) for name in drawn[1]})
        ),
        st.sampled_from([*numbers, DataType.STRING]).map(
            lambda kind: replace(field, type=kind, categories=(), default=None, optional=False)
        ),
        st.just(replace(field, optional=not field.optional, default=None)),
    )


@st.composite
def changed(draw, side):
    """A contract, and another one whose only field on `side` is changed, or has company."""
    old = draw(strategy.schemas(side=side, max_fields=1))
    new = [draw(one_change(old.fields[0], side))]
    if draw(st.booleans()):
        new.append(draw(strategy.fields(name="added", side=side)))
    # Texts of a pattern and a length at once are more than a strategy can find.
    assume(all(field.pattern is None or field.max_length is field.min_length is None for field in new))
    pair = [old, Schema(tuple(new))]
    other = Schema((Y,))
    try:
        return [
            Contract(one, other).checked() if side == "input" else Contract(other, one).checked()
            for one in pair
        ]
    except InvalidSetting:
        assume(False)
        raise


@settings(max_examples=60)
@given(st.data(), changed("input"))
def test_what_the_old_input_takes_the_new_one_takes_unless_it_breaks(data, pair):
    old, new = pair
    assume(compare(old, new).verdict is not BREAKING)
    row = data.draw(strategy.rows(old.input))

    assert RowDecoder(new.input).decode(msgspec.json.encode(row))


@settings(max_examples=60)
@given(st.data(), changed("output"))
def test_what_the_new_output_gives_the_old_one_allows_unless_it_breaks(data, pair):
    old, new = pair
    assume(compare(old, new).verdict is not BREAKING)
    batch = data.draw(strategy.batches(new.output))

    allowed = Validator(old.output)
    # callers know values, not arrays: vectors of one length are held otherwise than those of any length
    known = allowed.coerce(batch.select(old.output.names).columns)

    assert allowed.violations(known) == []
