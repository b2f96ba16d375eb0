"""Python functions as predictors: loading, calling, and what goes wrong."""

import sys

import numpy as np
import pytest

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.function import build_function
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec
from tidegate.serving.frame import pack, unpack

CONTRACT = Contract(
    Schema((Field("x", DataType.FLOAT64), Field("secret", DataType.STRING))),
    Schema((Field("y", DataType.FLOAT64), Field("n", DataType.INT32))),
)
ROWS = Batch.of({"x": np.array([1.0, 2.0]), "secret": np.array(["s3cret", "t"], object)})
GOOD = "def predict(columns):\n    return {'y': columns['x'] * 2, 'n': [1, 2]}\n"


def load(path, *, contract=CONTRACT, **options):
    spec = Spec("python", "sha256:0", {"entry": "model:predict"} | options)
    return build_function(spec, BuildContext(contract, lambda digest: path))


def write(folder, source, name="model.py"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source)
    return folder


def test_columns_go_in_and_come_out_in_the_declared_types(tmp_path):
    answer = load(write(tmp_path, GOOD)).predict(ROWS)

    assert answer["y"].tolist() == [2.0, 4.0]
    assert answer["n"].dtype == np.int32


def test_one_file_is_an_artifact_too(tmp_path):
    path = write(tmp_path, GOOD, "0a1b2c") / "0a1b2c"

    assert load(path).predict(ROWS)["y"].tolist() == [2.0, 4.0]


def test_the_batch_itself_and_a_started_state_can_be_had(tmp_path):
    source = (
        "import factor\n"
        "def start(folder):\n    return factor.read(folder)\n"
        "def predict(batch, state):\n    return {'y': batch['x'] * state, 'n': [len(batch)] * 2}\n"
    )
    write(tmp_path, "def read(folder):\n    return float((folder / 'factor.txt').read_text())\n", "factor.py")
    write(tmp_path, "3.5", "factor.txt")

    answer = load(write(tmp_path, source), takes="batch", start="model:start").predict(ROWS)

    assert answer["y"].tolist() == [3.5, 7.0]
    assert str(tmp_path) not in sys.path
    sys.modules.pop("factor")


@pytest.mark.parametrize("takes", ["columns", "batch"])
@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("is_block", [False, True])
def test_a_function_may_write_to_its_rows_whichever_came_with_them(tmp_path, takes, n_parts, is_block):
    contract = Contract(
        Schema((Field("x", DataType.FLOAT64), Field("v", DataType.FLOAT64, shape=(None,)))),
        Schema((Field("y", DataType.FLOAT64),)),
    )
    source = (
        "def predict(rows):\n"
        "    x, v = rows['x'], rows['v']\n"
        "    x += 1\n"
        "    v[0] += 1\n"
        "    return {'y': rows['x'] + [each.sum() for each in v]}\n"
    )
    x = np.array([[1.0], [2.0]])
    v = np.empty(2, object)
    v[:] = [np.array([1.0, 2.0]), np.array([3.0])]
    given = Batch(
        {"x": x[:, 0], "v": v},
        2,
        blocks={("x",): x} if is_block else {},
    )
    sent = Batch.concat([unpack(pack(given), 2) for _ in range(n_parts)])
    function = load(write(tmp_path, source), contract=contract, takes=takes)

    assert function.predict(sent)["y"].tolist()[:2] == [7.0, 6.0]
    assert function.predict(given)["y"].tolist() == [7.0, 6.0]
    assert (x.tolist(), v[0].tolist()) == ([[1.0], [2.0]], [1.0, 2.0]), "the caller's own rows stay"


def test_two_versions_of_one_module_live_side_by_side(tmp_path):
    one = load(write(tmp_path / "one", GOOD))
    two = load(write(tmp_path / "two", GOOD.replace("* 2", "* 3")))

    assert one.predict(ROWS)["y"].tolist() == [2.0, 4.0]
    assert two.predict(ROWS)["y"].tolist() == [3.0, 6.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('k')", "raised KeyError in line 2 of model.py"),
        ("return 1", "must return a mapping of output fields, got int"),
        ("return {'y': [1.0, 2.0]}", "lacks output field 'n'; it has y"),
        ("return {'y': [1.0], 'n': [1, 2]}", r"'y' has shape \[1\], expected \[2\]"),
        ("return {'y': [[1.0], [2.0]], 'n': [1, 2]}", r"shape \[2, 1\]"),
        ("return {'y': ['a', 'b'], 'n': [1, 2]}", "'y' are not float64"),
        ("return {'y': [1.0, 2.0], 'n': [1.5, 2]}", "'n' are not int32"),
        ("return {'y': [1.0, 2.0], 'n': [2 ** 40, 2]}", "'n' are not int32"),
        ("return {'y': [1.0, 2.0], 'n': None}", "'n'"),
    ],
)
def test_a_function_that_fails_is_reported_and_survived(tmp_path, body, message):
    predictor = load(write(tmp_path, f"def predict(columns):\n    {body}\n"))

    with pytest.raises(PredictorError, match=message):
        predictor.predict(ROWS)


def test_an_exception_does_not_echo_values_where_a_field_is_sensitive(tmp_path):
    fields = (CONTRACT.input.fields[0], Field("secret", DataType.STRING, sensitive=True))
    source = "def predict(columns):\n    raise ValueError(columns['secret'][0])\n"

    with pytest.raises(PredictorError) as closed:
        load(write(tmp_path, source), contract=Contract(Schema(fields), CONTRACT.output)).predict(ROWS)
    with pytest.raises(PredictorError) as opened:
        load(tmp_path).predict(ROWS)

    assert "s3cret" not in str(closed.value)
    assert "s3cret" in str(opened.value)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("1 / 0", {}, LoadError, "Importing model.py raised ZeroDivisionError"),
        ("import no_such_package_1", {}, LoadError, "no_such_package_1"),
        ("def predict(:", {}, LoadError, "SyntaxError"),
        ("x = 1", {}, LoadError, "no function 'predict'"),
        (GOOD, {"entry": "other:predict"}, LoadError, r"no file other\.py"),
        (GOOD, {"entry": "../model:predict"}, InvalidSetting, "not 'module:function'"),
        (GOOD, {"entry": "model"}, InvalidSetting, "not 'module:function'"),
        (GOOD, {"takes": "rows"}, InvalidSetting, "options of a Python predictor"),
        (GOOD + "def start(f):\n    raise OSError('gone')", {"start": "model:start"}, LoadError, "gone"),
    ],
)
def test_code_that_cannot_be_loaded_is_refused_in_words(tmp_path, source, options, error, message):
    with pytest.raises(error, match=message):
        load(write(tmp_path, source), **options)


def test_loading_writes_nothing_beside_the_artifact(tmp_path):
    load(write(tmp_path, GOOD))

    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
