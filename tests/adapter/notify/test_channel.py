"""Messages over a real socket."""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from datetime import date

import msgspec
import pytest

from tests.journal.fake import FakeClock
from tests.receiver import receiving
from tidegate.adapter.notify import channel as channel_module
from tidegate.adapter.notify.channel import Webhook, channels_of
from tidegate.adapter.notify.shelf import FileShelf
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
    """Address of a hook, what was posted to it, and the statuses it answers before 204."""
    with receiving(status=204) as found:
        yield f"{found.url}/hook?token=secret", found.posts, found.statuses


def test_a_signal_is_posted_with_its_id(server, signal):
    url, received, _ = server

    Webhook(url).send(signal)

    (post,) = received
    body = json.loads(post.body)
    assert post.headers["idempotency-key"] == signal.id
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


@contextmanager
def trickling(begin, piece):
    """Address of a receiver that begins an answer, and goes on piece by piece without end."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with suppress(OSError), listener.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(begin)
                while not ended.wait(0.05):
                    connection.sendall(piece)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("scheme", "begin", "piece"),
    [
        ("http", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        ("http", b"HTTP/1.1 200 ", b"O"),
        ("http", b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", b"body"),
        ("https", b"\x16\x03\x03\x40\x00", b"\x02"),  # a handshake's record of 16 KiB
    ],
)
def test_an_answer_that_trickles_in_is_ended_in_time(monkeypatch, signal, scheme, begin, piece):
    monkeypatch.setattr(channel_module, "_TIMEOUT_S", 0.4)
    with trickling(begin, piece) as address:
        started = time.monotonic()
        with pytest.raises(NotDelivered, match=r"within 0.4 s"):
            Webhook(f"{scheme}://{address}/hook").send(signal)
        assert time.monotonic() - started < 5


def test_a_channel_that_hangs_or_fails_holds_up_no_other(signal):
    let_go, told = threading.Event(), []

    class Stuck:
        key = name = "stuck"

        def send(self, signal):
            let_go.wait(30)

    class Broken:
        key = name = "broken"

        def send(self, signal):
            raise ValueError("secret")

    class Door:
        key = name = "door"

        def send(self, signal):
            told.append(signal.id)

    box = Outbox([Stuck(), Broken(), Door()], clock=FakeClock())
    box.put([signal])
    courier = threading.Thread(target=box.deliver, args=("stuck",))
    courier.start()

    assert box.deliver("broken") == ["broken: It failed with ValueError."]
    assert box.deliver("door") == []
    assert told == [signal.id]
    assert box.n_waiting == 2
    let_go.set()
    courier.join()
    assert (box.n_waiting, box.n_delivered) == (1, 2)


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


class Memory:
    """A shelf that can be copied, as a crash would leave it."""

    def __init__(self, content=None):
        self.content = content

    def load(self):
        return self.content

    def save(self, content):
        self.content = content


def test_what_waits_outlives_the_process_and_is_told_once(server, signal, tmp_path):
    url, received, statuses = server
    statuses += [500]
    clock, shelf = FakeClock(), FileShelf(tmp_path / "alerts.json")
    before = Outbox([Webhook(url)], clock=clock, shelf=shelf)
    before.put([signal])
    before.deliver()

    after = Outbox([Webhook(url)], clock=clock, shelf=shelf)
    assert after.due_s == pytest.approx(5)
    after.put([signal])
    assert after.deliver() == []  # not before its time, restart or not
    clock.forward(5)
    after.deliver()
    last = Outbox([Webhook(url)], clock=clock, shelf=shelf)
    last.put([signal])
    last.deliver()

    assert len(received) == 2
    assert (after.n_delivered, last.n_waiting) == (1, 0)
    assert (tmp_path / "alerts.json").stat().st_mode & 0o077 == 0


def test_a_crash_at_any_save_loses_nothing_and_repeats_one_message_at_most(signal):
    """Every state that was ever saved is taken up again by a fresh outbox."""
    others = [msgspec.structs.replace(signal, id=f"{n:012x}") for n in range(3)]
    sent, saved, shelf = [], [None], Memory()
    shelf.save = saved.append

    class Door:
        key = name = "door"

        def send(self, signal):
            sent.append((len(saved), signal.id))

    box = Outbox([Door()], clock=FakeClock(), shelf=shelf)
    box.put(others)
    box.deliver()
    first_life = list(sent)
    for place, content in enumerate(saved):
        sent.clear()
        again = Outbox([Door()], clock=FakeClock(), shelf=Memory(content))
        again.put(others)
        again.deliver()
        # the message after the last save may have left when the process ended
        told = [each for at, each in first_life if at <= place + 1] + [each for _, each in sent]
        assert set(told) == {each.id for each in others}
        assert len(told) <= 4
    assert len(saved) == 5


def test_what_is_over_or_seen_meanwhile_is_told_so_or_not_at_all(signal):
    clock, told = FakeClock(), []

    class Door:
        key = name = "door"

        def send(self, signal):
            if clock.now_us == FakeClock().now_us:
                raise NotDelivered("shut")
            told.append(message(signal))

    book = SignalBook("loans", signals=[signal])
    box = Outbox([Door()], clock=clock)
    box.put(book.signals)
    box.deliver()
    book.resolve(signal.id, date(2026, 5, 4), "not found again")
    box.put(book.signals)
    clock.forward(60)
    box.deliver()
    box.put(book.signals)

    assert len(told) == 1
    assert "Over since 2026-05-04" in told[0]

    book = SignalBook("loans", signals=[signal])
    seen = Outbox([Door()], clock=FakeClock())
    seen.put(book.signals)
    book.acknowledge(signal.id, "ada")
    seen.put(book.signals)
    assert seen.n_waiting == 0


def test_a_shelf_that_cannot_be_written_is_said_and_delivery_goes_on(server, signal, tmp_path):
    url, received, _ = server
    box = Outbox([Webhook(url)], clock=FakeClock(), shelf=FileShelf(tmp_path / "no folder" / "alerts.json"))

    assert "could not be saved" in box.put([signal])[0]
    box.deliver()

    assert len(received) == 1


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
def test_apprise_itself_hands_a_signal_to_a_real_receiver(server, signal):
    pytest.importorskip("apprise")
    url, received, statuses = server
    statuses += [500]
    (channel,) = channels_of([url.replace("http://", "json://")])

    with pytest.raises(NotDelivered):
        channel.send(signal)
    channel.send(signal)

    body = json.loads(received[-1].body)
    assert body["title"] == "Mean loss rose"
    assert body["type"] == "failure"
    assert "tidegate signals show" in body["message"]
    assert "secret" not in channel.name + channel.key


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
