"""The time that an outcome names its prediction by, together with a key."""

import numpy as np
import pytest

from tests.serving.http.harness import Service, contract_of, scalar, serving
from tidegate.contract.schema import DataType

CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    service = Service("late", CONTRACT, lambda batch: {"y": np.asarray(batch["x"])})
    with serving(tmp_path_factory.mktemp("late"), service) as running:
        yield running


@pytest.mark.parametrize(
    ("time", "status"),
    [
        ("0001-01-01T00:00:00Z", 202),
        ("0001-01-01T23:59:00+23:59", 202),
        ("0001-01-01T00:00:00+23:59", 400),
        ("9999-12-31T23:59:59.999999Z", 202),
        ("9999-12-31T23:59:59-23:59", 400),
        (-62_135_596_800_000_000, 202),
        (-62_135_596_800_000_001, 400),
        (253_402_300_800_000_000, 400),
    ],
)
def test_an_instant_is_within_the_years_1_to_9999_however_it_is_written(server, time, status):
    sent = {"key": "a", "event_time": time, "value": 1}

    answered, body, _ = server.request("POST", "/services/late/outcomes", sent)

    assert answered == status
    assert status == 202 or "years 1 to 9999" in body["error"]["message"]
