"""Servers for the tests of this folder; each is stopped after the tests that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.model import add_version, write_sum
from tests.system.server import Server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server that is not started yet, in an empty folder."""
    with running(tmp_path) as found:
        yield found


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a running server on which each module deploys services of its own: starting one takes seconds."""
    with running(tmp_path_factory.mktemp("shared")) as found:
        add_version(found, "first", write_sum(found.folder / "first.onnx", 0.0))
        found.start()
        yield found
