"""A client that keeps a few requests under way on a few connections, and notes how long each took."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
from collections.abc import Sequence
from time import perf_counter

from tidegate.core.error import TidegateError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END = b"\r\n\r\n"
_WAIT_S = 30.0
_FALLBACK = b'"answered_by"'


class NoPort(TidegateError):
    """There is no free port on this machine."""

    code = "no_port"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now.

    Raises:
        NoPort: There are none.
    """
    try:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return [int(each.getsockname()[1]) for each in sockets]
    except OSError as error:
        raise NoPort(f"No port can be had on this machine: {error}.") from error


class _Line:
    """One connection with at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=_WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_s = 0.0
        self._data = b""

    def send(self, request: bytes) -> None:
        self._data = b""
        self.sent_s = perf_counter()
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Take what has come; return status and body once the answer is whole.

        Raises:
            ConnectionError: The connection ended before.
        """
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the connection was closed")
        self._data += piece
        head_end = self._data.find(_END)
        if head_end < 0:
            return None
        length = _LENGTH.search(self._data, 0, head_end + 2)
        body_at = head_end + len(_END)
        if length is None or len(self._data) - body_at < int(length[1]):
            return None
        return int(self._data[9:12]), self._data[body_at : body_at + int(length[1])]


class Load:
    """Requests to one path, over and over, on connections that stay open."""

    def __init__(
        self, address: tuple[str, int], path: str, bodies: Sequence[bytes], *, n_connections: int
    ) -> None:
        """Connect.

        Args:
            address: Host and port.
            path: Where to.
            bodies: JSON bodies, sent round and round; at least one.
            n_connections: Requests under way at once.

        Raises:
            OSError: Nobody listens there.
        """
        self._head = (
            f"POST {path} HTTP/1.1\r\nhost: {address[0]}\r\ncontent-type: application/json\r\n"
            # How long an answer takes is what is asked: nothing may be refused because it might be late.
            f"tidegate-timeout-ms: {_WAIT_S * 1000:.0f}\r\n"
        )
        self._requests = [self._request(body) for body in bodies]
        self._next = 0
        self._lines = [_Line(address) for _ in range(n_connections)]

    def send(self, n_requests: int) -> tuple[list[float], int]:
        """Send requests, a new one on each connection as soon as the one before is answered.

        Returns:
            Microseconds from sending to the whole answer, one a request; and how many were not
            answered by the model.

        Raises:
            OSError: A connection ended, or no answer came within half a minute.
        """
        latency_us: list[float] = []
        n_failed = 0
        n_sent = 0
        with selectors.DefaultSelector() as selector:
            for line in self._lines[:n_requests]:
                selector.register(line.socket, selectors.EVENT_READ, line)
                line.send(self._take())
                n_sent += 1
            while len(latency_us) < n_requests:
                ready = selector.select(_WAIT_S)
                if not ready:
                    raise TimeoutError(f"no answer within {_WAIT_S:g} s")
                for key, _ in ready:
                    line = key.data
                    answer = line.receive()
                    if answer is None:
                        continue
                    latency_us.append((perf_counter() - line.sent_s) * 1e6)
                    n_failed += answer[0] != 200 or _FALLBACK in answer[1]
                    if n_sent < n_requests:
                        line.send(self._take())
                        n_sent += 1
        return latency_us, n_failed

    def ask(self, body: bytes) -> tuple[int, bytes]:
        """Send one request and return status and body.

        Raises:
            OSError: The connection ended, or no answer came.
        """
        line = self._lines[0]
        line.send(self._request(body))
        while (answer := line.receive()) is None:
            pass
        return answer

    def close(self) -> None:
        for line in self._lines:
            line.socket.close()

    def _take(self) -> bytes:
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        return request

    def _request(self, body: bytes) -> bytes:
        return f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body
