"""Servers for the tests of this folder; each is stopped after the tests that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.server import Server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server that is not started yet, in an empty folder."""
    with running(tmp_path) as found:
        yield found
