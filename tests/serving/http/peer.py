"""A client that sends exactly the bytes it is told to."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.serving.http.harness import Server


class Answer(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Closed(Exception):
    """The server closed the connection where an answer was expected."""


class Peer:
    """One connection."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=10)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes | str) -> None:
        for part in parts:
            self.socket.sendall(part.encode() if isinstance(part, str) else part)

    def send_until_cut(self, piece: bytes | str) -> None:
        """Send a piece a hundred times, or until the server has closed the connection."""
        with suppress(OSError):
            for _ in range(100):
                self.send(piece)

    def finish(self) -> None:
        """Say that nothing more is sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection off."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, *, head_only: bool = False) -> Answer:
        """Read one answer."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if int(status) == 102:  # says only that the answer is still being made
            return self.answer(head_only=head_only)
        if int(status) < 200 or head_only:
            return Answer(int(status), headers, b"")
        length = int(headers["content-length"])
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(int(status), headers, body)

    def rest(self) -> bytes:
        """Read until the server closes."""
        while True:
            try:
                self._more()
            except Closed:
                found, self._buffer = self._buffer, b""
                return found

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed, and sent nothing before it."""
        return self.rest() == b""

    def _more(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(self._buffer[:200])
        self._buffer += data


def request(
    body: bytes | str = b'{"x": 1}',
    *,
    method: str = "POST",
    path: str = "/services/echo/predict",
    version: str = "1.1",
    headers: str = "",
) -> bytes:
    """Return the bytes of a request."""
    data = body.encode() if isinstance(body, str) else body
    framed = any(line.startswith(("Content-Length:", "Transfer-Encoding:")) for line in headers.split("\r\n"))
    length = "" if framed else f"Content-Length: {len(data)}\r\n"
    return f"{method} {path} HTTP/{version}\r\nHost: t\r\n{length}{headers}\r\n".encode() + data
