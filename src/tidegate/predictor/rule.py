"""The rule: a safe expression over the contract's fields, evaluated over whole columns."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from enum import Enum
from functools import reduce
from typing import Any

import msgspec
import numpy as np

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract, DataType, Field
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, PredictorError, Spec

MAX_CHARACTERS = 4000
MAX_NODES = 500
MAX_DEPTH = 40
MAX_EXPONENT = 8

Value = Any  # a column, or a constant that numpy spreads over the rows
Evaluate = Callable[[Mapping[str, Column]], Value]


class RuleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a spec of kind `rule`.

    Attributes:
        outputs: Output field -> expression over the input fields, in Python's notation:
            `+ - * / // % **`, comparisons (chained too), `and or not`, `a if c else b`,
            `in` and `not in` lists of constants, and the functions of `FUNCTIONS`.
    """

    outputs: dict[str, str]


class Kind(Enum):
    """What an expression yields."""

    NUMBER = "a number"
    TRUTH = "true or false"
    TEXT = "text"


class RulePredictor:
    """Evaluates one compiled expression an output field."""

    def __init__(self, contract: Contract, options: RuleOptions) -> None:
        """Compile the expressions.

        Raises:
            InvalidSetting: An expression is not allowed, names no field, or yields another type
                than its output field.
        """
        self.contract = contract
        outputs = contract.output.by_name
        if set(options.outputs) != set(outputs):
            raise InvalidSetting(
                f"A rule gives every output field an expression: the contract has {', '.join(outputs)}; "
                f"the rule gives {', '.join(options.outputs) or 'none'}."
            )
        self._rules = [
            (field, _compile_output(field, options.outputs[field.name], contract.input.by_name))
            for field in contract.output.fields
        ]

    def predict(self, batch: Batch) -> Batch:
        """Evaluate every expression over the columns; see `Predictor.predict`.

        Division by zero and the logarithm or root of what has none give infinities and NaN.
        """
        columns = {}
        with np.errstate(all="ignore"):
            for field, evaluate in self._rules:
                columns[field.name] = _to_column(evaluate(batch.columns), field, batch.n_rows)
        return Batch(columns, batch.n_rows)

    def warm_up(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""


def compile_expression(text: str, fields: Mapping[str, Field]) -> tuple[Evaluate, Kind]:
    """Compile an expression to a function over columns.

    No code is generated or executed: the parsed tree is checked node by node against a list of
    what is allowed, and turned into numpy operations.

    Args:
        text: The expression.
        fields: The fields it may name.

    Raises:
        InvalidSetting: It is not an expression of the allowed kind; says what and where.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidSetting(f"An expression has at most {MAX_CHARACTERS} characters, got {len(text)}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InvalidSetting(f"This is not an expression: {text!r} ({error}).") from error
    n_nodes = sum(1 for _ in ast.walk(tree))
    if n_nodes > MAX_NODES:
        raise InvalidSetting(f"An expression has at most {MAX_NODES} parts, got {n_nodes}.")
    return _Compiler(text, fields).compile(tree.body, 0)


def _compile_output(field: Field, text: str, inputs: Mapping[str, Field]) -> Evaluate:
    if not field.is_scalar or field.type is DataType.BYTES:
        raise InvalidSetting(f"A rule gives scalars; output field {field.name!r} is not one.")
    evaluate, kind = compile_expression(text, inputs)
    wanted = _kind_of(field)
    if kind is not wanted and not (wanted is Kind.NUMBER and kind is Kind.TRUTH):
        raise InvalidSetting(
            f"The expression {text!r} yields {kind.value}; output field {field.name!r} needs {wanted.value}.",
            field=field.name,
        )
    return evaluate


def _to_column(value: Value, field: Field, n_rows: int) -> Column:
    column = np.empty(n_rows, field.type.dtype)
    if field.type.is_float or column.dtype.hasobject or field.type is DataType.BOOL:
        column[:] = value
        return column
    rounded = np.asarray(value)
    if rounded.dtype.kind == "f":
        bad = ~np.isfinite(rounded)
        if bad.any():
            raise PredictorError(
                f"The rule gives {field.name!r} no finite number in {int(bad.sum())} rows; it is a "
                f"{field.type.value}.",
                field=field.name,
            )
    limits = np.iinfo(field.type.dtype)
    if rounded.size and (rounded.min() < limits.min or rounded.max() > limits.max):
        raise PredictorError(f"The rule gives {field.name!r} a number beyond {field.type.value}.")
    column[:] = rounded.astype(field.type.dtype)
    return column


def _kind_of(field: Field) -> Kind:
    if field.type is DataType.BOOL:
        return Kind.TRUTH
    return Kind.TEXT if field.type.is_text else Kind.NUMBER


# --- compilation ------------------------------------------------------------------------------

_ARITHMETIC: dict[type[ast.operator], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_ORDER: dict[type[ast.cmpop], np.ufunc] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _least(*values: Value) -> Value:
    result = values[0]
    for value in values[1:]:
        result = np.minimum(result, value)
    return result


def _greatest(*values: Value) -> Value:
    result = values[0]
    for value in values[1:]:
        result = np.maximum(result, value)
    return result


def _round(value: Value, digits: Value = 0) -> Value:
    return np.round(value, int(digits))


FUNCTIONS: Mapping[str, tuple[Callable[..., Value], int, int]] = {
    "abs": (np.abs, 1, 1),
    "ceil": (np.ceil, 1, 1),
    "clip": (lambda value, low, high: np.minimum(np.maximum(value, low), high), 3, 3),
    "exp": (np.exp, 1, 1),
    "floor": (np.floor, 1, 1),
    "isnan": (np.isnan, 1, 1),
    "log": (np.log, 1, 1),
    "log1p": (np.log1p, 1, 1),
    "max": (_greatest, 2, 16),
    "min": (_least, 2, 16),
    "round": (_round, 1, 2),
    "sqrt": (np.sqrt, 1, 1),
}
"""Functions of numbers: how each is computed, and the least and most arguments it takes.
`where(condition, a, b)` is `a if condition else b`. NaN passes through all of them."""


class _Compiler:
    """Turns one checked tree into nested functions over columns."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._fields = fields

    def compile(self, node: ast.expr, depth: int) -> tuple[Evaluate, Kind]:
        if depth > MAX_DEPTH:
            raise self._refuse(node, f"is nested more than {MAX_DEPTH} deep")
        method = _METHODS.get(type(node))
        if method is None:
            raise self._refuse(node, f"is not allowed in a rule ({type(node).__name__})")
        return method(self, node, depth + 1)

    def _refuse(self, node: ast.expr, reason: str) -> InvalidSetting:
        part = ast.get_source_segment(self._text.strip(), node) or self._text
        return InvalidSetting(
            f"In the rule {self._text[:200]!r}: {part[:80]!r} {reason}.",
            hint="A rule has numbers, text, true and false, field names, + - * / // % **, comparisons, "
            f"and/or/not, 'a if c else b', 'in (...)' and {', '.join(FUNCTIONS)}, where.",
        )

    def _of_kind(self, node: ast.expr, depth: int, kind: Kind) -> Evaluate:
        evaluate, got = self.compile(node, depth)
        return self._as_kind(node, evaluate, got, kind)

    def _as_kind(self, node: ast.expr, evaluate: Evaluate, got: Kind, kind: Kind) -> Evaluate:
        if got is not kind and not (kind is Kind.NUMBER and got is Kind.TRUTH):
            raise self._refuse(node, f"is {got.value} where {kind.value} is needed")
        if kind is Kind.NUMBER and got is Kind.TRUTH:
            return lambda columns: np.multiply(evaluate(columns), 1)
        return evaluate

    def _constant(self, node: ast.Constant, _depth: int) -> tuple[Evaluate, Kind]:
        value = node.value
        if isinstance(value, bool):
            return (lambda _: value), Kind.TRUTH
        if isinstance(value, str):
            return (lambda _: value), Kind.TEXT
        if isinstance(value, int | float):
            if isinstance(value, int) and not -(2**53) <= value <= 2**53:
                raise self._refuse(node, "is larger than 2 ** 53")
            number = np.float64(value)
            return (lambda _: number), Kind.NUMBER
        raise self._refuse(node, "is not a number, text, true or false")

    def _name(self, node: ast.Name, _depth: int) -> tuple[Evaluate, Kind]:
        field = self._fields.get(node.id)
        if field is None:
            raise self._refuse(node, f"is not a field; the fields are {', '.join(self._fields)}")
        if not field.is_scalar or field.type is DataType.BYTES:
            raise self._refuse(node, f"is a {'vector' if field.shape else 'bytes field'}, not a scalar")
        name, kind = field.name, _kind_of(field)
        if kind is Kind.NUMBER:
            # In float64 throughout: no overflow of small integers, and one meaning for every type.
            return (lambda columns: columns[name].astype(np.float64)), kind
        return (lambda columns: columns[name]), kind

    def _binary(self, node: ast.BinOp, depth: int) -> tuple[Evaluate, Kind]:
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            raise self._refuse(node, "uses an operator that is not allowed in a rule")
        if isinstance(node.op, ast.Pow):
            self._check_exponent(node.right)
        left = self._of_kind(node.left, depth, Kind.NUMBER)
        right = self._of_kind(node.right, depth, Kind.NUMBER)
        return (lambda columns: operation(left(columns), right(columns))), Kind.NUMBER

    def _check_exponent(self, node: ast.expr) -> None:
        value = node.operand if isinstance(node, ast.UnaryOp) else node
        if not isinstance(value, ast.Constant) or not isinstance(value.value, int | float):
            raise self._refuse(node, "is not a constant, which an exponent must be")
        if abs(value.value) > MAX_EXPONENT:
            raise self._refuse(node, f"is an exponent beyond {MAX_EXPONENT}")

    def _unary(self, node: ast.UnaryOp, depth: int) -> tuple[Evaluate, Kind]:
        if isinstance(node.op, ast.Not):
            truth = self._of_kind(node.operand, depth, Kind.TRUTH)
            return (lambda columns: np.logical_not(truth(columns))), Kind.TRUTH
        if isinstance(node.op, ast.USub):
            number = self._of_kind(node.operand, depth, Kind.NUMBER)
            return (lambda columns: np.negative(number(columns))), Kind.NUMBER
        if isinstance(node.op, ast.UAdd):
            return self._of_kind(node.operand, depth, Kind.NUMBER), Kind.NUMBER
        raise self._refuse(node, "uses an operator that is not allowed in a rule")

    def _boolean(self, node: ast.BoolOp, depth: int) -> tuple[Evaluate, Kind]:
        parts = [self._of_kind(value, depth, Kind.TRUTH) for value in node.values]
        operation = np.logical_and if isinstance(node.op, ast.And) else np.logical_or

        def evaluate(columns: Mapping[str, Column]) -> Value:
            result = parts[0](columns)
            for part in parts[1:]:
                result = operation(result, part(columns))
            return result

        return evaluate, Kind.TRUTH

    def _compare(self, node: ast.Compare, depth: int) -> tuple[Evaluate, Kind]:
        operands = [node.left, *node.comparators]
        links = [
            self._link(left, operation, right, depth)
            for left, operation, right in zip(operands, node.ops, operands[1:], strict=False)
        ]
        if len(links) == 1:
            return links[0], Kind.TRUTH
        return (lambda columns: reduce(np.logical_and, [link(columns) for link in links])), Kind.TRUTH

    def _link(self, left: ast.expr, operation: ast.cmpop, right: ast.expr, depth: int) -> Evaluate:
        if isinstance(operation, ast.In | ast.NotIn):
            return self._membership(left, right, depth, negate=isinstance(operation, ast.NotIn))
        compare = _ORDER.get(type(operation))
        if compare is None:
            raise self._refuse(left, "is compared with an operator that is not allowed in a rule")
        one, one_kind = self.compile(left, depth)
        two, two_kind = self.compile(right, depth)
        if Kind.TEXT in (one_kind, two_kind):
            if one_kind is not two_kind:
                raise self._refuse(right, f"is {two_kind.value}, compared with {one_kind.value}")
            if not isinstance(operation, ast.Eq | ast.NotEq):
                raise self._refuse(right, "is text, which is only compared with == and !=")
        return lambda columns: compare(one(columns), two(columns))

    def _membership(self, left: ast.expr, right: ast.expr, depth: int, *, negate: bool) -> Evaluate:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not all(
            isinstance(item, ast.Constant) for item in right.elts
        ):
            raise self._refuse(right, "is not a list of constants, which 'in' needs")
        member, kind = self.compile(left, depth)
        constants: list[Any] = [item.value for item in right.elts if isinstance(item, ast.Constant)]
        allowed: tuple[type, ...] = (str,) if kind is Kind.TEXT else (int, float, bool)
        if not all(isinstance(value, allowed) for value in constants):
            raise self._refuse(right, f"has constants of another type than the left side, {kind.value}")

        def evaluate(columns: Mapping[str, Column]) -> Value:
            column = member(columns)
            found = np.zeros(np.shape(column), np.bool_)
            for value in constants:
                found = np.logical_or(found, np.equal(column, value))
            return np.logical_not(found) if negate else found

        return evaluate

    def _conditional(self, node: ast.IfExp, depth: int) -> tuple[Evaluate, Kind]:
        return self._choice(node.test, node.body, node.orelse, depth)

    def _choice(self, test: ast.expr, body: ast.expr, orelse: ast.expr, depth: int) -> tuple[Evaluate, Kind]:
        condition = self._of_kind(test, depth, Kind.TRUTH)
        one, one_kind = self.compile(body, depth)
        two, two_kind = self.compile(orelse, depth)
        kind = one_kind if one_kind is two_kind else Kind.NUMBER
        one = self._as_kind(body, one, one_kind, kind)
        two = self._as_kind(orelse, two, two_kind, kind)
        if kind is not Kind.TEXT:
            return (lambda columns: np.where(condition(columns), one(columns), two(columns))), kind

        def evaluate(columns: Mapping[str, Column]) -> Value:
            flags = np.asarray(condition(columns), np.bool_)
            out = np.empty(flags.shape, object)  # as fixed-width text, np.where would cut what is longer
            out[...] = two(columns)
            out[flags] = np.broadcast_to(np.asarray(one(columns), object), flags.shape)[flags]
            return out

        return evaluate, kind

    def _call(self, node: ast.Call, depth: int) -> tuple[Evaluate, Kind]:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise self._refuse(node, "is not a call of one of the functions, with plain arguments")
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self._refuse(node, "is a call with starred arguments")
        name = node.func.id
        if name == "where" and len(node.args) == 3:
            return self._choice(node.args[0], node.args[1], node.args[2], depth)
        known = FUNCTIONS.get(name)
        if known is None:
            raise self._refuse(node, "calls something that is not one of the functions")
        function, least, most = known
        if not least <= len(node.args) <= most:
            raise self._refuse(node, f"takes {least} to {most} arguments, got {len(node.args)}")
        if name == "round" and len(node.args) == 2 and not _is_small_integer(node.args[1]):
            raise self._refuse(node, "rounds to a number of digits that is not a constant from 0 to 12")
        parts = [self._of_kind(argument, depth, Kind.NUMBER) for argument in node.args]
        kind = Kind.TRUTH if name == "isnan" else Kind.NUMBER
        return (lambda columns: function(*[part(columns) for part in parts])), kind


def _is_small_integer(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int)
        and not isinstance(node.value, bool)
        and 0 <= node.value <= 12
    )


_METHODS: Mapping[type[ast.expr], Callable[..., tuple[Evaluate, Kind]]] = {
    ast.Constant: _Compiler._constant,
    ast.Name: _Compiler._name,
    ast.BinOp: _Compiler._binary,
    ast.UnaryOp: _Compiler._unary,
    ast.BoolOp: _Compiler._boolean,
    ast.Compare: _Compiler._compare,
    ast.IfExp: _Compiler._conditional,
    ast.Call: _Compiler._call,
}


def build_rule(spec: Spec, context: BuildContext) -> RulePredictor:
    """Build the predictor of a spec of kind `rule`; see `RuleOptions`.

    Raises:
        InvalidSetting: An expression cannot be used.
    """
    try:
        options = msgspec.convert(spec.options, RuleOptions)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"The options of a rule cannot be used: {error}") from error
    return RulePredictor(context.contract, options)
