"""A model and a declaration become a version that has everything a worker needs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import tidegate as tg
from tests.adapter.runtime.graph import FLOAT, save, unary
from tests.system.model import write_function
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import N_CHECK_ROWS, publish
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.train import publish_service
from tidegate.contract.batch import Batch
from tidegate.contract.declare import contract_of
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.operation.version import list_decisions, list_services
from tidegate.predictor.protocol import BuildContext, build
from tidegate.service.manifest import Manifest


class Row(tg.Input):
    x: float = tg.field(ge=-10, le=10)
    colour: str = tg.category("red", "green")


class Secretive(tg.Input):
    x: float
    name: str = tg.field(sensitive=True)


class Plain(tg.Input):
    x: float


class Answer(tg.Output):
    p: float = tg.field(ge=0, le=1)


ROWS = pl.DataFrame(
    {
        "x": np.linspace(-3, 3, 50),
        "colour": ["red", "green"] * 25,
        "name": [f"person {number}" for number in range(50)],
    }
)
RATES = pl.DataFrame({"colour": ["red", "green"], "p": [0.25, 0.75]})


def service(*, fallback=(), row=Row, tables=None):
    declared = tg.Service("paint", input=row, output=Answer, fallback=fallback)

    @declared.trainer
    def train(data, params):
        model = LogisticRegression(**params).fit(ROWS.select("x").to_numpy(), ROWS["x"].to_numpy() > 0)
        model.feature_names_in_ = np.array(["x"], dtype=object)
        return tg.Trained(
            model=model,
            sample=ROWS.select(declared.contract.input.names),
            metrics={"accuracy": 1.0},
            parameters=params,
            tables=tables or {},
            data_digest="sha256:" + "a" * 64,
            notes="trained",
        )

    return declared


@pytest.fixture
def local(tmp_path):
    with Local(Settings(home=str(tmp_path / "home"))) as opened:
        yield opened


def published(local, declared, tmp_path, **options):
    version = publish_service(local, declared, tmp_path, **options).version
    return version, Manifest.from_json(local.artifacts.read_bytes(version.manifest))


def test_a_version_has_its_lineage(local, tmp_path):
    (tmp_path / "service.py").write_text("")

    version, _ = published(local, service(), tmp_path, params={"C": 0.5})

    assert version.label == "paint@1"
    assert version.changelog == "trained"
    assert version.lineage.parameters == {"C": 0.5}
    assert version.lineage.metrics == {"accuracy": 1.0}
    assert version.lineage.data_digest == "sha256:" + "a" * 64
    assert version.lineage.code_digest is not None
    assert "scikit-learn" in version.lineage.environment.packages


def test_check_inputs_are_rows_of_the_sample_with_the_model_s_answers(local, tmp_path):
    _, manifest = published(local, service(), tmp_path)

    checks = manifest.check_inputs
    assert len(checks.rows) == len(checks.outputs) == N_CHECK_ROWS
    assert checks.rows[0] == {"x": -3.0, "colour": "red"}
    predictor = build(manifest.predictor, BuildContext(manifest.contract, local.artifacts.open), BUILDERS)
    again = predictor.predict(Batch.of({"x": ROWS["x"].to_numpy()[:N_CHECK_ROWS]}))
    assert [row["p"] for row in checks.outputs] == pytest.approx(again["p"].tolist(), abs=1e-9)


def test_rows_with_sensitive_fields_are_never_stored(local, tmp_path):
    outcome = publish_service(local, service(row=Secretive), tmp_path)

    manifest = local.artifacts.read_bytes(outcome.version.manifest)
    assert b"person" not in manifest
    assert Manifest.from_json(manifest).check_inputs is None
    assert any("sensitive" in note for note in outcome.notes)


def test_parity_is_kept_as_a_decision_with_its_evidence(local, tmp_path):
    version, manifest = published(local, service(), tmp_path)

    (stored,) = list_decisions(local.unit, "paint", kind="parity")
    assert manifest.predictor.kind == "onnx"
    assert stored.decision.version == version.number
    assert stored.decision.evidence[0].observed["n_rows"] == 50


def test_the_same_key_registers_once(local, tmp_path):
    first, _ = published(local, service(), tmp_path, key="once")
    second, _ = published(local, service(), tmp_path, key="once")

    assert first == second
    assert len(list_decisions(local.unit, "paint", kind="parity")) == 1


def test_a_key_that_was_used_for_another_model_is_refused(local):
    x = np.linspace(-3, 3, 50).reshape(-1, 1)
    model, other = (LogisticRegression().fit(x, x[:, 0] > middle) for middle in (0, 1))
    first = publish(local, "paint", model, sample=x, key="nightly")

    again = publish(local, "paint", model, sample=x, key="nightly")
    with pytest.raises(
        Conflict, match=r"'nightly' was used before, for paint@1 with another model\."
    ) as caught:
        publish(local, "paint", other, sample=x, key="nightly")

    assert again.version == first.version
    assert "exactly what it was first asked with" in caught.value.hint


def test_a_key_that_was_used_for_another_contract_is_refused(local, tmp_path):
    published(local, service(), tmp_path, key="nightly")

    with pytest.raises(Conflict, match="with another contract"):
        published(local, service(row=Secretive), tmp_path, key="nightly")


def test_the_same_model_is_the_same_artifact(local, tmp_path):
    first, _ = published(local, service(), tmp_path)
    second, _ = published(local, service(), tmp_path)

    assert (first.number, second.number) == (1, 2)
    assert first.manifest == second.manifest


def test_a_lookup_answers_from_the_trainer_s_table_and_its_mean_for_the_rest(local, tmp_path):
    declared = service(fallback=tg.Lookup(by=["colour"], table="rates"), tables={"rates": RATES[:1]})

    _, manifest = published(local, declared, tmp_path)

    (fallback,) = manifest.fallback
    assert fallback.name == "lookup:rates"
    predictor = build(fallback.spec, BuildContext(manifest.contract, local.artifacts.open), BUILDERS)
    asked = Batch.of({"x": np.zeros(2), "colour": np.array(["red", "green"], dtype=object)})
    assert predictor.predict(asked)["p"].tolist() == [0.25, 0.25]
    assert fallback.spec.artifact in manifest.artifacts


def test_rule_and_constant_fallbacks_are_built_in_order(local, tmp_path):
    declared = service(fallback=[tg.Rule({"p": "0.9 if colour == 'red' else 0.1"}), tg.Constant({"p": 0.5})])

    _, manifest = published(local, declared, tmp_path)

    assert [fallback.name for fallback in manifest.fallback] == ["rule", "constant"]


@pytest.mark.parametrize(
    ("fallback", "tables", "words"),
    [
        (tg.Lookup(by=["colour"], table="rates"), {}, "which the trainer did not return"),
        (tg.Lookup(by=["colour"], table="rates"), {"rates": RATES.drop("p")}, "lacks the columns p"),
        (tg.Rule({"p": "import os"}), {}, "not an expression"),
        (tg.Constant({"p": 7.0}), {}, "range"),
    ],
)
def test_a_fallback_that_cannot_answer_is_refused_before_anything_is_registered(
    local, tmp_path, fallback, tables, words
):
    with pytest.raises(InvalidSetting, match=words):
        publish_service(local, service(fallback=fallback, tables=tables), tmp_path)

    with local.unit.read() as transaction:
        assert transaction.versions.latest("paint") is None


def test_a_graph_whose_contract_is_impossible_is_refused_before_anything_is_stored(local, tmp_path):
    path = save(unary("Identity", FLOAT, ("N", 0)), tmp_path / "m.onnx")

    with pytest.raises(InvalidSetting, match=r"has the shape \[0\]"):
        publish(local, "empty", path)

    with local.unit.read() as transaction:
        assert transaction.versions.latest("empty") is None


def test_a_model_that_breaks_its_own_contract_is_refused(local, tmp_path):
    class Narrow(tg.Output):
        p: float = tg.field(ge=0, le=0.5)

    declared = tg.Service("paint", input=Row, output=Narrow)
    inner = service()

    @declared.trainer
    def train(data, params):
        return inner.train(data, params)

    with pytest.raises(InvalidSetting):
        publish_service(local, declared, tmp_path)


def test_a_sample_that_is_no_input_of_the_model_is_refused(local, tmp_path):
    model = write_function(tmp_path / "m.py", "return {'p': columns['x'] * 0}")

    with pytest.raises(InvalidSetting, match=r"lacks inputs of the model: x\. It has other\."):
        publish(
            local,
            "f",
            model,
            sample=pl.DataFrame({"other": [1.0]}),
            contract=contract_of(Plain, Answer),
        )
    assert list_services(local.unit) == []


@pytest.mark.parametrize("contract", [None, "columns"])
def test_rows_of_an_array_are_the_contracts_fields_in_order(local, tmp_path, contract) -> None:
    path = save(unary("Neg", FLOAT, ("N", 3)), tmp_path / "m.onnx")
    rows = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    if contract is not None:
        names = ("a", "b", "c")
        contract = Contract(
            Schema(tuple(Field(name, DataType.FLOAT32) for name in names)),
            Schema((Field("y", DataType.FLOAT32, (3,)),)),
        )

    version = publish(local, "arrays", path, sample=rows, contract=contract).version

    checks = Manifest.from_json(local.artifacts.read_bytes(version.manifest)).check_inputs
    assert checks is not None
    first = {"x": [0.0, 1.0, 2.0]} if contract is None else {"a": 0.0, "b": 1.0, "c": 2.0}
    assert checks.rows[0] == first
    assert checks.outputs[1] == {"y": [-3.0, -4.0, -5.0]}
