"""scikit-learn estimators, stored with skops: no pickle, and every type in the file agreed to."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.adapter.runtime.native import (
    NativePredictor,
    Run,
    classifier_outputs,
    read_options,
    require,
)
from tidegate.contract.schema import DataType
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.predictor.binding import Tensor
from tidegate.predictor.protocol import BuildContext, LoadError, Spec

_SCHEMA = "schema.json"


class UntrustedTypes(TidegateError):
    """A skops file holds types that nobody has agreed to."""

    code = "untrusted_types"


def load_estimator(path: Path, *, trusted: Sequence[str] = ()) -> Any:
    """Read a fitted estimator.

    Args:
        path: The `.skops` file.
        trusted: Types beyond skops' own safe ones that it may hold.

    Raises:
        UntrustedTypes: It holds others; lists them.
        LoadError: It is damaged, or cannot be rebuilt with the packages installed here.
        MissingExtra: skops or scikit-learn is not installed.
    """
    unknown = [name for name in untrusted_types(path) if name not in set(trusted)]
    if unknown:
        raise UntrustedTypes(
            f"{path.name} holds types that are not known to be safe: {', '.join(unknown)}.",
            hint="Loading runs their code. If you know where the file comes from, register it with "
            f"{' '.join(f'--trust {name}' for name in unknown)} (in Python: trusted={unknown!r}); else ask "
            "its author for an ONNX model.",
            path=str(path),
            types=unknown,
        )
    import skops.io as sio  # type: ignore[import-untyped]  # ships no types

    try:
        return sio.load(path, trusted=list(trusted))
    except Exception as error:
        raise LoadError(
            f"{path.name} cannot be rebuilt here: {type(error).__name__}: {error}",
            hint="It needs the packages and versions that it was fitted with.",
            path=str(path),
        ) from error


def write_estimator(model: Any) -> bytes:
    """Return a fitted estimator as a skops file: the same model gives the same bytes.

    skops numbers objects by their address in memory and dates its files; both change from run to run.
    """
    import skops.io as sio

    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sio.dumps(model))) as given, zipfile.ZipFile(written, "w") as stable:
        numbers: dict[object, int] = {}
        names: dict[str, str] = {}

        def renumbered(node: Any) -> Any:
            if isinstance(node, list):
                return [renumbered(each) for each in node]
            if not isinstance(node, dict):
                return node
            found = {name: renumbered(each) for name, each in node.items()}
            if isinstance(node.get("__id__"), int):
                found["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(node.get("file"), str) and node["file"] in given.namelist():
                file = node["file"]
                found["file"] = names.setdefault(file, f"{len(names)}{Path(file).suffix}")
            return found

        schema = renumbered(json.loads(given.read(_SCHEMA)))
        for file, name in names.items():
            stable.writestr(zipfile.ZipInfo(name), given.read(file))
        stable.writestr(zipfile.ZipInfo(_SCHEMA), json.dumps(schema))
    return written.getvalue()


def untrusted_types(path: Path) -> list[str]:
    """Return the types in a skops file that skops does not know to be safe.

    Raises:
        LoadError: It is not a skops file.
        MissingExtra: skops or scikit-learn is not installed.
    """
    for package, shown in (("sklearn", "scikit-learn"), ("skops", "skops")):
        require(f"A skops model (package {shown})", package, extra="sklearn")
    import skops.io as sio

    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a zip archive")
        names: list[str] = sio.get_untrusted_types(file=path)
    except Exception as error:
        raise LoadError(
            f"{path.name} is not a skops file, or it is damaged: {error}",
            hint="Write it with skops.io.dump(model, 'model.skops').",
            path=str(path),
        ) from error
    return names


def estimator_classes(estimator: Any) -> tuple[Any, ...]:
    """Return a classifier's classes as plain values, in the order of its scores."""
    classes = getattr(estimator, "classes_", None)
    return () if classes is None else tuple(np.asarray(classes).tolist())


def estimator_outputs(estimator: Any, example: Any) -> tuple[Tensor, ...]:
    """Describe what an estimator gives, from its answer to a few rows.

    Args:
        estimator: The fitted estimator.
        example: A few rows as it takes them.

    Raises:
        InvalidSetting: It is a classifier of several targets.
    """
    classes = estimator_classes(estimator)
    if classes:
        if _is_of_several_targets(estimator, example):
            raise several_targets(estimator)
        return classifier_outputs(classes, has_scores=hasattr(estimator, "predict_proba"))
    answer = np.asarray(estimator.predict(example))
    if answer.dtype.kind in "iu":  # a cluster, or inlier and outlier
        return (Tensor("label", DataType.INT64, answer.shape[1:]),)
    return (Tensor("variable", DataType.FLOAT64, answer.shape[1:]),)


def several_targets(estimator: Any) -> InvalidSetting:
    """Return the refusal of a classifier that gives several labels a row."""
    return InvalidSetting(
        f"The {type(estimator).__name__} has several targets, which no contract can name yet.",
        hint="Fit one classifier a target and register each as a service.",
    )


def _is_of_several_targets(estimator: Any, example: Any) -> bool:
    """Tell whether it gives several labels a row: some that do list one set of classes all the same."""
    try:
        answer = run_of(estimator, {"label"})(example)["label"]
    except Exception:  # noqa: BLE001 - a step raises what it likes; what it says of rows is told later
        return False
    return answer.ndim != 1 and answer.shape[1:] != (1,)


def run_of(estimator: Any, wanted: Collection[str], *, n_threads: int = 1) -> Run:
    """Return a function that calls an estimator.

    Args:
        estimator: The fitted estimator.
        wanted: Which of `label`, `probabilities` and `variable` are needed; others are not computed.
        n_threads: Threads of the numeric libraries. With more than there are free cores they wait for
            each other by spinning, and a call of a millisecond takes a hundred.
    """
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # ships no types

    threads = ThreadpoolController()

    def run(table: Any) -> dict[str, Any]:
        answers = {}
        with threads.limit(limits=n_threads), warnings.catch_warnings():
            # An estimator fitted on a data frame says so at each matrix; the binding has the order.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            if "probabilities" in wanted:
                answers["probabilities"] = np.asarray(estimator.predict_proba(table))
            for name in ("label", "variable"):
                if name in wanted:
                    answers[name] = np.asarray(estimator.predict(table))
        return answers

    return run


def build_skops(spec: Spec, context: BuildContext) -> NativePredictor:
    """Build the predictor of a spec of kind `skops`; see `NativeOptions`.

    Raises:
        UntrustedTypes: The file holds types that nobody has agreed to.
        LoadError: The file cannot be read.
        InvalidSetting: Options and contract do not fit.
        MissingExtra: skops or scikit-learn is not installed.
    """
    options = read_options(spec)
    assert spec.artifact is not None
    estimator = load_estimator(context.open_artifact(spec.artifact), trusted=options.trusted)
    jobs = [name for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"]
    if jobs:
        estimator.set_params(**dict.fromkeys(jobs, context.n_threads))
    run = run_of(estimator, options.tensors, n_threads=context.n_threads)
    return NativePredictor(context.contract, options, run, engine="scikit-learn")
