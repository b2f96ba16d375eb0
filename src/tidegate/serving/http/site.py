"""What all connections of a worker share: resources by path, dates, clients that take too long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic, sleep, time
from urllib.parse import unquote_to_bytes

from tidegate.core.error import NotFound, TidegateError
from tidegate.serving.endpoint import UnknownService
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.error import native_error, protocol_error
from tidegate.serving.http.exchange import Exchange, Handler, Head, NotAllowed, Unsupported

_log = logging.getLogger("tidegate.serving.http")

Resources = Mapping[bytes, Mapping[bytes, Handler]]
"""Path -> method -> handler."""

HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 75.0
LINGER_TIMEOUT_S = 2.0
REST_S = 0.001
REST_WITHIN_S = 0.005
"""Refusals that are further apart are answered as they come."""
_NOT_OFFERED = (b"systemsharedmemory", b"cudasharedmemory", b"trace", b"logging")
_NO_VERBS = (b"generate", b"generate_stream", b"trace")
"""Extensions of Triton's protocol that its clients may ask for: known, and not offered."""
FULL_TURN = 32
"""Refusals in one turn of the loop that share its cost well enough already."""


class Site:
    """The resources a worker offers, and the housekeeping of its connections."""

    def __init__(self, *, on_defect: Callable[[BaseException], None] | None = None) -> None:
        self.connections: set[Connection] = set()
        self.now_s = monotonic()
        self.draining = False
        self.heads: dict[bytes, Head] = {}
        self._resources: Resources = {}
        self.on_demand: Callable[[bytes, bytes], Handler | None] = lambda method, path: None
        self._n_turned_away = 0
        self._rested_s = 0.0
        self.refusals: dict[tuple[object, object, int], bytes] = {}  # whole answers that bear the date
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._date = formatdate(time(), usegmt=True)
        self._on_defect = on_defect

    def publish(self, resources: Resources) -> None:
        """Replace what is offered, for all requests whose headers arrive from now on."""
        self._resources = resources
        self.heads.clear()  # they name handlers

    def find(self, method: bytes, target: bytes) -> Handler:
        """Return the handler of a request; one that refuses if the resource does not exist."""
        methods = self._resources.get(target)
        if methods is None:
            path = _path(target)
            methods = self._resources.get(path)
            if methods is None:
                return self.on_demand(method, path) or _Refusal(path, self._not_found(path))
        handler = methods.get(b"GET" if method == b"HEAD" else method)
        if handler is None:
            names = {*methods, b"HEAD"} if b"GET" in methods else methods
            allowed = ", ".join(sorted(name.decode() for name in names))
            path = _path(target)
            error = NotAllowed(
                f"{_shown(path)} does not take this method.", hint=f"Use {allowed}.", allow=allowed
            )
            return _Refusal(path, error)
        return handler

    def head(self, status: int, content_type: bytes) -> bytes:
        """Return the head of a response up to and including `content-length: `."""
        head = self._heads.get((status, content_type))
        if head is None:
            reason = HTTPStatus(status).phrase
            head = (
                f"HTTP/1.1 {status} {reason}\r\ndate: {self._date}\r\n"
                f"content-type: {content_type.decode()}\r\ncontent-length: "
            ).encode()
            self._heads[status, content_type] = head
        return head

    def count_turned_away(self) -> None:
        """Note a request that was refused on its headers; see `_rest`."""
        self._n_turned_away += 1
        if self._n_turned_away == 1:
            asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        """Let refused requests gather for a moment instead of waking up for each.

        At thousands of refusals a second a worker would be woken, and wake its client, for each one,
        and what that costs is taken from the model. Who is refused once more within a few
        milliseconds is in no hurry, and those who are let in have more time than this.
        """
        n_turned_away, self._n_turned_away = self._n_turned_away, 0
        began_s = monotonic()
        if n_turned_away < FULL_TURN and began_s - self._rested_s < REST_WITHIN_S:
            sleep(REST_S)
            began_s = monotonic()
        self._rested_s = began_s

    def report_defect(self, error: BaseException) -> None:
        """Keep an exception that should not have happened from being lost."""
        _log.error("request.failed", exc_info=error)
        if self._on_defect is not None:
            self._on_defect(error)

    async def keep_house(self) -> None:
        """Renew the date and close what takes too long, once a second, until cancelled."""
        while True:
            self.now_s = monotonic()
            self._date = formatdate(time(), usegmt=True)
            self._heads.clear()
            self.refusals.clear()
            self._sweep()
            await asyncio.sleep(1.0)

    def drain(self, patience_s: float = 0.0) -> None:
        """Answer what is under way and close every connection after it.

        Args:
            patience_s: How long a connection may have been quiet before it is closed without a request
                whose answer could say so.
        """
        if not self.draining:
            self.draining = True
            self.heads.clear()
        for connection in list(self.connections):
            if patience_s == 0.0 or monotonic() - connection.touched_s > patience_s:
                connection.close_when_idle()

    def _sweep(self) -> None:
        limits = {
            "head": HEAD_TIMEOUT_S,
            "body": BODY_TIMEOUT_S,
            "idle": IDLE_TIMEOUT_S,
            "linger": LINGER_TIMEOUT_S,
        }
        for connection in list(self.connections):
            waited_s = self.now_s - connection.touched_s
            if waited_s > limits[connection.state] and not (connection.state == "idle" and connection.owes):
                connection.time_out()

    def _not_found(self, path: bytes) -> TidegateError:
        if path.startswith(b"/v2/") and path.split(b"/")[2] in _NOT_OFFERED:
            return Unsupported(
                f"The extension of {_shown(path)} is not offered.", hint="GET /v2 lists those that are."
            )
        if path.startswith(b"/v2/models/"):
            return self._no_model(path.split(b"/")[3:])
        if path.startswith(b"/services/"):
            names = {
                path.split(b"/")[2].decode() for path in self._resources if path.startswith(b"/services/")
            }
            name = _shown(path.split(b"/")[2])
            if name not in names:
                return UnknownService(
                    f"There is no service {name!r} here.",
                    hint=f"Known: {', '.join(sorted(names)[:20]) or 'none yet'}.",
                    service=name,
                )
        posts = sorted(path.decode() for path, methods in self._resources.items() if b"POST" in methods)
        predict = [path for path in posts if path.endswith("/predict")]
        return NotFound(
            f"There is nothing at {_shown(path)}.",
            hint=f"Predictions are made at: {', '.join(predict[:10])}."
            if predict
            else "No service is ready yet.",
        )

    def _no_model(self, parts: list[bytes]) -> TidegateError:
        """Say which of model, version and verb is the one that does not exist."""
        base = b"/v2/models/"
        name = parts[0]
        if base + name + b"/infer" not in self._resources:
            known = {path[len(base) :].split(b"/")[0] for path in self._resources if path.startswith(base)}
            names = sorted(name.decode() for name in known - {b"stats"})
            return NotFound(
                f"There is no model {_shown(name)!r} here.",
                hint=f"Known: {', '.join(names[:20]) or 'none yet'}.",
            )
        below = base + name + b"/versions/"
        versions = {path[len(below) :].split(b"/")[0] for path in self._resources if path.startswith(below)}
        if len(parts) > 2 and parts[1] == b"versions" and parts[2] not in versions:
            numbers = ", ".join(sorted((number.decode() for number in versions), key=int))
            return NotFound(
                f"Model {_shown(name)!r} has no version {_shown(parts[2])!r} here.",
                hint=f"Versions that can be named: {numbers or 'none yet'}.",
            )
        verbs = parts[3:] if parts[1:2] == [b"versions"] else parts[1:]
        return (Unsupported if verbs[:1] and verbs[0] in _NO_VERBS else NotFound)(
            f"Model {_shown(name)!r} has no {_shown(b'/'.join(parts[1:]))!r}.",
            hint="It has: ready, infer, config, stats, and the same below versions/NUMBER.",
        )


def _path(target: bytes) -> bytes:
    """Return the path of a request target, without query and with its escapes resolved."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if path[:4].lower() == b"http":  # absolute form, RFC 9112 section 3.2.2
        scheme, is_absolute, rest = path.partition(b"://")
        if is_absolute and scheme.lower() in (b"http", b"https"):
            path = b"/" + rest.partition(b"/")[2]
    return unquote_to_bytes(path) if b"%" in path else path


def _shown(path: bytes) -> str:
    return path[:200].decode(errors="replace")


class _Refusal:
    """Answers every request with one error, in the shape of the face that the path belongs to."""

    max_body_bytes = 1 << 20
    door = None

    def __init__(self, path: bytes, error: TidegateError) -> None:
        self._error = error
        self._shape = protocol_error if path == b"/v2" or path.startswith(b"/v2/") else native_error

    def admit(self, exchange: Exchange) -> None:
        raise self._error

    def handle(self, exchange: Exchange, body: bytes) -> None:
        raise self._error

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        status, body = self._shape(error)
        allow = error.context.get("allow")
        exchange.respond(status, body, headers=f"allow: {allow}\r\n".encode() if allow else b"")
