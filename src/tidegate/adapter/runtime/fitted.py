"""Fitted models as they come from a notebook: which library, which features, which classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.adapter.runtime import lightgbm, skops, xgboost
from tidegate.adapter.runtime.native import Run, require
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import Tensor

SUFFIXES: Mapping[str, str] = {"skops": ".skops", "lightgbm": ".txt", "xgboost": ".ubj"}


@dataclass(frozen=True)
class FittedModel:
    """A model in the library it was fitted with.

    Attributes:
        model: As it was given: estimator, wrapper or booster.
        kind: The kind of its native predictor: `skops`, `lightgbm` or `xgboost`.
        native: What runs: the estimator, or the booster inside a wrapper.
        features: Names of its features in order, where it knows them.
        n_features: How many it takes, where it knows.
        classes: What a classifier's labels are, in the order of its scores; empty where it has none
            or numbers them.
        codes: Feature -> its categories in the order of the model's codes.
        missing: Of an XGBoost wrapper: the number that it takes for a missing value beside NaN.
        notes: What was done to it that a person should know, a sentence each.
    """

    model: Any
    kind: str
    native: Any
    features: tuple[str, ...] = ()
    n_features: int | None = None
    classes: tuple[Any, ...] = ()
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{type(self.model).__module__.partition('.')[0]} {type(self.model).__name__}"

    def outputs(self, example: Any) -> tuple[Tensor, ...]:
        """Describe what it gives; `example` is a few rows as it takes them."""
        if self.kind == "lightgbm":
            return lightgbm.signature_of(self.native, self.classes).outputs
        if self.kind == "xgboost":
            return xgboost.signature_of(self.native, self.classes).outputs
        return skops.estimator_outputs(self.native, example)

    def run(self, wanted: frozenset[str], *, n_threads: int = 1) -> Run:
        """Return a function that calls it for the outputs named in `wanted`."""
        if self.kind == "lightgbm":
            return lightgbm.run_of(self.native, self.classes, n_threads=n_threads)
        if self.kind == "xgboost":
            return xgboost.run_of(self.native, self.classes, missing=self.missing, n_threads=n_threads)
        return skops.run_of(self.native, wanted, n_threads=n_threads)

    def answers(self, rows: Any, wanted: frozenset[str]) -> Mapping[str, Any]:
        """Return what the object itself, as it was given, answers to rows as its owner would give them."""
        if self.model is self.native:
            return self.run(wanted)(rows)
        if "probabilities" in wanted:
            label = self.model.predict(rows) if "label" in wanted else None
            return {"probabilities": self.model.predict_proba(rows), "label": label}
        (name,) = wanted
        return {name: self.model.predict(rows)}

    def dump(self) -> bytes:
        """Return the native file's bytes."""
        if self.kind == "lightgbm":
            text: str = self.native.model_to_string()
            return text.encode()
        if self.kind == "xgboost":
            return bytes(self.native.save_raw("ubj"))
        require("Storing a scikit-learn model", "skops", extra="sklearn")
        return skops.write_estimator(self.native)

    @property
    def file_name(self) -> str:
        return f"model{SUFFIXES[self.kind]}"


def recognise(model: Any, sample: Any = None) -> FittedModel:
    """Find out what a fitted object is.

    Args:
        model: A scikit-learn estimator or pipeline, or a LightGBM or XGBoost booster or wrapper.
        sample: The rows it comes with; of a pandas frame, categorical columns are read.

    Raises:
        InvalidSetting: It is none of them, or it is not fitted.
    """
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm":
        return _recognise_lightgbm(model, sample)
    if library == "xgboost":
        return _recognise_xgboost(model, sample)
    if hasattr(model, "predict") and hasattr(model, "get_params"):
        return _recognise_estimator(model)
    raise InvalidSetting(
        f"A {type(model).__module__}.{type(model).__qualname__} is no model that Tidegate knows.",
        hint="Give a fitted scikit-learn estimator or pipeline, a LightGBM or XGBoost model, or the path "
        "of a model file (.onnx, .skops, .txt, .json, .ubj). PyTorch: torch.onnx.export.",
    )


