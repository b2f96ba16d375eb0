"""A receiver of messages by HTTP, for what sends them: it answers with the statuses it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import NamedTuple


class Post(NamedTuple):
    """A message that came, and what was answered."""

    path: str
    headers: HTTPMessage
    body: bytes
    status: int


class Receiver(NamedTuple):
    """Where it listens, what came, and what the next ones are answered."""

    url: str
    posts: list[Post]
    statuses: list[int]


@contextmanager
def receiving(*, status: int) -> Iterator[Receiver]:
    """Listen; where no status was told, `status` is the answer."""
    posts: list[Post] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = statuses.pop(0) if statuses else status
            posts.append(Post(self.path, self.headers, body, answer))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Receiver(f"http://127.0.0.1:{listener.server_port}", posts, statuses)
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
