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


BUILDERS: Mapping[str, Builder] = MappingProxyType({"onnx": _onnx, "lookup": _lookup, "constant": _lookup})
