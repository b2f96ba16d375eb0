"""A training leaves a record of what it was given and gave."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import polars as pl
import pytest

import tidegate as tg
from tidegate.core.clock import SystemClock
from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.core.principal import Principal
from tidegate.operation.reproduce import reproduce
from tidegate.operation.run import ListedRun
from tidegate.operation.train import train
from tidegate.registry.lineage import source_digest
from tidegate.training.run import Run
from tidegate.training.source import read_source


class Row(tg.Input):
    x: float


class Answer(tg.Output):
    y: float


def declared(trainer):
    service = tg.Service("toy", input=Row, output=Answer)
    service.trainer(trainer)
    return service


def trained(trainer, folder, **options):
    return train(declared(trainer), folder, principal=Principal("ana"), clock=SystemClock(), **options)


def nothing(data, params):
    return tg.Trained(model=None, sample=None)


def test_a_data_file_is_read_for_the_trainer_and_named_by_its_bytes(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x\n1\n2\n3\n")
    seen = []

    run = trained(lambda data, params: seen.append(data) or nothing(data, params), tmp_path, data=path).run

    assert seen[0].equals(pl.DataFrame({"x": [1, 2, 3]}))
    assert run.data.digest == digest_bytes(path.read_bytes())
    assert run.data.n_rows == 3


def test_the_rows_that_the_trainer_used_count(tmp_path):
    run = trained(
        lambda data, params: tg.Trained(model=None, sample=None, metrics={"n_rows": 7}), tmp_path
    ).run

    assert run.data.n_rows == 7
    assert run.rows_per_s == pytest.approx(7 / run.fit_s)


def test_code_changed_while_the_trainer_runs_is_not_what_ran(tmp_path):
    (tmp_path / "service.py").write_text("before")
    before = read_source(tmp_path)

    def meddle(data, params):
        (tmp_path / "service.py").write_text("after")
        return nothing(data, params)

    assert trained(meddle, tmp_path).run.source == before


def test_a_trainer_that_draws_without_a_seed_draws_the_same_again(tmp_path):
    drawn = []

    def draw(data, params):
        drawn.append((random.random(), np.random.random()))
        return nothing(data, params)

    for seed in (0, 0, 1):
        trained(draw, tmp_path, seed=seed)

    assert drawn[0] == drawn[1] != drawn[2]


def test_the_generators_go_on_afterwards_as_if_nothing_had_been(tmp_path):
    random.seed(5)
    expected = random.random()
    random.seed(5)

    trained(nothing, tmp_path)

    assert random.random() == expected


def test_a_record_reads_back_as_it_was_and_keeps_its_name(tmp_path):
    def measure(data, params):
        metrics = {"auc": np.float64(0.1 + 0.2), "none": float("nan")}
        return tg.Trained(model=None, sample=None, metrics=metrics, parameters={"n": np.int64(3)})

    run = trained(measure, tmp_path, params={"n": np.int64(3)}).run

    again = Run.from_json(run.to_json())
    assert again == run
    assert again.digest == run.digest
    assert again.metrics == {"auc": 0.1 + 0.2, "none": None}
    assert again.used == {"n": 3}
    assert msgspec.structs.replace(run, seed=1).digest != run.digest


def test_the_source_has_the_digest_that_the_lineage_gives_it(tmp_path):
    (tmp_path / "service.py").write_text("a")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "model.py").write_text("b")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.py").write_text("c")

    source = read_source(tmp_path)

    assert [file.path for file in source.files] == ["more/model.py", "service.py"]
    assert source.digest == source_digest(tmp_path)


def test_a_trial_is_set_beside_baselines_with_the_fallback_s_keys(tmp_path):
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"x": rng.integers(0, 5, 400).astype(float), "y": rng.normal(size=400)})
    trial = tg.Trial(train=rows[:300], test=rows[300:], target="y", predicted=rows[300:]["y"].to_numpy())
    service = tg.Service("toy", input=Row, output=Answer, fallback=tg.Lookup(by=["x"], table="means"))
    service.trainer(lambda data, params: tg.Trained(model=None, sample=None, trial=trial))

    run = train(service, tmp_path, principal=Principal("ana"), clock=SystemClock()).run

    assert [(each.name, each.by) for each in run.comparison.baselines] == [
        ("constant", ()),
        ("lookup", ("x",)),
        ("linear", ()),
    ]
    assert run.comparison.beats_all
    assert Run.from_json(run.to_json()) == run


def test_a_metric_that_is_no_number_is_named(tmp_path):
    curve = tg.Trained(model=None, sample=None, metrics={"auc": 0.7, "curve": [1, 2]})

    with pytest.raises(InvalidSetting, match="'curve' is no number"):
        trained(lambda data, params: curve, tmp_path)


def test_an_undefined_number_of_rows_is_not_known(tmp_path):
    uncounted = tg.Trained(model=None, sample=None, metrics={"n_rows": float("nan")})

    assert trained(lambda data, params: uncounted, tmp_path).run.data.n_rows is None


def test_rows_from_memory_cannot_be_found_again(tmp_path):
    service = declared(nothing)
    run = train(
        service, tmp_path, principal=Principal("ana"), clock=SystemClock(), data=pl.DataFrame({"x": [1.0]})
    ).run

    with pytest.raises(InvalidSetting, match="in memory"):
        reproduce(
            ListedRun(run.digest, 1, run),
            service,
            tmp_path,
            artifacts=None,
            examine=None,
            principal=Principal("ana"),
            clock=SystemClock(),
        )
