"""One request, the place of its answer in the order of its connection, and who answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tidegate.core.error import TidegateError

if TYPE_CHECKING:
    from tidegate.serving.http.connection import Connection
    from tidegate.serving.http.door import Door, Wish


class HttpError(TidegateError):
    """A request that HTTP itself forbids, or that this server does not take."""

    code = "bad_request"


class Unsupported(TidegateError):
    """The protocol knows the request; this server does not do what it asks."""

    code = "unsupported"


class NotAllowed(TidegateError):
    """The resource exists but not for this method."""

    code = "method_not_allowed"


class HeadTooLarge(TidegateError):
    """The request line and headers exceed their bound."""

    code = "headers_too_large"


class TargetTooLong(TidegateError):
    """The address in the request line exceeds its bound."""

    code = "target_too_long"


def content_length(headers: Mapping[bytes, bytes]) -> int:
    """Return how many bytes a request says its body has; 0 if it does not say."""
    # the parser has taken nothing from 2**64 on, but any number of zeros before it
    return int(headers.get(b"content-length", b"0")[-20:])


class TimedOut(TidegateError):
    """The client did not finish its request in time."""

    code = "request_timeout"


def internal_error() -> TidegateError:
    """Return what a caller is told of a defect of ours."""
    return TidegateError(
        "The server failed on this request.", hint="The fault is in its log, not in your request."
    )


class Handler(Protocol):
    """What answers one resource and method."""

    @property
    def max_body_bytes(self) -> int:
        """Bound of the body, also after decompression."""
        ...

    @property
    def door(self) -> Door | None:
        """Who may turn requests away on their headers; None where all are let in."""
        ...

    def admit(self, exchange: Exchange) -> None:
        """Look at the headers alone; raise to refuse before the body is read."""
        ...

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Answer, now or later, by `exchange.respond`. May raise a TidegateError instead."""
        ...

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Answer with an error in the shape of this face."""
        ...


class Exchange:
    """One request and the place of its answer in the order of the connection."""

    __slots__ = (
        "connection",
        "handler",
        "headers",
        "is_old",
        "keep_alive",
        "method",
        "on_abandon",
        "payload",
        "target",
        "wish",
    )

    def __init__(self, connection: Connection, head: Head | None = None) -> None:
        self.connection = connection
        if head is None:
            self.target = b""
            self.method = b""
            self.headers: dict[bytes, bytes] = {}
            self.handler: Handler
            self.wish: Wish | None = None
        else:
            self.target, self.method, self.headers, self.handler, self.wish = (
                head.target,
                head.method,
                head.headers,
                head.handler,
                head.wish,
            )
        self.keep_alive = True
        self.is_old = False  # HTTP/1.0, where staying open has to be said
        self.payload: bytes | None = None
        self.on_abandon: Any = None

    def respond(
        self, status: int, body: bytes, *, content_type: bytes = b"application/json", headers: bytes = b""
    ) -> None:
        """Send the answer as soon as those owed before it are sent.

        Args:
            status: HTTP status.
            body: The whole body.
            content_type: Its media type.
            headers: Further header lines, each ending in CR LF.
        """
        connection = self.connection
        self.on_abandon = None
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        elif self.is_old:
            headers += b"connection: keep-alive\r\n"
        head = connection.site.head(status, content_type)
        if self.method == b"HEAD":
            self.payload = b"%b%d\r\n%b\r\n" % (head, len(body), headers)
        else:
            self.payload = b"%b%d\r\n%b\r\n%b" % (head, len(body), headers, body)
        connection.flush()


class Head(NamedTuple):
    """A request's head that was read before and is read no more: clients repeat theirs to the byte.

    Attributes:
        target, method, headers: What the parser made of it; not to be changed.
        handler: Who answers it.
        length: Bytes of the body that follows.
        door: Who decides on the headers whether it is let in; None where everything is.
        wish: What the headers say of how it wants to be treated, where there is a door.
    """

    target: bytes
    method: bytes
    headers: dict[bytes, bytes]
    handler: Handler
    length: int
    door: Door | None
    wish: Wish | None
