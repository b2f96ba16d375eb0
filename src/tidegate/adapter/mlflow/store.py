"""A store of MLflow's, through MLflow's own client."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tidegate.core.error import InvalidSetting, MissingExtra, NotFound, TidegateError

_MAX_PARAM = 500
"""Characters of a parameter's value that every store of MLflow takes."""

_QUIET = {
    # The project's own telemetry would leave this machine, and a progress bar is no use in a log.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_FLAVORS = ("onnx", "lightgbm", "xgboost", "sklearn")
_ENDINGS = {
    ("lightgbm", ".lgb"): ".txt",
    ("lightgbm", ".txt"): ".txt",
    ("xgboost", ".xgb"): ".ubj",
    ("xgboost", ".ubj"): ".ubj",
    ("xgboost", ".json"): ".json",
}


class MlflowUnavailable(TidegateError):
    """MLflow's store cannot be reached, or refuses."""

    code = "mlflow_unavailable"


class FoundModel(msgspec.Struct, frozen=True):
    """A model in MLflow's store.

    Attributes:
        name: In words: the registered model and version, or the run.
        uri: Where its folder is, as MLflow writes it.
        run_id: The run that logged it; None where it is not known.
        parameters: Of that run.
        metrics: Of that run, the last value of each.
    """

    name: str
    uri: str
    run_id: str | None = None
    parameters: dict[str, str] = {}
    metrics: dict[str, float] = {}


class LoggedRun(msgspec.Struct, frozen=True):
    """A run that was written to MLflow's store.

    Attributes:
        run_id: MLflow's id of it.
        experiment: Name of the experiment.
        existed: It had been written before; nothing was changed.
    """

    run_id: str
    experiment: str
    existed: bool = False


class MlflowStore:
    """One tracking store, which is its registry too."""

    def __init__(self, uri: str) -> None:
        """Connect.

        Args:
            uri: As MLflow takes it: `sqlite:///mlflow.db`, `http://HOST:PORT`, `databricks`.

        Raises:
            MissingExtra: MLflow is not installed.
            MlflowUnavailable: There is no such store.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtra("Reading and writing MLflow", extra="mlflow", package="mlflow")
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._uri = uri
        with _told(uri):
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def find_model(self, source: str) -> FoundModel:
        """Return the model that `source` names.

        Args:
            source: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/RUN_ID/PATH`, or a run's id, whose
                only model it then is.

        Raises:
            NotFound: There is no such model, version or run.
            InvalidSetting: A run logged several models.
            MlflowUnavailable: The store cannot be reached.
        """
        with _told(self._uri):
            if source.startswith("models:/"):
                return self._registered(source.removeprefix("models:/"))
            run_id, _, path = source.removeprefix("runs:/").partition("/")
            run = self._client.get_run(run_id)
            return self._described(f"run {run_id}", self._logged(run_id, path), run)

    def _registered(self, name: str) -> FoundModel:
        model, at, alias = name.rpartition("@")
        if at:
            found = self._client.get_model_version_by_alias(model, alias)
        else:
            model, _, version = name.rpartition("/")
            if not model:
                raise InvalidSetting(
                    f"'models:/{name}' names no version.",
                    hint="Write models:/NAME/VERSION or models:/NAME@ALIAS.",
                )
            found = self._client.get_model_version(model, version)
        uri = self._client.get_model_version_download_uri(model, found.version)
        run = self._client.get_run(found.run_id) if found.run_id else None
        return self._described(f"{model} version {found.version}", uri, run)

    def _logged(self, run_id: str, path: str) -> str:
        if path:
            return f"runs:/{run_id}/{path}"
        folders = [each.path for each in self._client.list_artifacts(run_id) if each.is_dir]
        models = [
            folder
            for folder in folders
            if any(each.path == f"{folder}/MLmodel" for each in self._client.list_artifacts(run_id, folder))
        ]
        if not models:
            raise NotFound(f"The run {run_id} logged no model.", hint="Name its path: runs:/RUN_ID/PATH.")
        if len(models) > 1:
            raise InvalidSetting(
                f"The run {run_id} logged several models: {', '.join(models)}.",
                hint="Name one: runs:/RUN_ID/PATH.",
            )
        return f"runs:/{run_id}/{models[0]}"

    def _described(self, name: str, uri: str, run: Any) -> FoundModel:
        if run is None:
            return FoundModel(name, uri)
        return FoundModel(name, uri, run.info.run_id, dict(run.data.params), dict(run.data.metrics))

    def fetch(self, model: FoundModel, folder: Path) -> Path:
        """Copy a model's folder, and return the path of a model file that Tidegate takes.

        Raises:
            InvalidSetting: It is of no kind that can be taken; a pickle is never opened.
            MlflowUnavailable: The store cannot be reached.
        """
        from mlflow.artifacts import download_artifacts

        with _told(self._uri):
            # Of a version that names a run, MLflow asks the store of its own settings otherwise.
            place = download_artifacts(artifact_uri=model.uri, dst_path=str(folder), tracking_uri=self._uri)
        return model_file(Path(place))

    def log_run(
        self,
        *,
        experiment: str,
        name: str,
        digest: str,
        started_at_us: int,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str],
        files: Mapping[str, Path],
    ) -> LoggedRun:
        """Write a run; one that is there already, by its digest, is left as it is.

        Args:
            experiment: Made if it is not there.
            name: Of the run, for people.
            digest: Tidegate's name of it.
            started_at_us: When it began, microseconds UTC.
            parameters: Cut at what every store takes.
            metrics: Undefined ones are left out.
            tags: Further tags.
            files: Path among the artifacts -> file; a path's folders are kept.

        Raises:
            MlflowUnavailable: The store cannot be reached, or refuses.
        """
        from mlflow.entities import Metric, Param, RunTag

        with _told(self._uri):
            place = self._client.get_experiment_by_name(experiment)
            number = self._client.create_experiment(experiment) if place is None else place.experiment_id
            before = self._client.search_runs([number], f"tags.`tidegate.run` = '{digest}'", max_results=1)
            if before:
                return LoggedRun(before[0].info.run_id, experiment, existed=True)
            at_ms = started_at_us // 1000
            run = self._client.create_run(number, start_time=at_ms, run_name=name)
            run_id: str = run.info.run_id
            self._client.log_batch(
                run_id,
                metrics=[Metric(key, value, at_ms, 0) for key, value in metrics.items() if value is not None],
                params=[Param(key, str(value)[:_MAX_PARAM]) for key, value in parameters.items()],
            )
            for path, file in files.items():
                folder = Path(path).parent.as_posix()
                self._client.log_artifact(run_id, str(file), None if folder == "." else folder)
            # The digest last: a run that is written half is not found, and is written again.
            self._client.log_batch(
                run_id, tags=[RunTag(key, value) for key, value in {**tags, "tidegate.run": digest}.items()]
            )
            self._client.set_terminated(run_id, "FINISHED")
        return LoggedRun(run_id, experiment)


def model_file(folder: Path) -> Path:
    """Return the path of a model file that Tidegate takes, in a folder that MLflow wrote.

    Raises:
        InvalidSetting: It holds none, or a pickle.
    """
    flavors = _flavors(folder)
    for flavor in _FLAVORS:
        told = flavors.get(flavor)
        if told is None:
            continue
        name = told.get("data") or told.get("pickled_model") or ""
        path = folder / name
        if path.suffix in (".pkl", ".pickle", ".joblib") or told.get("serialization_format") in (
            "pickle",
            "cloudpickle",
        ):
            raise InvalidSetting(
                f"The {flavor} model was logged as a pickle, which runs code when it is opened.",
                hint="Log it anew with serialization_format='skops', or as ONNX; or register it from a "
                "notebook with tg.register(name, model, sample=X).",
            )
        if flavor == "onnx":
            return path if path.is_file() else path / "model.onnx"
        ending = _ENDINGS.get((flavor, path.suffix), path.suffix)
        if ending == path.suffix:
            return path
        renamed = path.with_suffix(ending)
        path.rename(renamed)
        return renamed
    raise InvalidSetting(
        f"The model is of the kinds {', '.join(flavors) or 'none'}; Tidegate takes {', '.join(_FLAVORS)}.",
        hint="Log it as ONNX.",
    )


def _flavors(folder: Path) -> dict[str, dict[str, Any]]:
    import yaml  # type: ignore[import-untyped]  # ships no types; MLflow brings it

    path = folder / "MLmodel"
    if not path.is_file():
        raise InvalidSetting(f"{folder.name} is no folder of a model: it has no MLmodel file.")
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InvalidSetting(f"The MLmodel file of {folder.name} cannot be read: {error}") from error
    flavors = told.get("flavors") if isinstance(told, dict) else None
    return {name: value for name, value in (flavors or {}).items() if isinstance(value, dict)}


def describe_onnx(path: Path, *, run: str, at: str) -> str:
    """Return the text of the `MLmodel` file of a graph, so that MLflow knows what it is.

    Args:
        path: The graph, named as it stands beside the file.
        run: Tidegate's name of the run.
        at: When, in words.
    """
    lines = [
        "flavors:",
        "  onnx:",
        f"    data: {path.name}",
        "    providers: [CPUExecutionProvider]",
        "  python_function:",
        f"    data: {path.name}",
        "    loader_module: mlflow.onnx",
        f"utc_time_created: '{at}'",
        "metadata:",
        f"  tidegate_run: '{run}'",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Tell MLflow's failures in words.

    Raises:
        NotFound: There is no such thing.
        MlflowUnavailable: Anything else.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().partition("\n")[0][:300]
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise NotFound(f"MLflow's store {uri} says: {reason}", uri=uri) from error
        raise MlflowUnavailable(f"MLflow's store {uri} says: {reason}", uri=uri) from error
    except OSError as error:
        raise MlflowUnavailable(f"MLflow's store {uri} cannot be reached: {error}", uri=uri) from error
