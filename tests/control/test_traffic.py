"""Rollback and safe mode over the control port."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.control.test_app import FakePlane, get
from tidegate.control.app import make_app
from tidegate.core.decision import Decision
from tidegate.core.principal import Principal
from tidegate.operation.release import Moved
from tidegate.operation.rollback import MovedBack
from tidegate.release.move import NothingToRollBack

ANA = Principal("ana@laptop")


class Moving(FakePlane):
    def __init__(self):
        super().__init__()
        self.asked = []

    def _moved(self, service, kind):
        return Moved(Decision(kind, service, "committed", ANA, 0, version=1), 7)

    def roll_back(self, service, request):
        self.asked.append((service, request.to, request.keep, request.reason))
        if service == "first":
            raise NothingToRollBack("No earlier version.", hint="Register one.")
        return MovedBack(service, {"local": self._moved(service, "rollback")}, 1)

    def change_safe_mode(self, service, request):
        self.asked.append((service, request.on))
        return self._moved(service, "safe-mode-on")

    def release(self, service):
        self.asked.append((service, "release"))
        return {"service": service}

    def steer(self, service, word, request):
        self.asked.append((service, word, request.reason))
        return {"number": 7}


def post(plane, path, body, content_type="application/json"):
    async def call():
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(b"content-type", content_type.encode())],
            "server": ("127.0.0.1", 8081), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await make_app(plane)(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        ("/rollback", b"{}", ("", None, False, "")),
        ("/services/flights/rollback", b'{"to":3,"keep":true,"reason":"r"}', ("flights", 3, True, "r")),
        ("/services/flights/safe-mode", b'{"on":true}', ("flights", True)),
        ("/services/flights/release/pause", b'{"reason":"r"}', ("flights", "pause", "r")),
        ("/services/flights/release/abort", b"{}", ("flights", "abort", "")),
    ],
)
def test_what_is_said_reaches_the_plane(path, body, asked):
    plane = Moving()

    status, said = post(plane, path, body)

    assert (status, said["number"], plane.asked) == (200, 7, [asked])


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "words"),
    [
        ("/rollback", b"{}", "text/plain", 400, "application/json"),
        ("/rollback", b"", "application/json", 400, "cannot be read"),
        ("/rollback", b'{"too":1}', "application/json", 400, "too"),
        ("/services/flights/safe-mode", b"{}", "application/json", 400, "on"),
        ("/rollback", b" " * 70_000, "application/json", 400, "65536"),
        ("/services/first/rollback", b"{}", "application/json", 409, "No earlier version"),
        ("/services/flights/release/dance", b"{}", "application/json", 404, "not told to 'dance'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(path, body, content_type, status, words):
    plane = Moving()

    answered, said = post(plane, path, body, content_type)

    assert answered == status
    assert words in said["error"]["message"]


def test_a_release_is_shown():
    plane = Moving()

    answer = get(plane, "/services/flights/release")

    assert (answer.status, answer.json(), plane.asked) == (
        200,
        {"service": "flights"},
        [("flights", "release")],
    )
