"""Data that models are fitted on, and what their tests share."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.predictor.protocol import BuildContext, build


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Keep OpenMP's threads from waiting for each other on a busy machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="package")
def table():
    """A matrix, and targets of several kinds."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(400, 4))
    return {
        "x": x,
        "binary": (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int),
        "three": np.digitize(x[:, 0], [-0.5, 0.5]),
        "text": np.array(["low", "middle", "high"])[np.digitize(x[:, 0], [-0.5, 0.5])],
        "number": 100 + 3 * x[:, 0] - x[:, 1],
    }


@pytest.fixture(scope="package")
def flights():
    """A data frame with text, whole numbers and gaps, and whether each flight was late."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "carrier": rng.choice(["AA", "B6", "UA"], 400),
            "distance": rng.integers(80, 3000, 400),
            "dep time": rng.uniform(0, 24, 400).round(2),
        }
    )
    frame.loc[5, "dep time"] = np.nan
    late = ((frame["carrier"] == "B6") ^ (frame["distance"] > 1500)).astype(int)
    return frame, late.to_numpy()


@pytest.fixture
def rebuild(tmp_path):
    """Write a prepared model's files and build its predictor as a worker would."""

    def make(prepared):
        folder = tmp_path / "artifact"
        folder.mkdir()
        for name, content in prepared.files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        # The artifact store names files by digest, without a suffix.
        path = folder / next(iter(prepared.files))
        place = folder if len(prepared.files) > 1 else path.rename(folder / "0a1b2c3d")
        spec = prepared.spec
        context = BuildContext(prepared.contract, lambda digest: place)
        return build(type(spec)(spec.kind, "sha256:0", spec.options), context, BUILDERS)

    return make
