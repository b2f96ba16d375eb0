"""The shared online store: Redis, Valkey, or what else speaks their protocol (6.2 or newer)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tidegate.core.error import InvalidSetting, MissingExtra
from tidegate.feature.online import Event, Kept, Moments, OnlineStoreUnavailable, each

_HEAD = struct.Struct(">QQ")  # event and created time; big-endian sorts as it counts
_END = b"\0"  # after the identifier, which has none: so that a shorter one sorts first
_unpack = _HEAD.unpack_from
_SIGN = 1 << 63
_PAGE = 4  # events asked of a key at once: the last one is nearly always known already
_TIMEOUT_S = 5.0


class RedisOnlineStore:
    """An `OnlineStore` in sorted sets, one a key: scored by event time, members sorted as events are.

    Adding a member is idempotent and atomic by itself, so writers need no lock and no script.

    Args:
        url: `redis://`, `rediss://` or `unix://` URL.
        prefix: What the names of all keys begin with.
        timeout_s: How long a call may take, seconds.

    Raises:
        InvalidSetting: The URL is none of these.
        MissingExtra: The package redis is not installed.
        OnlineStoreUnavailable: The server does not answer.
    """

    def __init__(self, url: str, *, prefix: str = "tidegate:feature", timeout_s: float = _TIMEOUT_S) -> None:
        try:
            import redis
        except ModuleNotFoundError as error:
            raise MissingExtra("A Redis-compatible store", extra="redis", package="redis") from error
        self._error = redis.RedisError
        self._prefix = prefix
        try:
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
        except ValueError as error:
            raise InvalidSetting(f"This is no address of a Redis-compatible server: {error}.") from error
        try:
            with self._reported():
                self._client.ping()
        except OnlineStoreUnavailable:
            self._client.close()
            raise

    def put(self, view: str, events: Sequence[tuple[bytes, Event]]) -> int:
        pipeline = self._client.pipeline(transaction=True)
        by_key: dict[bytes, dict[bytes, int]] = {}
        for key, event in events:
            by_key.setdefault(key, {})[_member(event)] = event.event_us
        for key, members in by_key.items():
            pipeline.zadd(self._name(view, key), members)
        with self._reported():
            return sum(pipeline.execute()) if by_key else 0

    def latest(self, view: str, keys: Sequence[bytes], *, at_us: Moments) -> list[Event | None]:
        moments = each(at_us, len(keys))
        found: list[Event | None] = [None] * len(keys)
        open_rows, offset = list(range(len(keys))), 0
        while open_rows:
            pipeline = self._client.pipeline(transaction=False)
            for row in open_rows:
                pipeline.zrevrangebyscore(
                    self._name(view, keys[row]), f"({moments[row]}", "-inf", start=offset, num=_PAGE
                )
            with self._reported():
                pages = pipeline.execute()
            further = []
            for row, page in zip(open_rows, pages, strict=True):
                known = (event for event in map(_kept, page) if event[1] < moments[row])
                found[row] = next(map(Event._make, known), None)
                if found[row] is None and len(page) == _PAGE:
                    further.append(row)
            open_rows, offset = further, offset + _PAGE
        return found

    def within(
        self, view: str, keys: Sequence[bytes], *, since_us: Moments, at_us: Moments
    ) -> list[list[Kept]]:
        pipeline, moments = self._client.pipeline(transaction=False), each(at_us, len(keys))
        for key, since, at in zip(keys, each(since_us, len(keys)), moments, strict=True):
            pipeline.zrangebyscore(self._name(view, key), since, f"({at}")
        with self._reported():
            pages = pipeline.execute() if keys else []
        return [
            [event for event in map(_kept, page) if event[1] < at]
            for page, at in zip(pages, moments, strict=True)
        ]

    def forget(self, view: str, *, before_us: int) -> int:
        n_removed = 0
        with self._reported():
            for name in self._client.scan_iter(match=_escaped(self._name(view, b"")) + b"*", count=1000):
                n_old = self._client.zcount(name, "-inf", f"({before_us}")
                # By rank, up to the last but one: what is put in between only adds to what stays.
                n_gone = min(n_old, self._client.zcard(name) - 1)
                if n_gone > 0:
                    n_removed += self._client.zremrangebyrank(name, 0, n_gone - 1)
        return n_removed

    def close(self) -> None:
        self._client.close()

    def _name(self, view: str, key: bytes) -> bytes:
        return f"{self._prefix}:{view}:".encode() + key

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise OnlineStoreUnavailable(f"The online store cannot be used: {error}.") from error


def _member(event: Event) -> bytes:
    # The event time is in it, though it is the score: a member has one score, and two events of
    # different times are two.
    head = _HEAD.pack(event.event_us + _SIGN, event.created_us + _SIGN)
    return head + event.event_id + _END + event.payload


def _kept(member: bytes) -> Kept:
    event_us, created_us = _unpack(member)
    event_id, _, payload = member[_HEAD.size :].partition(_END)
    return event_us - _SIGN, created_us - _SIGN, event_id, payload


def _escaped(name: bytes) -> bytes:
    """Return a pattern that matches just `name`."""
    special = b"*?[]^-\\"
    return b"".join(bytes((92, byte)) if byte in special else bytes((byte,)) for byte in name)
