"""One client connection: bytes to exchanges, and answers back in the order of the requests.

An `asyncio.Protocol` over llhttp instead of an ASGI server, because at tens of thousands of
requests a second the ASGI layers cost as much as everything else together, and because a refusal
has to happen on the headers, before a body is read.
"""

from __future__ import annotations

import asyncio
import re
import string
from collections import deque
from functools import lru_cache
from http import HTTPMethod
from typing import TYPE_CHECKING, Any

import httptools

from tidegate.core.error import TidegateError
from tidegate.serving.http.coding import UnsupportedEncoding, body_too_large, decompress
from tidegate.serving.http.exchange import (
    Exchange,
    Head,
    HeadTooLarge,
    HttpError,
    TargetTooLong,
    TimedOut,
    content_length,
    internal_error,
)

if TYPE_CHECKING:
    from tidegate.serving.http.site import Site

MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
_KNOWN = b"|".join(method.encode() for method in HTTPMethod)
_UNKNOWN_METHOD = re.compile(rb"(?!(?:%b) )[!#$%%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]\r?\n" % _KNOWN)
MAX_KNOWN_HEADS = 1024
MAX_KNOWN_HEAD_BYTES = 4096
_SPECIAL_HEADERS = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
_LISTS = frozenset({b"accept-encoding", b"connection", b"content-encoding", b"expect", b"transfer-encoding"})
"""Headers of which several lines are one list (RFC 9110, section 5.3)."""
_HOST_BYTES = (string.ascii_letters + string.digits + "-._~!$&'()*+,;=%:[]").encode()
"""What a host and port are written with (RFC 3986, section 3.2)."""
MAX_PIPELINED = 64
"""Answers owed on one connection before it is read no further."""
MAX_DISCARDED_BYTES = 256 << 10
"""Body of a refused request that is read and dropped to keep the connection; above, it is closed."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBES = 3
PROBE_S = 0.01
"""Longer than a reset takes on its way back within a data centre, and than most answers take."""
MAX_FRAMING_BYTES = 2 * MAX_HEAD_BYTES
"""Of a chunked body: what its chunk extensions and trailer may be."""
_FRAMING_A_BYTE = 8
"""What a byte of a chunked body may come with: one in a chunk of its own takes 6."""
MAX_LINGERED_BYTES = 64 << 20
"""What a client may go on sending after its connection is half closed, before it is cut."""


class _Over(Exception):
    """Stops the parser."""


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_closing",
        "_declined",
        "_discarding",
        "_exchange",
        "_expecting",
        "_framing_bytes",
        "_fresh_head",
        "_head_bytes",
        "_n_headers",
        "_owed",
        "_parser",
        "_reading_paused",
        "_transport",
        "_unread",
        "_write_paused",
        "site",
        "state",
        "touched_s",
    )

    def __init__(self, site: Site) -> None:
        self.site = site
        self.state = "idle"  # idle | head | body: what the client owes; linger: answered, not read on
        self.touched_s = site.now_s
        self._transport: asyncio.Transport
        self._parser: Any = None
        self._exchange = Exchange(self)
        self._owed: deque[Exchange] = deque()
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._fresh_head = False
        self._framing_bytes = 0
        self._n_headers = 0
        self._discarding = False
        self._declined: Exchange | None = None  # offers an upgrade; to be read again without
        self._expecting: Exchange | None = None  # its client waits to be asked for the body
        self._closing = False  # no further request is taken; the end comes after what is owed
        self._unread = False
        self._reading_paused = False
        self._write_paused = False

    @property
    def peer(self) -> str:
        """The client's network address."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream server gives a Transport
        self._parser = httptools.HttpRequestParser(self)
        self.site.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.site.connections.discard(self)
        self._closing = True
        self._unread = False
        for exchange in self._owed:
            if exchange.on_abandon is not None:
                exchange.on_abandon()
        self._owed.clear()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._discard(data)
            return
        end, before, n_before = 0, self._exchange, self._body_bytes
        if self.state == "idle":
            end = data.find(b"\r\n\r\n") + 4
            head = self.site.heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                if head.door is not None and head.wish is not None:
                    payload = head.door.turn_away(head.wish, self)
                    if payload is not None:
                        self._turn_away(head, payload)
                        return
                self._take(head, data[end:])
                return
        rest = self._feed(data)
        if rest is not None:
            self._decline(rest)
        if self.state == "head":
            self._count_head(len(data))
        elif self.state == "body":
            if self._exchange is before and b"transfer-encoding" in before.headers:
                self._count_framing(len(data), self._body_bytes - n_before)
        elif end > 3 and self.state == "idle" and self._exchange is not before and not self._closing:
            self._remember(data[:end], len(data) - end)

    def _take(self, head: Head, body: bytes) -> None:
        """Answer a request whose head is known and whose body is whole."""
        self._exchange = exchange = Exchange(self, head)
        self.touched_s = self.site.now_s
        self._owed.append(exchange)
        if head.wish is None:  # else the door has let it in; what it could not read, it has to refuse again
            try:
                head.handler.admit(exchange)
            except TidegateError as error:
                head.handler.refuse(exchange, error)
                return
        self._handle(exchange, body)

    def _turn_away(self, head: Head, payload: bytes) -> None:
        """Send a refusal that was ready: its body is not looked at, and the connection stays."""
        self.touched_s = self.site.now_s
        self.site.count_turned_away()
        if not self._owed:
            self._transport.write(payload)
            return
        self._exchange = exchange = Exchange(self, head)
        exchange.payload = payload
        self._owed.append(exchange)

    def _remember(self, raw: bytes, length: int) -> None:
        """Keep the head of a plain request that came alone and whole, if there is nothing special in it."""
        exchange, heads = self._exchange, self.site.heads
        headers = exchange.headers
        if (
            exchange.keep_alive
            and not exchange.is_old
            and not _SPECIAL_HEADERS & headers.keys()
            and headers.get(b"content-length", b"0") == b"%d" % length
            and length <= exchange.handler.max_body_bytes
            and len(raw) <= MAX_KNOWN_HEAD_BYTES
        ):
            if len(heads) >= MAX_KNOWN_HEADS:
                heads.clear()
            door = exchange.handler.door
            heads[raw] = Head(
                exchange.target, exchange.method, headers, exchange.handler, length, door, exchange.wish
            )

    def _feed(self, data: bytes | memoryview) -> memoryview | None:
        """Parse bytes; return what follows a request that offers to upgrade, else None."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parser = httptools.HttpRequestParser(self)  # this one is at its end
            return memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserInvalidMethodError) and _UNKNOWN_METHOD.match(data):
                self._fail(HttpError("This method is not known.", hint="Methods are GET, HEAD and POST."))
                return None
            hint = "Check the request line, headers and framing."
            self._fail(HttpError(f"This is not HTTP/1.1: {error}.", hint=hint))
        return None

    def _decline(self, rest: memoryview | None) -> None:
        """Decline an upgrade by going on in HTTP/1.1 (RFC 9110, section 7.8)."""
        while rest is not None and not self._closing:
            declined, self._declined = self._declined, None
            if declined is not None:
                self._feed(_without_upgrade(declined))
            rest = self._feed(rest) if rest else None

    def _count_head(self, n_bytes: int) -> None:
        """Bound a head that the parser holds back, such as a header that never ends."""
        if self._fresh_head:  # how much of these bytes was of this head is not known: one read is free
            self._fresh_head = False
            return
        self._head_bytes += n_bytes
        if self._head_bytes > 2 * MAX_HEAD_BYTES:
            self._fail(_head_too_large())

    def _count_framing(self, n_bytes: int, n_body: int) -> None:
        """Bound what comes with a chunked body and is none of it, such as a trailer that never ends."""
        self._framing_bytes = max(0, self._framing_bytes + n_bytes - (1 + _FRAMING_A_BYTE) * n_body)
        if self._framing_bytes > MAX_FRAMING_BYTES:
            self._fail(HeadTooLarge(f"Chunk extensions or trailer exceed {MAX_FRAMING_BYTES} bytes."))

    def eof_received(self) -> bool:
        # A client may shut its sending side and still wait for the answers it is owed.
        self._closing = True
        self._unread = False
        if self.state == "body" and self._owed and self._owed[-1] is self._exchange and not self._discarding:
            self._owed.pop()  # its body will never be whole
        if self._owed and self._parser.get_http_version() != "1.0":
            asyncio.get_running_loop().call_later(PROBE_S, self._probe)
        return bool(self._owed)

    def _probe(self, n_left: int = PROBES) -> None:
        """Find out whether a client that has finished sending still reads, for its work is waiting.

        To the server a client that is gone looks like one that only shut its sending side. To the
        first of a few interim answers (RFC 9110, section 15.2) the system of a client that is gone
        answers by a reset, on which the next one fails, and the connection is lost. Others skip them.
        """
        if not self._owed or self._transport.is_closing():
            return
        self._transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        if n_left > 1:
            asyncio.get_running_loop().call_later(PROBE_S, self._probe, n_left - 1)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._resume_reading()

    # --- httptools callbacks, in the order of a message ---

    def on_message_begin(self) -> None:
        if self._closing:
            raise _Over
        self.state = "head"
        self.touched_s = self.site.now_s
        self._exchange = Exchange(self)
        self._head_bytes = 0
        self._fresh_head = True
        self._framing_bytes = 0
        self._n_headers = 0
        self._discarding = False

    def on_url(self, url: bytes) -> None:
        self._exchange.target += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise TargetTooLong(f"The request target exceeds {MAX_HEAD_BYTES} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._n_headers += 1
        if self._head_bytes > MAX_HEAD_BYTES or self._n_headers > MAX_HEADERS:
            raise _head_too_large()
        if self.state == "head":  # what comes after the body may not change what was decided before it
            name = name.lower()
            value = value.rstrip()  # the parser takes white space off its beginning only
            headers = self._exchange.headers
            if name in headers:
                if name == b"host":
                    raise _no_one_host()
                if name in _LISTS:
                    value = headers[name] + b", " + value
            headers[name] = value

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        exchange.method = self._parser.get_method()
        if b"upgrade" in exchange.headers and self._parser.should_upgrade():
            # The parser takes what follows for the other protocol, even where it is this request's body.
            self._declined = exchange
            exchange.is_old = self._parser.get_http_version() != "1.1"
            return
        self.state = "body"
        exchange.keep_alive = self._parser.should_keep_alive() and not self.site.draining
        if exchange.keep_alive and b"connection" in exchange.headers:
            exchange.is_old = self._parser.get_http_version() == "1.0"
            if exchange.is_old and b"transfer-encoding" in exchange.headers:
                exchange.keep_alive = False  # where its body ends is not certain (RFC 9112, section 6.1)
        self._owed.append(exchange)
        exchange.handler = self.site.find(exchange.method, exchange.target)
        try:
            host = exchange.headers.get(b"host")
            if host is None:
                if self._parser.get_http_version() != "1.0":
                    raise _no_one_host()
            elif not _is_host(host):
                raise HttpError("The Host header names no host.", hint="Send host or host:port.")
            _check_framing(exchange)
            exchange.handler.admit(exchange)
        except TidegateError as error:
            self._refuse_on_headers(exchange, error)
            return
        if b"expect" in exchange.headers:
            self._continue(exchange)

    def _continue(self, exchange: Exchange) -> None:
        """Ask for the body, where the client waits for that (RFC 9110, section 10.1.1)."""
        expected = exchange.headers[b"expect"].lower().split(b",")
        is_asked = b"100-continue" in map(bytes.strip, expected)
        if not is_asked or self._parser.get_http_version() == "1.0":
            return
        # an interim answer would be taken for that of the first request that still waits for one
        if self._owed[0] is exchange:
            self._transport.write(_CONTINUE)
        else:
            self._expecting = exchange

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._discarding:
            return
        if self._body_bytes > self._exchange.handler.max_body_bytes:
            self._body = b""
            self._refuse_on_headers(self._exchange, body_too_large(self._exchange.handler.max_body_bytes))
            return
        if not self._body:
            self._body = body
        else:  # gathered as they come: each of very small pieces costs tens of bytes if it is kept
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self.state == "linger" or self._declined is not None:
            return
        exchange = self._exchange
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        self._body = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._expecting = None
        self.state = "idle"
        self.touched_s = self.site.now_s
        if not exchange.keep_alive:
            self._closing = True
        if self._discarding:
            self._discarding = False
        else:
            self._handle(exchange, body)

    def _handle(self, exchange: Exchange, body: bytes) -> None:
        handler = exchange.handler
        try:
            if b"content-encoding" in exchange.headers:
                body = decompress(body, exchange.headers[b"content-encoding"], handler.max_body_bytes)
            handler.handle(exchange, body)
        except TidegateError as error:
            handler.refuse(exchange, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must cost one request only
            self.site.report_defect(error)
            handler.refuse(exchange, internal_error())
        if len(self._owed) >= MAX_PIPELINED:
            self._pause_reading()

    # --- answers ---

    def flush(self) -> None:
        """Write the answers that are ready and whose predecessors are written."""
        owed = self._owed
        while owed and (payload := owed[0].payload) is not None:
            exchange = owed.popleft()
            self._transport.write(payload)
            if not exchange.keep_alive:
                owed.clear()
                self._closing = True
                break
        if owed and owed[0] is self._expecting and not self._closing:
            self._expecting = None
            self._transport.write(_CONTINUE)
        if not owed and self._closing:
            self._close()
        elif self._reading_paused:
            self._resume_reading()

    @property
    def owes(self) -> bool:
        """Whether answers are still to be sent."""
        return bool(self._owed)

    def time_out(self) -> None:
        """Give up on a client that did not finish its request, or close an idle connection."""
        if self._transport.is_closing():
            self._transport.abort()  # it does not even read its answers
        elif self.state in ("idle", "linger"):
            self._transport.close()
        else:
            self._fail(
                TimedOut(
                    "The request was not complete in time.", hint="Send headers and body without long pauses."
                )
            )

    def close_when_idle(self) -> None:
        """Close now if nothing is under way, else after the answers that are owed."""
        if self.state == "idle" and not self._owed:
            self._transport.close()

    # --- refusals ---

    def _refuse_on_headers(self, exchange: Exchange, error: TidegateError) -> None:
        self._discarding = True
        if b"transfer-encoding" in exchange.headers or content_length(exchange.headers) > MAX_DISCARDED_BYTES:
            exchange.keep_alive = False
            self._closing = self._unread = True
        elif b"expect" in exchange.headers:
            exchange.keep_alive = False  # whether the body still comes cannot be known
            self._closing = self._unread = True
        exchange.handler.refuse(exchange, error)

    def _close(self) -> None:
        """Close after the last answer; where the client is still sending, let it read that first.

        Closing a socket with unread bytes resets it, and the reset may overtake the answer.
        """
        if self._unread and self._transport.can_write_eof():
            self._transport.write_eof()
            self.state = "linger"
            self.touched_s = self.site.now_s
            self._body_bytes = 0
        else:
            self._transport.close()

    def _discard(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_LINGERED_BYTES:
            self._transport.close()

    def _fail(self, error: BaseException) -> None:
        """Answer a request that cannot be read on with an error, and close."""
        if self._closing:  # the last answer is on its way, or owed
            return
        if not isinstance(error, TidegateError):
            self.site.report_defect(error)
            error = internal_error()
        self._closing = self._unread = True
        exchange = self._exchange
        if self.state == "body":
            if exchange.payload is not None:  # refused on its headers
                self.flush()
                return
        else:
            if self.state != "head":
                exchange = Exchange(self)
            exchange.handler = self.site.find(b"GET", exchange.target or b"/")
            self._owed.append(exchange)
        exchange.keep_alive = False
        exchange.handler.refuse(exchange, error)

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if (
            self._reading_paused
            and not self._write_paused
            and len(self._owed) < MAX_PIPELINED
            and not self._transport.is_closing()
        ):
            self._reading_paused = False
            self._transport.resume_reading()


def _without_upgrade(exchange: Exchange) -> bytes:
    """Return the head of a request as it would have been without its offer to upgrade."""
    version = b"1.0" if exchange.is_old else b"1.1"
    lines = [b"%b %b HTTP/%b" % (exchange.method, exchange.target, version)]
    for name, value in exchange.headers.items():
        if name == b"connection":
            tokens = [token.strip().lower() for token in value.split(b",")]
            lines += [b"connection: " + token for token in (b"close", b"keep-alive") if token in tokens]
        elif name not in (b"upgrade", b"http2-settings"):
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join((*lines, b"", b""))


def _no_one_host() -> HttpError:
    return HttpError(
        "A request of HTTP/1.1 names its host once.", hint="Send one Host header (RFC 9112, section 3.2)."
    )


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return not value.translate(None, _HOST_BYTES)


def _check_framing(exchange: Exchange) -> None:
    headers = exchange.headers
    if b"content-length" in headers:
        if content_length(headers) > exchange.handler.max_body_bytes:
            raise body_too_large(exchange.handler.max_body_bytes)
    elif b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
        raise UnsupportedEncoding(
            "No transfer encoding is taken but chunked.", hint="Say a compression in Content-Encoding."
        )


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request line and headers exceed {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers."
    )
