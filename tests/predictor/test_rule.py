"""Rules: what they compute, and what they refuse to compile."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, PredictorError, Spec
from tidegate.predictor.rule import MAX_DEPTH, RuleOptions, RulePredictor, build_rule

INPUT = Schema(
    (
        Field("a", DataType.FLOAT64),
        Field("b", DataType.INT8),
        Field("flag", DataType.BOOL),
        Field("s", DataType.CATEGORY, categories=("x", "y", "z")),
        Field("v", DataType.FLOAT64, shape=(2,)),
    )
)


def evaluate(expression, columns, *, output=None):
    output = output or Field("out", DataType.FLOAT64)
    predictor = RulePredictor(Contract(INPUT, Schema((output,))), RuleOptions({output.name: expression}))
    return predictor.predict(Batch.of(columns))[output.name]


def columns(**values):
    n_rows = len(next(iter(values.values())))
    given_ = {"a": [0.0] * n_rows, "b": [0] * n_rows, "flag": [False] * n_rows, "s": ["x"] * n_rows} | values
    return {
        "a": np.array(given_["a"], np.float64),
        "b": np.array(given_["b"], np.int8),
        "flag": np.array(given_["flag"], np.bool_),
        "s": np.array(given_["s"], object),
        "v": np.zeros((n_rows, 2)),
    }


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("clip(0.1 + 0.2 * (s == 'y'), 0, 1)", [0.1, 0.1 + 0.2, 0.1]),
        ("a if flag else -a", [1.0, -2.0, 3.0]),
        ("where(s in ('x', 'y'), b, 0)", [100, 101, 0]),
        ("b * b", [10000, 10201, 100]),
        ("1 < a <= 3", [0, 1, 1]),
        ("flag + flag", [2, 0, 2]),
        ("not (flag and a > 1) or s != 'z'", [1, 1, 0]),
        ("max(a, 2) - min(a, 2, b)", [1, 0, 1]),
        ("round(a / 3, 2)", [0.33, 0.67, 1.0]),
        ("b // 7 % 5 ** 2", [14, 14, 1]),
        ("0.5", [0.5, 0.5, 0.5]),
        ("isnan(a / 0 - a / 0)", [1, 1, 1]),
    ],
)
def test_an_expression_is_evaluated_over_all_rows(expression, expected):
    given_ = columns(a=[1.0, 2.0, 3.0], b=[100, 101, 10], flag=[True, False, True], s=["x", "y", "z"])

    assert evaluate(expression, given_).tolist() == expected


def test_text_comes_out_whole():
    given_ = columns(flag=[True, False])

    answer = evaluate("'no' if flag else 'a longer word'", given_, output=Field("out", DataType.STRING))

    assert answer.tolist() == ["no", "a longer word"]


def test_a_whole_number_output_refuses_what_it_cannot_hold():
    output = Field("out", DataType.INT8)

    assert evaluate("a", columns(a=[1.0, -128.0]), output=output).tolist() == [1, -128]
    with pytest.raises(PredictorError, match="beyond int8"):
        evaluate("a * 2", columns(a=[100.0]), output=output)
    with pytest.raises(PredictorError, match="no finite number in 1 rows"):
        evaluate("log(a - 1)", columns(a=[0.0, 2.0]), output=output)


def test_nan_passes_through():
    answer = evaluate("clip(max(a, 0), 0, 1)", columns(a=[math.nan, 0.5]))

    assert np.isnan(answer[0])
    assert answer[1] == 0.5


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a.real", "not allowed in a rule"),
        ("__import__('os').system('true')", "not a call of one of the functions"),
        ("open('x')", "calls something"),
        ("a[0]", "not allowed"),
        ("[a for a in b]", "not allowed"),
        ("lambda: 1", "not allowed"),
        ("(a := 1)", "not allowed"),
        ("f'{a}'", "not allowed"),
        ("9 ** 9 ** 9", "must be"),
        ("a ** b", "must be"),
        ("a ** 9", "beyond 8"),
        ("a ** -9", "beyond 8"),
        ("a * 10000000000000000000", "larger than"),
        ("a << 2", "operator that is not allowed"),
        ("~flag", "operator that is not allowed"),
        ("a is b", "operator that is not allowed"),
        ("tail", "is not a field; the fields are a, b, flag, s, v"),
        ("v + 1", "is a vector"),
        ("s + 1", "is text where a number is needed"),
        ("s < 'x'", "only compared with == and !="),
        ("s == 1", "compared with"),
        ("s in (1, 2)", "another type"),
        ("a in ('x',)", "another type"),
        ("a in b", "not a list of constants"),
        ("a if b else 1", "true or false is needed"),
        ("not a", "true or false is needed"),
        ("min(a)", "takes 2 to 16 arguments"),
        ("round(a, b)", "not a constant from 0 to 12"),
        ("max(*a)", "starred"),
        ("clip(a, low=0, high=1)", "plain arguments"),
        ("None", "not a number, text, true or false"),
        ("1j", "not a number"),
        ("s", "yields text"),
        ("a b", "not an expression"),
        ("", "not an expression"),
        ("a" + " + a" * 300, "at most 500 parts"),
        ("a" * 4001, "at most 4000 characters"),
        ("-" * 3000 + "a", "not an expression|nested more than|at most 500 parts"),
        ("1 if flag else " * (MAX_DEPTH + 1) + "2", "nested more than"),
    ],
)
def test_what_is_no_safe_expression_is_refused_in_words(expression, message):
    with pytest.raises(InvalidSetting, match=message):
        evaluate(expression, columns(a=[1.0]))


def test_every_output_needs_an_expression():
    contract = Contract(INPUT, Schema((Field("out", DataType.FLOAT64),)))

    with pytest.raises(InvalidSetting, match="the contract has out; the rule gives other"):
        build_rule(Spec("rule", options={"outputs": {"other": "1"}}), BuildContext(contract, None))


# An independent oracle: the same text, evaluated by Python itself, row by row.

LEAVES = st.sampled_from(["a", "b", "0.5", "2", "-3", "7.25"])


def numbers(depth):
    if depth == 0:
        return LEAVES
    part, truth = numbers(depth - 1), truths(depth - 1)
    return st.one_of(
        LEAVES,
        st.builds("({} {} {})".format, part, st.sampled_from("+-*"), part),
        st.builds(
            "({} {} {})".format, part, st.sampled_from(["/", "//", "%"]), st.sampled_from(["3", "-0.7"])
        ),
        st.builds("(-{})".format, part),
        st.builds("({} ** {})".format, part, st.sampled_from("123")),
        st.builds("({} if {} else {})".format, part, truth, part),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), part, part),
        st.builds("clip({}, -2, 3)".format, part),
        st.builds("{}({})".format, st.sampled_from(["abs", "floor"]), part),
        st.builds("({} + {})".format, part, truth),
    )


def truths(depth):
    leaves = st.sampled_from(["flag", "(s == 'x')", "(s in ('y', 'z'))", "(b not in (1, 2))"])
    if depth == 0:
        return leaves
    part, number = truths(depth - 1), numbers(depth - 1)
    return st.one_of(
        leaves,
        st.builds("({} {} {})".format, part, st.sampled_from(["and", "or"]), part),
        st.builds("(not {})".format, part),
        st.builds("({} {} {})".format, number, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), number),
        st.builds("({} < {} <= {})".format, number, number, number),
    )


ORACLE = {
    "__builtins__": {},
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "clip": lambda value, low, high: min(max(value, low), high),
}


@given(
    expression=numbers(3),
    rows=st.lists(
        st.tuples(
            st.floats(-100, 100), st.integers(-128, 127), st.booleans(), st.sampled_from(["x", "y", "z"])
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_a_rule_equals_python_asked_row_by_row(expression, rows):
    a, b, flag, s = map(list, zip(*rows, strict=True))

    got = evaluate(expression, columns(a=a, b=b, flag=flag, s=s))

    for row, value in zip(rows, got, strict=True):
        names = dict(zip(("a", "b", "flag", "s"), (row[0], float(row[1]), *row[2:]), strict=True))
        expected = eval(expression, ORACLE, names)
        assert value == pytest.approx(float(expected), rel=1e-9, abs=1e-9, nan_ok=True)
