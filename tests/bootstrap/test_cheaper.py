"""A simpler model as a fallback, a model on another server, a cache: declared, and in the manifest."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import tidegate as tg
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.train import publish_service
from tidegate.contract.batch import Batch
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, build
from tidegate.predictor.remote import read_options
from tidegate.service.manifest import Manifest


class Row(tg.Input):
    a: float
    b: float


class Answer(tg.Output):
    y: float


ROWS = pl.DataFrame({"a": np.linspace(0, 1, 40), "b": np.linspace(1, 0, 40) ** 2})


def fitted(target):
    return LinearRegression().fit(ROWS.to_numpy(), target)


@pytest.fixture
def local(tmp_path):
    with Local(Settings(home=tmp_path / "home")) as opened:
        yield opened


def manifest_of(local, published):
    return Manifest.from_json(local.artifacts.read_bytes(published.version.manifest))


def trained_by(service, **more):
    @service.trainer
    def train(data, params):
        target = (ROWS["a"] + 2 * ROWS["b"]).to_numpy()
        return tg.Trained(**{"model": fitted(target), "sample": ROWS, **more})

    return service


def test_a_simpler_model_answers_in_a_workers_own_loop(local, tmp_path):
    service = tg.Service("sum", input=Row, output=Answer, fallback=tg.Cheaper(model="half"))
    trained_by(service, models={"half": fitted((ROWS["a"] + 2 * ROWS["b"]).to_numpy() / 2)})

    manifest = manifest_of(local, publish_service(local, service, tmp_path))

    (fallback,) = manifest.fallback
    assert (fallback.name, fallback.spec.kind) == ("model:half", "onnx")
    assert fallback.spec.artifact in manifest.artifacts
    predictor = build(fallback.spec, BuildContext(manifest.contract, local.artifacts.open), BUILDERS)
    found = predictor.predict(Batch({"a": np.array([1.0]), "b": np.array([1.0])}, 1))
    assert found["y"].tolist() == pytest.approx([1.5], abs=1e-4)


def test_says_which_model_the_trainer_did_not_return(local, tmp_path):
    service = trained_by(tg.Service("sum", input=Row, output=Answer, fallback=tg.Cheaper(model="half")))

    with pytest.raises(InvalidSetting, match="'half', which the trainer did not return"):
        publish_service(local, service, tmp_path)


def test_a_cache_and_side_effects_are_in_the_manifest(local, tmp_path):
    service = tg.Service("sum", input=Row, output=Answer, cache=tg.Cache(ttl="2m", max_mb=1.5))

    manifest = manifest_of(local, publish_service(local, trained_by(service), tmp_path))

    assert manifest.cache is not None
    assert (manifest.cache.ttl_s, manifest.cache.max_bytes) == (120.0, 3 << 19)
    assert manifest.side_effects is False
    with pytest.raises(InvalidSetting, match="side effects and declares a cache"):
        tg.Service("sum", input=Row, output=Answer, cache=tg.Cache(60), side_effects=True)


def test_a_model_on_another_server_is_only_what_is_declared_of_it(local, tmp_path):
    remote = tg.Remote("http://127.0.0.1:9", model="m", timeout="3s", hedge=True)
    service = trained_by(tg.Service("sum", input=Row, output=Answer), model=remote, sample=None)

    manifest = manifest_of(local, publish_service(local, service, tmp_path))

    assert manifest.predictor.kind == "remote"
    assert read_options(manifest.predictor) == remote
    with pytest.raises(InvalidSetting, match="not the address"):
        tg.Remote("127.0.0.1:9", model="m")
