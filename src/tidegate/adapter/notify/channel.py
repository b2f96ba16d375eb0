"""Channels by address: `http` and `https` are webhooks, all else is apprise's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting, MissingExtra
from tidegate.monitoring.alert import Channel, NotDelivered, message
from tidegate.monitoring.signal import Severity, Signal

_TIMEOUT_S = 10.0
_KINDS = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.NOTICE: "info"}


class Webhook:
    """Posts the signal as JSON; any 2xx is a delivery. The signal's id tells repetitions apart."""

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
        try:
            with urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
                return
        except (URLError, HTTPException, OSError) as error:  # a status of 300 or more is a URLError too
            raise NotDelivered(f"The webhook did not take it: {error}.") from error


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
