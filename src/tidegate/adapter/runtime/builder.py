"""Which builder makes which kind of predictor. Engines are imported when one of their kind is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tidegate.predictor.protocol import BuildContext, Builder, Predictor, Spec


def _onnx(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.adapter.runtime.onnx import build_onnx

    return build_onnx(spec, context)


def _lookup(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.predictor.lookup import build_lookup

    return build_lookup(spec, context)


def _rule(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.predictor.rule import build_rule

    return build_rule(spec, context)


def _function(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.predictor.function import build_function

    return build_function(spec, context)


def _remote(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.predictor.remote import build_remote

    return build_remote(spec, context)


def _skops(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.adapter.runtime.skops import build_skops

    return build_skops(spec, context)


def _lightgbm(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.adapter.runtime.lightgbm import build_lightgbm

    return build_lightgbm(spec, context)


def _xgboost(spec: Spec, context: BuildContext) -> Predictor:
    from tidegate.adapter.runtime.xgboost import build_xgboost

    return build_xgboost(spec, context)


BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        "constant": _lookup,
        "lightgbm": _lightgbm,
        "lookup": _lookup,
        "onnx": _onnx,
        "python": _function,
        "remote": _remote,
        "rule": _rule,
        "skops": _skops,
        "xgboost": _xgboost,
    }
)