def from_booster(booster: Any, sample: Any = None) -> FittedModel:
    """Describe a booster that was read from its file; `sample` as in `recognise`."""
    is_lightgbm = type(booster).__module__.startswith("lightgbm")
    return _recognise_lightgbm(booster, sample) if is_lightgbm else _recognise_xgboost(booster, sample)


def _recognise_estimator(model: Any) -> FittedModel:
    require("A scikit-learn model", "sklearn", extra="sklearn")
    from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped]  # ships no types
    from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]  # ships no types

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise InvalidSetting(
            f"The {type(model).__name__} is not fitted.", hint="Call fit(X, y) before registering it."
        ) from error
    if isinstance(getattr(model, "classes_", None), list):
        raise skops.several_targets(model)
    names = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    width = getattr(model, "n_features_in_", None)
    return FittedModel(model, "skops", model, names, width, skops.estimator_classes(model))


def _recognise_lightgbm(model: Any, sample: Any) -> FittedModel:
    booster = model.booster_ if hasattr(model, "get_params") and hasattr(model, "booster_") else model
    names = tuple(booster.feature_name())
    if all(name == f"Column_{position}" for position, name in enumerate(names)):
        names = ()
    classes = getattr(model, "classes_", None)
    codes: dict[str, tuple[str, ...]] = {}
    lists = booster.pandas_categorical or []
    if lists:
        named = [name for name in _categorical_columns(sample) if not names or name in names]
        named = named or lightgbm.categorical_features(booster)
        if len(named) != len(lists):
            raise InvalidSetting(
                f"The LightGBM model has {len(lists)} categorical features, and which they are is not known "
                "here.",
                hint="Register it with the pandas frame it was fitted on as the sample: "
                "tg.register(name, model, sample=X).",
            )
        codes = {name: tuple(map(str, values)) for name, values in zip(named, lists, strict=True)}
    return FittedModel(
        model, "lightgbm", booster, names, booster.num_feature(), _plain_classes(classes), codes
    )


def _recognise_xgboost(model: Any, sample: Any) -> FittedModel:
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    notes: list[str] = []
    if xgboost.is_of_wrapper(model):
        booster, best = xgboost.best_of(booster)
        notes += [] if best is None else [f"It answers with its best iteration, {best}, as its wrapper does."]
        if xgboost.objective_of(booster) == "multi:softmax":
            booster = xgboost.with_scores(booster)
            notes.append("It gives the scores of its classes, as its wrapper does, and not the class alone.")
    names = tuple(booster.feature_names or ())
    columns = _categorical_columns(sample)
    known = xgboost.categories_of(booster)  # the model's own count before what a frame has today
    if (booster.feature_types or []).count("c") > len(known) and not columns:
        raise InvalidSetting(
            "The XGBoost model has categorical features, and their values are not known here.",
            hint="Register it with the pandas frame it was fitted on as the sample: "
            "tg.register(name, model, sample=X).",
        )
    codes = {name: tuple(map(str, sample[name].cat.categories)) for name in columns} | known
    classes = _plain_classes(getattr(model, "classes_", None))
    missing = xgboost.missing_of(model)
    return FittedModel(
        model, "xgboost", booster, names, booster.num_features(), classes, codes, missing, tuple(notes)
    )


def _plain_classes(classes: Any) -> tuple[Any, ...]:
    return () if classes is None else tuple(classes.tolist() if hasattr(classes, "tolist") else classes)


def _categorical_columns(sample: Any) -> list[str]:
    if sample is None or not hasattr(sample, "dtypes") or not hasattr(sample, "columns"):
        return []
    return [str(name) for name in sample.columns if str(getattr(sample[name], "dtype", "")) == "category"]
