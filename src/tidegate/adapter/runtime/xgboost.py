"""XGBoost boosters in their own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
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
from tidegate.adapter.runtime.ubjson import top_keys
from tidegate.contract.schema import DataType
from tidegate.predictor.binding import Signature, Tensor
from tidegate.predictor.protocol import BuildContext, LoadError, Spec


def load_booster(path: Path) -> Any:
    """Read an XGBoost model, JSON or UBJSON.

    Raises:
        LoadError: It is damaged, or something else.
        MissingExtra: XGBoost is not installed.
    """
    require("An XGBoost model", "xgboost", extra="boosters")
    import xgboost as xgb

    data = path.read_bytes()
    booster = xgb.Booster()
    try:
        _check_form(data)
        booster.load_model(bytearray(data))
    except (xgb.core.XGBoostError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise LoadError(
            f"{path.name} is not an XGBoost model, or it is damaged: {reason}.",
            hint="Write it with booster.save_model('model.json') or 'model.ubj'.",
            path=str(path),
        ) from error
    return booster


def _check_form(data: bytes) -> None:
    """Walk over the file before XGBoost does, which ends the process on some that are cut off.

    Raises:
        ValueError: It is neither JSON nor UBJSON with a learner in it.
    """
    is_json = data[:1] == b"{" and data[1:].lstrip()[:1] in (b'"', b"}")
    keys = list(msgspec.json.decode(data, type=dict[str, msgspec.Raw])) if is_json else top_keys(data)
    if "learner" not in keys:
        raise ValueError("it holds no learner")


def objective_of(booster: Any) -> str:
    """Return the objective's name, for example `binary:logistic`."""
    name: str = json.loads(booster.save_config())["learner"]["objective"]["name"]
    return name


def classes_of(booster: Any) -> tuple[int, ...]:
    """Return the classes as XGBoost numbers them; none for what is no classifier with scores."""
    objective = objective_of(booster)
    if objective == "binary:logistic":
        return (0, 1)
    if objective != "multi:softprob":
        return ()
    learner = json.loads(booster.save_config())["learner"]
    return tuple(range(int(learner["learner_model_param"]["num_class"])))


def signature_of(booster: Any, classes: tuple[Any, ...] = ()) -> Signature:
    """Describe what a booster takes and gives."""
    known = classes or classes_of(booster)
    outputs = classifier_outputs(known) if known else (Tensor("variable", DataType.FLOAT32),)
    return table_signature(booster.num_features(), DataType.FLOAT32, outputs)


def run_of(booster: Any, classes: tuple[Any, ...] = (), *, n_threads: int = 1) -> Run:
    """Return a function that calls a booster."""
    known = classes or classes_of(booster)
    to_label = labels_of(known) if known else None
    booster.set_param({"nthread": n_threads})

    def run(table: Any) -> dict[str, Any]:
        answer = np.asarray(booster.inplace_predict(table, validate_features=False))
        return {"variable": answer} if to_label is None else classifier_answers(answer, to_label)

    return run


def build_xgboost(spec: Spec, context: BuildContext) -> NativePredictor:
    """Build the predictor of a spec of kind `xgboost`; see `NativeOptions`.

    Raises:
        LoadError: The model cannot be read.
        InvalidSetting: Options and contract do not fit.
        MissingExtra: XGBoost is not installed.
    """
    options = read_options(spec)
    assert spec.artifact is not None
    booster = load_booster(context.open_artifact(spec.artifact))
    run = run_of(booster, options.classes, n_threads=context.n_threads)
    return NativePredictor(context.contract, options, run, engine="XGBoost")
