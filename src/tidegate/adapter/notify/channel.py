"""Channels by address: `http` and `https` are webhooks, all else is apprise's."""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

import msgspec

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting, MissingExtra
from tidegate.monitoring.alert import Channel, NotDelivered, message
from tidegate.monitoring.signal import Severity, Signal

_TIMEOUT_S = 10.0
_KINDS = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.NOTICE: "info"}


class Webhook:
    """Posts the signal as JSON; any 2xx in ten seconds is a delivery. Its id tells repetitions apart."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.key = _key(url)
        self.name = f"webhook {urlsplit(url).hostname}"

    def send(self, signal: Signal) -> None:
        body = msgspec.json.encode({"text": message(signal), "signal": signal})
        request = Request(  # noqa: S310 - http or https: see `channels_of`
            self._url,
            data=body,
            headers={"content-type": "application/json", "idempotency-key": signal.id},
            method="POST",
        )
        deadline = _Deadline(_TIMEOUT_S)
        opener = build_opener(_PlainHandler(deadline), _SecureHandler(deadline))
        try:
            with deadline, opener.open(request, timeout=_TIMEOUT_S):
                pass
        except (URLError, HTTPException, OSError) as error:  # a status of 300 or more is a URLError too
            if not deadline.is_over:
                raise NotDelivered(f"The webhook did not take it: {error}.") from error
        if deadline.is_over:  # headers that were cut off look whole
            raise NotDelivered(f"The webhook did not answer whole within {_TIMEOUT_S:g} s.")


class _Deadline:
    """Ends an exchange that has had its time: the timeout of a socket is that of each piece that comes."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.is_over = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    def watch(self, connected: socket.socket) -> None:
        """Take a connection: a second handle of it, for TLS takes the first one over."""
        with self._lock:
            self._sockets.append(connected.dup())
        if self.is_over:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):  # it may have ended by itself
                    each.shutdown(socket.SHUT_RDWR)


class _PlainConnection(HTTPConnection):
    deadline: _Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _SecureConnection(HTTPSConnection, _PlainConnection):
    """Its handshake is watched as well: HTTPSConnection does it after the connect of the class behind it."""


class _PlainHandler(HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_watched(_PlainConnection, self._deadline), req)


class _SecureHandler(HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_watched(_SecureConnection, self._deadline), req)


def _watched(kind: type[_PlainConnection], deadline: _Deadline) -> Any:
    """Return what makes connections of a kind that end with the deadline."""

    def connection(host: str, **given: Any) -> _PlainConnection:
        made = kind(host, **given)
        made.deadline = deadline
        return made

    return connection


class AppriseChannel:
    """Sends through apprise: mail, chat, pager."""

    def __init__(self, url: str) -> None:
        """Take an apprise URL.

        Raises:
            MissingExtra: apprise is not installed.
            InvalidSetting: It knows no such URL.
        """
        try:
            apprise: Any = importlib.import_module("apprise")
        except ImportError as error:
            raise MissingExtra("Alerts to this address", extra="alerts", package="apprise") from error
        self._way = apprise.Apprise()
        scheme = url.partition("://")[0]
        if not self._way.add(url):
            raise InvalidSetting(f"apprise knows no alert address of the kind {scheme!r}.")
        self.key = _key(url)
        self.name = f"apprise {scheme}"

    def send(self, signal: Signal) -> None:
        done = self._way.notify(title=signal.title, body=message(signal), notify_type=_KINDS[signal.severity])
        if not done:
            raise NotDelivered("apprise could not hand it over.")


def _key(address: str) -> str:
    """Return what tells an address from others and gives none of it away."""
    return digest_bytes(address.encode()).removeprefix("sha256:")[:12]


def channels_of(addresses: Sequence[str]) -> list[Channel]:
    """Return the channels of addresses; empty ones are left out.

    Raises:
        InvalidSetting: One is no address.
        MissingExtra: One needs apprise, which is not installed.
    """
    found: list[Channel] = []
    for address in filter(None, (each.strip() for each in addresses)):
        parts = urlsplit(address)
        if not parts.scheme:
            raise InvalidSetting(
                "An alert address has no scheme.", hint="Write https://..., or an address of apprise."
            )
        is_web = parts.scheme in ("http", "https")
        found.append(Webhook(address) if is_web else AppriseChannel(address))
    return found
