"""The online store of features that the settings name, opened for whoever reads or writes it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tidegate.core.clock import Clock
from tidegate.core.home import Home
from tidegate.feature.online import OnlineStore
from tidegate.serving.feature import InlineSource, SharedSource, Source, Store

STORE_VARIABLE = "TIDEGATE_ONLINE_STORE"
"""Tells a server's processes the address of the shared store: it may hold a password, so it is on no
command line."""


def open_store(home: Home, url: str, *, timeout_s: float | None = None) -> OnlineStore:
    """Open the online store.

    Args:
        home: Has the embedded one.
        url: `redis://`, `rediss://` or `unix://`; empty for the embedded one.
        timeout_s: How long a call may take, seconds; the store's own default if None.

    Raises:
        OnlineStoreUnavailable: It cannot be opened, or does not answer.
        InvalidSetting: The URL is none of these.
        MissingExtra: The package redis is not installed.
    """
    if url:
        from tidegate.adapter.redis.online import RedisOnlineStore

        return RedisOnlineStore(url) if timeout_s is None else RedisOnlineStore(url, timeout_s=timeout_s)
    from tidegate.adapter.sqlite.online import SqliteOnlineStore

    path: Path = home.features
    return SqliteOnlineStore(path) if timeout_s is None else SqliteOnlineStore(path, busy_s=timeout_s)


def open_source(home: Home, loop: asyncio.AbstractEventLoop, *, clock: Clock, read_s: float) -> Source:
    """Return where a worker reads features: the embedded store in its loop, a shared one beside it.

    It is opened at the first read; a store that is down by then costs features, not the worker.

    Args:
        home: Has the embedded store.
        loop: The worker's.
        clock: Says when a store that failed is asked again.
        read_s: How long a read may take.
    """
    url = os.environ.get(STORE_VARIABLE, "")
    store = Store(lambda: open_store(home, url, timeout_s=read_s), clock=clock)
    return SharedSource(store, loop=loop) if url else InlineSource(store)
