"""XGBoost boosters in their own library."""

from __future__ import annotations

import json
from itertools import pairwise
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


def booster_of(booster: Any) -> str:
    """Return what it is made of: `gbtree`, `dart` or `gblinear`."""
    name: str = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
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
    if known:
        outputs = classifier_outputs(known)
    else:
        width = width_of(booster)
        outputs = (Tensor("variable", DataType.FLOAT32, (width,) if width > 1 else ()),)
    return table_signature(booster.num_features(), DataType.FLOAT32, outputs)


def width_of(booster: Any) -> int:
    """Return how many values a booster gives a row: one a target, or a quantile."""
    learner = json.loads(booster.save_config())["learner"]
    return int(learner["learner_model_param"].get("num_target", 1))


def categories_of(booster: Any) -> dict[str, tuple[str, ...]]:
    """Return feature -> its categories in the order of the codes, of what the model itself knows.

    Models of XGBoost 3.1 and newer hold the categories that they were fitted on, texts or whole
    numbers; older ones, and those fitted on codes, hold none.
    """
    if "c" not in (booster.feature_types or ()):
        return {}
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    stored = model.get("gbtree", model)["model"].get("cats", {}).get("enc", [])
    names = booster.feature_names or [f"feature_{position}" for position in range(len(stored))]
    found = {}
    for name, kind, column in zip(names, booster.feature_types, stored, strict=False):
        offsets, values = column.get("offsets"), column.get("values")
        if kind != "c" or not values:
            continue
        if offsets:  # texts, one after the other
            data = bytes(value & 0xFF for value in values)
            found[name] = tuple(data[a:b].decode() for a, b in pairwise(offsets))
        else:
            found[name] = tuple(map(str, values))
    return found


def is_of_wrapper(model: Any) -> bool:
    """Tell whether it is a scikit-learn wrapper, or a booster that was read from a wrapper's file."""
    return hasattr(model, "get_booster") or model.attr("scikit_learn") is not None


def with_scores(booster: Any) -> Any:
    """Return a copy of a classifier of objective `multi:softmax` that gives each class's probability."""
    found = booster.copy()
    found.set_param({"objective": "multi:softprob"})
    return found


def best_of(booster: Any) -> tuple[Any, int | None]:
    """Return what an early-stopped booster's wrapper would answer with, and the last iteration of it.

    None where these are all iterations. A linear booster has none that could be left out.
    """
    best = booster.attr("best_iteration")
    n_rounds = booster.num_boosted_rounds()
    if best is None or booster_of(booster) == "gblinear" or int(best) + 1 >= n_rounds:
        return booster, None
    return booster[: int(best) + 1], int(best)


def missing_of(wrapper: Any) -> float | None:
    """Return the number that a wrapper takes for a missing value; None for NaN, which always is one."""
    missing = getattr(wrapper, "missing", None)
    # No field holds an infinity, so that none can come in its place.
    return None if missing is None or not np.isfinite(missing) else float(missing)


def run_of(
    booster: Any, classes: tuple[Any, ...] = (), *, missing: float | None = None, n_threads: int = 1
) -> Run:
    """Return a function that calls a booster; `missing` as `missing_of` says."""
    import xgboost as xgb

    known = classes or classes_of(booster)
    to_label = labels_of(known) if known else None
    booster.set_param({"nthread": n_threads})

    is_linear = booster_of(booster) == "gblinear"
    gap = np.nan if missing is None else missing

    def run(table: Any) -> dict[str, Any]:
        if is_linear:  # has no prediction in place
            answer = np.asarray(booster.predict(xgb.DMatrix(table, missing=gap), validate_features=False))
        else:
            answer = np.asarray(booster.inplace_predict(table, missing=gap, validate_features=False))
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
    run = run_of(booster, options.classes, missing=options.missing, n_threads=context.n_threads)
    return NativePredictor(context.contract, options, run, engine="XGBoost")
