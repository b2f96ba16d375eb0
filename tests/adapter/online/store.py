"""Both online stores, empty, for the tests that run over each."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tidegate.adapter.redis.online import RedisOnlineStore
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.feature.online import OnlineStore

KINDS = ("sqlite", "redis")


@contextmanager
def new_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[OnlineStore]:
    """Open an empty store of a kind, and close it."""
    name = uuid.uuid4().hex
    store: OnlineStore = (
        SqliteOnlineStore(folder / f"{name}.db")
        if kind == "sqlite"
        else RedisOnlineStore(request.getfixturevalue("redis_url"), prefix=name)
    )
    try:
        yield store
    finally:
        store.close()
