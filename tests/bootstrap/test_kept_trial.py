"""Rows of a trial are kept with the run; those with sensitive fields only where the service allows it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import tidegate as tg
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.train import publish_service
from tidegate.operation.run import find_run


class Secretive(tg.Input):
    x: float = tg.field(sensitive=True)


class Answer(tg.Output):
    p: float = tg.field(ge=0, le=1)


@pytest.mark.parametrize(("gates", "is_kept"), [(None, False), (tg.Gates(keep_sensitive=True), True)])
def test_sensitive_rows_are_kept_only_where_allowed(tmp_path, gates, is_kept):
    x = np.random.default_rng(0).normal(size=200)
    rows = pl.DataFrame({"x": x, "late": (x > 0).astype(int)})
    declared = tg.Service("paint", input=Secretive, output=Answer, gates=gates)

    @declared.trainer
    def train(data, params):
        model = LogisticRegression().fit(rows.select("x").to_numpy(), rows["late"].to_numpy())
        model.feature_names_in_ = np.array(["x"], dtype=object)
        trial = tg.Trial(train=rows[:100], test=rows[100:], target="late", predicted=np.full(100, 0.5))
        return tg.Trained(model=model, sample=rows.select("x"), trial=trial)

    with Local(Settings(home=str(tmp_path / "home"))) as local:
        version = publish_service(local, declared, tmp_path).version
        run = find_run(local.unit, local.artifacts, version.label).run

    assert ("held_out" in run.artifacts) is is_kept
