"""What boosters themselves say of a prediction: the Shapley values of their trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.adapter.runtime.native import read_options
from tidegate.contract.batch import Batch
from tidegate.evaluation.explanation import Parts
from tidegate.predictor.binding import Binding
from tidegate.predictor.protocol import BuildContext, Spec
from tidegate.predictor.tensor import Gather

KINDS = frozenset({"lightgbm", "xgboost"})

Floats = npt.NDArray[np.float64]


def build_native(spec: Spec, context: BuildContext) -> Callable[[Batch], Parts]:
    """Return a function that gives a booster's contributions to rows of its contract.

    Args:
        spec: Of a kind in `KINDS`.
        context: What its builder may use.

    Raises:
        LoadError: The model cannot be read.
        InvalidSetting: Options and contract do not fit.
        MissingExtra: The library is not installed.
    """
    options = read_options(spec)
    assert spec.artifact is not None
    item = Binding.from_options(options.binding, context.contract).inputs[0]
    gather = Gather(item, context.contract.input)
    path = context.open_artifact(spec.artifact)
    if spec.kind == "lightgbm":
        run = _lightgbm(path, context.n_threads)
    else:
        run = _xgboost(path, context.n_threads, options.missing)

    def explain(batch: Batch) -> Parts:
        answer = run(gather.tensor(batch))
        return Parts(item.fields, answer[..., :-1], answer[..., -1])

    return explain


def _lightgbm(path: Any, n_threads: int) -> Callable[[Any], Floats]:
    from tidegate.adapter.runtime.lightgbm import load_booster

    booster = load_booster(path)
    width = booster.num_feature() + 1
    n_classes = booster.num_model_per_iteration()

    def run(table: Any) -> Floats:
        flat = np.asarray(booster.predict(table, pred_contrib=True, num_threads=n_threads), np.float64)
        return flat.reshape(len(flat), n_classes, width) if n_classes > 1 else flat

    return run


def _xgboost(path: Any, n_threads: int, missing: float | None) -> Callable[[Any], Floats]:
    from tidegate.adapter.runtime.xgboost import load_booster

    booster = load_booster(path)
    import xgboost as xgb

    def run(table: Any) -> Floats:
        rows = xgb.DMatrix(
            table,
            missing=np.nan if missing is None else missing,
            nthread=n_threads,
            feature_names=booster.feature_names,
            feature_types=booster.feature_types,
            enable_categorical=True,
        )
        return np.asarray(booster.predict(rows, pred_contribs=True), np.float64)

    return run
