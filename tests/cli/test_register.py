"""`tidegate register` with the files that libraries write."""

import json

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def rows(path):
    path.write_text(json.dumps([dict(zip(("a", "b", "c"), row, strict=True)) for row in X.tolist()]))
    return path


def test_a_library_file_with_rows_is_converted_and_its_parity_is_kept(tidegate, tmp_path):
    skops.io.dump(LogisticRegression().fit(X, Y), tmp_path / "m.skops")

    registered = tidegate("register", "toy", "m.skops", "--sample", rows(tmp_path / "rows.json"))
    decisions = tidegate("decisions", "--json")

    assert registered.code == 0, registered.err
    assert "Converted to ONNX with a float32 matrix: largest difference" in registered.out
    assert '"parity"' in decisions.out


def test_types_that_nobody_agreed_to_are_named_and_can_be_agreed_to(tidegate, tmp_path):
    scale = FunctionTransformer(np.linalg.norm, kw_args={"axis": 1, "keepdims": True})
    skops.io.dump(make_pipeline(scale, LogisticRegression()).fit(X, Y), tmp_path / "m.skops")

    refused = tidegate("register", "toy", "m.skops")
    agreement = refused.err.partition("register it with ")[2].partition(" (in Python")[0].split()
    registered = tidegate("register", "toy", "m.skops", *agreement)

    assert refused.code == 1
    assert "untrusted_types" in refused.err
    assert agreement[0] == "--trust"
    assert registered.code == 0, registered.err
    assert "Registered toy@1" in registered.out


@pytest.mark.parametrize("name", ["m.txt", "m.ubj", "m.json", "m.skops", "m.onnx"])
def test_a_damaged_file_is_refused_in_words(tidegate, tmp_path, name):
    (tmp_path / name).write_bytes(b"{L\x00\x00\x00\x00damaged")

    refused = tidegate("register", "toy", name)

    assert refused.code == 1
    assert "predictor_not_loadable" in refused.err
    assert name in refused.err
    assert "Traceback" not in refused.err
