"""The door of one service: who is let in, decided on the headers and told in a few microseconds."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from tidegate.contract.objective import Criticality
from tidegate.core.error import TidegateError
from tidegate.serving.bucket import TokenBuckets
from tidegate.serving.call import Overloaded, RateLimited
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import LoadedVersion
from tidegate.serving.http.error import retry_after
from tidegate.serving.http.exchange import Exchange, HttpError

if TYPE_CHECKING:
    from tidegate.serving.http.connection import Connection
    from tidegate.serving.http.site import Site

TIMEOUT_HEADER = b"tidegate-timeout-ms"
CRITICALITY_HEADER = b"tidegate-criticality"
MAX_TIMEOUT_MS = 3_600_000.0
MAX_CALLER = 128

_CRITICALITY = {one.name.lower().encode(): int(one) for one in Criticality}


_Reason = type[Overloaded] | type[RateLimited]


class Wish(NamedTuple):
    """What a request's headers say of how it wants to be treated.

    Attributes:
        timeout_s: The time that it may take, seconds.
        criticality: How much it matters.
        caller: Who sends it, where callers are told apart by a header.
        by_parameter: Whether the protocol's parameter `timeout` gave the time, and no header.
        waited_s: What it has waited already for its model to be loaded, seconds; `timeout_s` is the rest.
    """

    timeout_s: float
    criticality: int
    caller: str = ""
    by_parameter: bool = False
    waited_s: float = 0.0


def read_timeout_s(exchange: Exchange, default_s: float) -> float:
    """Return the time that a request may take, seconds.

    Raises:
        HttpError: The header is not a number of milliseconds above 0.
    """
    raw = exchange.headers.get(TIMEOUT_HEADER)
    if raw is None:
        return default_s
    try:
        timeout_ms = -1.0 if b"_" in raw else float(raw)
    except ValueError:
        timeout_ms = -1.0
    if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
        raise HttpError(
            f"The header tidegate-timeout-ms is {raw[:40].decode(errors='replace')!r}.",
            hint=f"Send milliseconds above 0, at most {MAX_TIMEOUT_MS:.0f}.",
        )
    return timeout_ms / 1000


def read_criticality(name: bytes) -> int:
    """Return the criticality of that name.

    Raises:
        HttpError: There is none.
    """
    found = _CRITICALITY.get(name.lower())
    if found is None:
        raise HttpError(
            f"There is no criticality {name[:40].decode(errors='replace')!r}.",
            hint=f"Send one of: {', '.join(known.decode() for known in _CRITICALITY)}.",
        )
    return found


class Door:
    """Decides for the requests of one version, and has the refusals ready."""

    def __init__(
        self,
        plane: DataPlane,
        version: LoadedVersion,
        *,
        shape: Callable[[TidegateError], tuple[int, bytes]],
    ) -> None:
        """Stand before a version.

        Args:
            plane: Counts what is refused.
            version: Who answers.
            shape: Makes status and body of an error.
        """
        limits = version.limits
        self._plane = plane
        self._service = version.service
        self._version = version
        self._backlog = version.backlog
        self._admission = version.admission
        self._deadline_s = version.deadline_s
        self._shape = shape
        self._caller_header = limits.caller_header.lower().encode()
        self._default = int(Criticality[limits.criticality.upper()])
        rate_per_s = limits.caller_rate_per_s
        self._buckets = None if rate_per_s is None else TokenBuckets(rate_per_s, limits.caller_burst)

    def wish(self, exchange: Exchange) -> Wish:
        """Read the headers.

        Raises:
            HttpError: One of them cannot be used.
        """
        headers = exchange.headers
        name = headers.get(CRITICALITY_HEADER)
        caller = headers.get(self._caller_header, b"")[:MAX_CALLER] if self._buckets is not None else b""
        return Wish(
            read_timeout_s(exchange, self._deadline_s),
            self._default if name is None else read_criticality(name),
            caller.decode("latin-1"),
        )

    def check(self, wish: Wish, connection: Connection) -> None:
        """Let a request in.

        Raises:
            Overloaded: It could not be answered in time.
            RateLimited: Its caller has had its share.
        """
        error, wait_s = self._look(wish, connection)
        if error is not None:
            raise error.after(wait_s, self._service)

    def turn_away(self, wish: Wish, connection: Connection) -> bytes | None:
        """Return the whole refusal of a request, ready to be sent; None to let it in."""
        backlog = self._backlog
        if self._buckets is None and (backlog is None or not (backlog.own or backlog.pending)):
            return None
        error, wait_s = self._look(wish, connection)
        if error is None:
            return None
        self._plane.count_refusal(self._service, error.code)
        # the bytes are the same for all who are refused within a second and told the same
        key = (self, error, ceil(wait_s))
        payload = connection.site.refusals.get(key)
        if payload is None:
            payload = self._write(error.after(wait_s, self._service), connection.site)
            connection.site.refusals[key] = payload
        return payload

    def _look(
        self, wish: Wish, connection: Connection
    ) -> tuple[type[Overloaded | RateLimited] | None, float]:
        """Return what keeps a request out, if anything does, and for how long."""
        if self._buckets is not None:
            caller = wish.caller or connection.peer
            wait_s = self._buckets.take(caller, self._plane.clock.monotonic_s())
            if wait_s:
                return RateLimited, wait_s
        if self._admission is not None:
            wait_s = self._admission.wait_s(wish.timeout_s, wish.criticality)
            if wait_s:
                return Overloaded, wait_s
        return None, 0.0

    def _write(self, error: TidegateError, site: Site) -> bytes:
        status, body = self._shape(error)
        head = site.head(status, b"application/json")
        return b"%b%d\r\n%b\r\n%b" % (head, len(body), retry_after(error), body)
