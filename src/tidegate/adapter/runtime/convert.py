"""Fitted scikit-learn, LightGBM and XGBoost models as ONNX graphs."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tidegate.adapter.runtime.xgboost import missing_of
from tidegate.contract.schema import DataType, Field

_GRAPH_NAME = "model"
"""Converters would draw one at random; the same model is to be the same artifact."""
_BOOSTER_OPSET = 15  # the newest that onnxmltools writes boosters for
_OPSETS = {"": 17, "ai.onnx.ml": 3}
"""What pipelines are written in: the last ai.onnx.ml with the tree operators that the boosters'
converters know, and a main opset that every onnxruntime of the last years reads."""


class Attempt(NamedTuple):
    """One way to write a model as a graph.

    Attributes:
        form: The graph's inputs, in words.
        convert: Returns the graph; raises whatever the converter raises.
    """

    form: str
    convert: Callable[[], bytes]


def missing_packages(kind: str) -> list[str]:
    """Return the packages that conversion of a model of `kind` needs and that are not installed."""
    needed = ["onnx", "skl2onnx"] if kind == "skops" else ["onnx", "onnxmltools", "skl2onnx"]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def attempts(model: Any, kind: str, features: Sequence[tuple[str, Field]]) -> Iterator[Attempt]:
    """Yield ways to convert a fitted model, the fastest to serve first.

    Args:
        model: The fitted model.
        kind: `skops` (scikit-learn), `lightgbm` or `xgboost`.
        features: The model's columns in order: their names where it was fitted, and their fields.
    """
    numeric = all(field.is_scalar and not field.type.dtype.hasobject for _, field in features)
    width = len(features)
    if kind == "lightgbm":
        yield Attempt("a float32 matrix", lambda: _convert_lightgbm(model, width))
    elif kind == "xgboost":
        yield Attempt("a float32 matrix", lambda: _convert_xgboost(model, width))
    else:
        yield from _estimator_attempts(model, features, numeric=numeric)


def _estimator_attempts(
    model: Any, features: Sequence[tuple[str, Field]], *, numeric: bool
) -> Iterator[Attempt]:
    if numeric and not needs_columns(model):
        yield Attempt("a float32 matrix", partial(_convert_matrix, model, features, DataType.FLOAT32))
        if _has_parts(model):
            form = "a float64 matrix, the last step in float32"
            yield Attempt(form, partial(_convert_in_parts, model, features, is_matrix=True))
        yield Attempt("a float64 matrix", partial(_convert_matrix, model, features, DataType.FLOAT64))
        return
    for whole, real, form in (
        (DataType.FLOAT32, DataType.FLOAT32, "a column each, numbers as float32"),
        (DataType.INT64, DataType.FLOAT32, "a column each, int64 and float32"),
    ):
        yield Attempt(form, partial(_convert_columns, model, features, whole, real))
    if _has_parts(model):
        form = "a column each, numbers as float64, the last step in float32"
        yield Attempt(form, partial(_convert_in_parts, model, features, is_matrix=False))
    for whole, real, form in (
        (DataType.FLOAT64, DataType.FLOAT64, "a column each, numbers as float64"),
        (DataType.INT64, DataType.FLOAT64, "a column each, int64 and float64"),
    ):
        yield Attempt(form, partial(_convert_columns, model, features, whole, real))


def needs_columns(model: Any) -> bool:
    """Tell whether a pipeline picks columns by name, so that a matrix will not do."""
    from sklearn.compose import ColumnTransformer  # type: ignore[import-untyped]  # ships no types

    steps = [step for _, step in getattr(model, "steps", ())]
    nested = [part for _, part in getattr(model, "transformer_list", ())]
    return isinstance(model, ColumnTransformer) or any(needs_columns(step) for step in (*steps, *nested))


def _convert_matrix(model: Any, features: Sequence[tuple[str, Field]], kind: DataType) -> bytes:
    return _convert_estimator(model, [("features", _tensor_type(kind, len(features)))])


def _convert_columns(
    model: Any, features: Sequence[tuple[str, Field]], whole: DataType, real: DataType
) -> bytes:
    return _convert_estimator(model, _column_types(features, whole, real))


def _column_types(
    features: Sequence[tuple[str, Field]], whole: DataType, real: DataType
) -> list[tuple[str, Any]]:
    types = []
    for source, field in features:
        if field.type.dtype.hasobject:
            kind = DataType.STRING
        elif field.type.is_float:
            kind = real
        else:
            kind = whole
        width = 1 if field.is_scalar else field.shape[0]
        types.append((source, _tensor_type(kind, width)))
    return types


def _has_parts(model: Any) -> bool:
    return len(getattr(model, "steps", ())) > 1 and hasattr(model.steps[-1][1], "n_features_in_")


def _convert_in_parts(model: Any, features: Sequence[tuple[str, Field]], *, is_matrix: bool) -> bytes:
    """Write what comes before the last step in float64, and the last step in float32.

    Trees of boosters draw their thresholds at values of the training data. If these were scaled in
    float64, scaling them again in float32 puts some on the other side of their own threshold. Trees
    themselves lose nothing: their converters round thresholds so that float32 values fall as they did.
    """
    import onnx
    from onnx import compose, helper

    last = model.steps[-1][1]
    double = DataType.FLOAT64
    types = (
        [("features", _tensor_type(double, len(features)))]
        if is_matrix
        else _column_types(features, double, double)
    )
    head = onnx.load_from_string(_convert_estimator(model[:-1], types, opset=_BOOSTER_OPSET, is_double=True))
    tail = onnx.load_from_string(_convert_last(last, int(last.n_features_in_)))
    tail = compose.add_prefix(tail, "last_")  # the columns keep their names
    exact = head.graph.output[0].name
    head.graph.node.append(helper.make_node("Cast", [exact], ["rounded"], to=onnx.TensorProto.FLOAT))
    del head.graph.output[:]
    width = int(last.n_features_in_)
    head.graph.output.append(helper.make_tensor_value_info("rounded", onnx.TensorProto.FLOAT, [None, width]))
    head.ir_version = tail.ir_version = max(head.ir_version, tail.ir_version)
    opsets = {one.domain: one.version for model_ in (head, tail) for one in model_.opset_import}
    for part in (head, tail):
        del part.opset_import[:]
        part.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    merged = compose.merge_models(head, tail, [("rounded", tail.graph.input[0].name)], name=_GRAPH_NAME)
    merged.producer_name = "skl2onnx"  # a column each is then read as columns, not as vectors of one
    return _serialised(merged)


def _convert_last(last: Any, width: int) -> bytes:
    _check_missing(last)
    library = type(last).__module__.partition(".")[0]
    if library == "lightgbm":
        return _convert_lightgbm(last, width)
    if library == "xgboost":
        return _convert_xgboost(last.get_booster(), width)
    return _convert_estimator(
        last, [("features", _tensor_type(DataType.FLOAT32, width))], opset=_BOOSTER_OPSET
    )


def _tensor_type(kind: DataType, width: int | None) -> Any:
    from skl2onnx.common import data_types  # type: ignore[import-untyped]  # ships no types

    name = {
        DataType.FLOAT32: "FloatTensorType",
        DataType.FLOAT64: "DoubleTensorType",
        DataType.INT64: "Int64TensorType",
        DataType.STRING: "StringTensorType",
    }[kind]
    return getattr(data_types, name)([None, width])


def _convert_estimator(
    model: Any, types: list[tuple[str, Any]], *, opset: int = _OPSETS[""], is_double: bool = False
) -> bytes:
    import skl2onnx  # type: ignore[import-untyped]  # ships no types

    _check_missing(model)
    if any(type(kind).__name__ == "DoubleTensorType" for _, kind in types):
        _check_thresholds(model)
    model = _thawed(model)
    _register_boosters(model)
    options = {"zipmap": False} if hasattr(model, "classes_") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of converters about their own dependencies
        graph = skl2onnx.convert_sklearn(
            model,
            _GRAPH_NAME,
            initial_types=types,
            options=options,
            target_opset={**_OPSETS, "": opset},
            **(_double_imputer() if is_double else {}),
        )
    return _serialised(graph)


def _check_missing(model: Any) -> None:
    """Refuse a booster within that takes a number for a missing value, which its converter leaves out."""
    for part in _parts(model):
        if type(part).__module__.startswith("xgboost.") and missing_of(part) is not None:
            raise NotImplementedError(
                f"its {type(part).__name__} takes {missing_of(part):g} for missing, and graphs know NaN alone"
            )


def _check_thresholds(model: Any) -> None:
    """Refuse trees that split the missing from all other values, at infinity.

    In float64 the converter looks for the nearest threshold between two neighbours, and next to
    infinity looks for ever.
    """
    for part in _parts(model):
        tree = getattr(part, "tree_", None)
        if tree is not None and not np.isfinite(tree.threshold).all():
            raise NotImplementedError("its trees split at missing values, which no float64 graph can")


def _parts(model: Any) -> Iterator[Any]:
    """Yield a model and all that it is made of, however deep."""
    waiting, seen = [model], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, type | ModuleType):
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else ()
        elif hasattr(part, "__dict__"):
            yield part
            waiting += vars(part).values()


def _thawed(model: Any) -> Any:
    """Return a calibrated model whose estimators are no longer marked as frozen, which no converter knows."""
    if getattr(model, "steps", None):
        last = _thawed(model.steps[-1][1])
        if last is model.steps[-1][1]:
            return model
        found = copy.copy(model)
        found.steps = [*model.steps[:-1], (model.steps[-1][0], last)]
        return found
    parts = getattr(model, "calibrated_classifiers_", ())
    if not any(type(each.estimator).__name__ == "FrozenEstimator" for each in parts):
        return model
    found = copy.copy(model)
    found.calibrated_classifiers_ = [copy.copy(each) for each in parts]
    for each in found.calibrated_classifiers_:
        each.estimator = getattr(each.estimator, "estimator", each.estimator)
    found.estimator = found.calibrated_classifiers_[0].estimator
    return found


def _double_imputer() -> dict[str, Any]:
    """Return converter arguments that write an imputer of float64: onnxruntime has only one of float32."""
    from onnx import TensorProto
    from skl2onnx.operator_converters.common import (  # type: ignore[import-untyped]  # ships no types
        concatenate_variables,
    )
    from skl2onnx.shape_calculators.imputer import (  # type: ignore[import-untyped]  # ships no types
        calculate_sklearn_imputer_output_shapes,
    )
    from sklearn.impute import SimpleImputer  # type: ignore[import-untyped]  # ships no types

    def convert(scope: Any, operator: Any, container: Any) -> None:
        fitted = operator.raw_operator
        values = np.asarray(fitted.statistics_, np.float64)
        if fitted.indicator_ is not None or np.isnan(values).any() or not np.isnan(fitted.missing_values):
            raise NotImplementedError("only an imputer that puts one number for NaN in each column")
        given = concatenate_variables(scope, operator.inputs, container)
        fill, is_missing = (scope.get_unique_variable_name(name) for name in ("fill", "is_missing"))
        container.add_initializer(fill, TensorProto.DOUBLE, [1, len(values)], values.tolist())
        container.add_node("IsNaN", [given], [is_missing], name=scope.get_unique_operator_name("IsNaN"))
        container.add_node(
            "Where",
            [is_missing, fill, given],
            [operator.outputs[0].full_name],
            name=scope.get_unique_operator_name("Where"),
        )

    return {
        "custom_conversion_functions": {SimpleImputer: convert},
        "custom_shape_calculators": {SimpleImputer: calculate_sklearn_imputer_output_shapes},
    }


def _register_boosters(model: Any) -> None:
    """Tell skl2onnx how to write the boosters at the end of a pipeline, once a process."""
    last = model.steps[-1][1] if getattr(model, "steps", None) else None
    library = type(last).__module__.partition(".")[0]
    if library not in ("lightgbm", "xgboost") or importlib.util.find_spec("onnxmltools") is None:
        return
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (  # type: ignore[import-untyped]  # ships no types
        calculate_linear_classifier_output_shapes as classifier_shapes,
    )
    from skl2onnx.common.shape_calculator import (
        calculate_linear_regressor_output_shapes as regressor_shapes,
    )

    if library == "lightgbm":
        from onnxmltools.convert.lightgbm.operator_converters import (  # type: ignore[import-untyped]  # no types
            LightGbm,
        )

        convert, prefix = LightGbm.convert_lightgbm, "LightGbm"
    else:
        from onnxmltools.convert.xgboost.operator_converters import (  # type: ignore[import-untyped]  # no types
            XGBoost,
        )

        convert, prefix = XGBoost.convert_xgboost, "XGBoost"
    is_classifier = hasattr(last, "classes_")
    update_registered_converter(
        type(last),
        f"{prefix}{type(last).__name__}",
        classifier_shapes if is_classifier else regressor_shapes,
        convert,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if is_classifier else {},
        overwrite=True,
    )


def _convert_lightgbm(model: Any, width: int) -> bytes:
    import onnxmltools  # type: ignore[import-untyped]  # ships no types
    from onnxmltools.convert.common.data_types import (  # type: ignore[import-untyped]  # ships no types
        FloatTensorType,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = onnxmltools.convert_lightgbm(
            model,
            name=_GRAPH_NAME,
            initial_types=[("features", FloatTensorType([None, width]))],
            zipmap=False,
            target_opset=_BOOSTER_OPSET,
        )
    return _serialised(graph)


def _convert_xgboost(model: Any, width: int) -> bytes:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = onnxmltools.convert_xgboost(
            _without_names(model),
            name=_GRAPH_NAME,
            initial_types=[("features", FloatTensorType([None, width]))],
            target_opset=_BOOSTER_OPSET,
        )
    return _serialised(graph)


def _without_names(model: Any) -> Any:
    """Return a copy whose features are numbered: the converter reads columns out of their names."""
    import copy

    copied = copy.deepcopy(model)
    booster = copied.get_booster() if hasattr(copied, "get_booster") else copied
    booster.feature_names = None
    return copied


def _serialised(graph: Any) -> bytes:
    """Return a graph's bytes, the same for the same graph: converters write its opsets in a set's order."""
    opsets = sorted((opset.domain, opset.version) for opset in graph.opset_import)
    del graph.opset_import[:]
    for domain, version in opsets:
        graph.opset_import.add(domain=domain, version=version)
    data: bytes = graph.SerializeToString()
    return data
