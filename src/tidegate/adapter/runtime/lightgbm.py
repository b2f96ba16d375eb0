"""LightGBM boosters in their own library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.adapter.runtime.native import (
    NativePredictor,
    Run,
    classifier_answers,
    classifier_outputs,
    labels_of,
    read_options,
    require,
    table_signature,
)
from tidegate.contract.schema import DataType
from tidegate.predictor.binding import Signature, Tensor
from tidegate.predictor.protocol import BuildContext, LoadError, Spec

_HEADER_CHARACTERS = 1 << 16


def load_booster(path: Path) -> Any:
    """Read a LightGBM text model.

    Raises:
        LoadError: It is damaged, or something else.
        MissingExtra: LightGBM is not installed.
    """
    require("A LightGBM model", "lightgbm", extra="boosters")
    import lightgbm as lgb

    text = path.read_text(encoding="utf-8", errors="replace")
    # LightGBM's own parser ends the process on some damaged files, so the frame is looked at first.
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise LoadError(
            f"{path.name} is not a LightGBM text model, or it is cut off.",
            hint="Write it with booster.save_model('model.txt').",
            path=str(path),
        )
    try:
        return lgb.Booster(model_str=text)
    except lgb.basic.LightGBMError as error:
        raise LoadError(f"The LightGBM model {path.name} cannot be read: {error}", path=str(path)) from error


def objective_of(booster: Any) -> str:
    """Return the objective's name, for example `binary` or `multiclass`."""
    match = re.search(
        r"^objective=(\S+)", booster.model_to_string(num_iteration=1)[:_HEADER_CHARACTERS], re.MULTILINE
    )
    return match[1] if match else "regression"


def classes_of(booster: Any) -> tuple[int, ...]:
    """Return the classes as LightGBM numbers them; none for what is no classifier."""
    objective = objective_of(booster)
    if objective in ("binary", "cross_entropy"):
        return (0, 1)
    return tuple(range(booster.num_model_per_iteration())) if objective.startswith("multiclass") else ()


def categorical_features(booster: Any) -> list[str]:
    """Return the features whose values the model's file lists one by one, as it does for categories."""
    text = booster.model_to_string(num_iteration=1)
    match = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    infos = match[1].split(" ") if match else []
    # a range stands in brackets, and what never varied is called none
    return [
        name
        for name, info in zip(booster.feature_name(), infos, strict=False)
        if not info.startswith("[") and info != "none"
    ]


def signature_of(booster: Any, classes: tuple[Any, ...] = ()) -> Signature:
    """Describe what a booster takes and gives."""
    known = classes or classes_of(booster)
    outputs = classifier_outputs(known) if known else (Tensor("variable", DataType.FLOAT64),)
    return table_signature(booster.num_feature(), DataType.FLOAT64, outputs)


def run_of(booster: Any, classes: tuple[Any, ...] = (), *, n_threads: int = 1) -> Run:
    """Return a function that calls a booster."""
    known = classes or classes_of(booster)
    to_label = labels_of(known) if known else None

    def run(table: Any) -> dict[str, Any]:
        answer = np.asarray(booster.predict(table, num_threads=n_threads))
        return {"variable": answer} if to_label is None else classifier_answers(answer, to_label)

    return run


def build_lightgbm(spec: Spec, context: BuildContext) -> NativePredictor:
    """Build the predictor of a spec of kind `lightgbm`; see `NativeOptions`.

    Raises:
        LoadError: The model cannot be read.
        InvalidSetting: Options and contract do not fit.
        MissingExtra: LightGBM is not installed.
    """
    options = read_options(spec)
    assert spec.artifact is not None
    booster = load_booster(context.open_artifact(spec.artifact))
    run = run_of(booster, options.classes, n_threads=context.n_threads)
    return NativePredictor(context.contract, options, run, engine="LightGBM")
