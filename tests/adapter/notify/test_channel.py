"""Messages over a real socket."""

import json
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.journal.fake import FakeClock
from tidegate.adapter.notify.channel import Webhook, channels_of
from tidegate.core.error import InvalidSetting, MissingExtra
from tidegate.monitoring.alert import GIVE_UP_S, NotDelivered, Outbox, message
from tidegate.monitoring.signal import Finding, Severity, SignalBook


@pytest.fixture
def signal():
    finding = Finding(
        "risk", ("realised loss",), "Mean loss rose", Severity.CRITICAL, {}, "Roll back.", "+9%"
    )
    (found,) = SignalBook("loans", owner="ada").update(date(2026, 5, 1), [finding])
    return found


@pytest.fixture
def server():
    """A receiver that answers with the statuses it is told, then with 204."""
    received, statuses = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.headers["idempotency-key"], json.loads(body)))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}/hook?token=secret", received, statuses
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_a_signal_is_posted_with_its_id(server, signal):
    url, received, _ = server

    Webhook(url).send(signal)

    ((key, body),) = received
    assert key == signal.id
    assert body["signal"]["title"] == "Mean loss rose"
    assert "tidegate signals show" in body["text"]


def test_what_is_not_delivered_is_tried_again_later_and_once_more(server, signal):
    url, received, statuses = server
    statuses += [500, 503]
    clock = FakeClock()
    outbox = Outbox([Webhook(url)], clock=clock)
    outbox.put([signal])

    assert "500" in outbox.deliver()[0]
    assert outbox.deliver() == []  # not due yet
    clock.forward(5)
    assert "503" in outbox.deliver()[0]
    clock.forward(9)
    assert outbox.deliver() == []
    clock.forward(1)
    assert outbox.deliver() == []
    assert (outbox.n_delivered, outbox.n_waiting, len(received)) == (1, 0, 3)


def test_a_door_that_stays_shut_for_a_day_is_given_up(signal):
    clock = FakeClock()
    outbox = Outbox([Webhook("http://127.0.0.1:1/closed")], clock=clock)
    outbox.put([signal])
    outbox.deliver()

    clock.forward(GIVE_UP_S)
    outbox.deliver()

    assert (outbox.n_given_up, outbox.n_waiting) == (1, 0)


def test_a_secret_in_an_address_is_in_no_message(signal):
    hook = Webhook("http://127.0.0.1:1/hook?token=secret")

    with pytest.raises(NotDelivered) as failed:
        hook.send(signal)

    assert "secret" not in f"{failed.value} {hook.name} {message(signal)}"


def test_acknowledged_signals_are_not_put(signal):
    book = SignalBook("loans", signals=[signal])
    book.acknowledge(signal.id, "ada")
    outbox = Outbox([Webhook("http://127.0.0.1:1")], clock=FakeClock())

    outbox.put(book.signals)

    assert outbox.n_waiting == 0


def test_addresses_are_told_apart():
    assert [each.name for each in channels_of(["https://hooks.example/x", " "])] == ["webhook hooks.example"]
    with pytest.raises(InvalidSetting, match="no scheme"):
        channels_of(["hooks.example"])


def test_apprise_addresses_name_the_extra_that_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "apprise", None)

    with pytest.raises(MissingExtra, match="apprise"):
        channels_of(["mailto://somebody@example.org"])


def test_apprise_is_asked_and_its_refusal_is_tried_again(monkeypatch, signal):
    import sys
    import types

    asked = []

    class Apprise:
        def add(self, url):
            return not url.startswith("strange")

        def notify(self, **given):
            asked.append(given)
            return len(asked) > 1

    monkeypatch.setitem(sys.modules, "apprise", types.SimpleNamespace(Apprise=Apprise))
    (channel,) = channels_of(["slack://token"])

    with pytest.raises(NotDelivered):
        channel.send(signal)
    channel.send(signal)
    assert asked[1]["notify_type"] == "failure"
    assert channel.name == "apprise slack"
    with pytest.raises(InvalidSetting, match="strange"):
        channels_of(["strange://x"])
