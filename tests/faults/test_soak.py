"""A short soak; `TIDEGATE_SOAK_S` makes it longer, as does `python -m tests.faults.soak --minutes 30`."""

from __future__ import annotations

import logging
import os

import pytest

from tests.faults.soak import soak

SECONDS = float(os.environ.get("TIDEGATE_SOAK_S", "120"))

_log = logging.getLogger(__name__)


@pytest.mark.slow
def test_random_faults_under_traffic_lose_nothing_and_leave_nobody_stuck(tmp_path):
    found = soak(tmp_path, seconds=SECONDS, seed=1)

    _log.info("%s", found)
    assert found["acknowledged"] > 5 * SECONDS
    assert sum(found["faults"].values()) > SECONDS / 20
