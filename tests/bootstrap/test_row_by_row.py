"""A model whose rows influence each other is registered so that callers do not."""

import numpy as np
import polars as pl
import pytest

import tidegate as tg
from tests.system.model import write_function
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import publish
from tidegate.bootstrap.setting import Settings
from tidegate.contract.batch import Batch
from tidegate.contract.declare import contract_of
from tidegate.predictor.protocol import BuildContext, build
from tidegate.service.manifest import Manifest


class Row(tg.Input):
    a: float


class Score(tg.Output):
    score: float


SAMPLE = pl.DataFrame({"a": [1.0, 2.0, 4.0]})
CONTRACT = contract_of(Row, Score)


@pytest.mark.parametrize(
    ("body", "row_by_row"),
    [
        ("return {'score': columns['a'] - columns['a'].mean()}", True),
        ("return {'score': columns['a'] * 2}", False),
        ("return {'score': np.random.default_rng().random(len(columns['a']))}", False),
    ],
)
def test_a_function_is_asked_row_by_row_where_its_sample_shows_that_it_has_to_be(tmp_path, body, row_by_row):
    model = write_function(tmp_path / "m.py", body)
    with Local(Settings(home=str(tmp_path / "home"))) as local:
        published = publish(local, "f", model, sample=SAMPLE, contract=CONTRACT)
        manifest = Manifest.from_json(local.artifacts.read_bytes(published.version.manifest))
        predictor = build(manifest.predictor, BuildContext(CONTRACT, local.artifacts.open), BUILDERS)
        answer = predictor.predict(Batch.of({"a": np.array([1.0, 3.0])}))["score"].tolist()

    assert manifest.predictor.row_by_row is row_by_row
    assert any("influence each other" in note for note in published.notes) is row_by_row
    if row_by_row:
        assert answer == [0.0, 0.0]
        assert [row["score"] for row in manifest.check_inputs.outputs] == [0.0] * 3
