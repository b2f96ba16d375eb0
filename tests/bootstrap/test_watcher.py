"""The watcher looks at a real home with a clock that is told the time."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.journal.fake import FakeClock
from tests.monitoring.home import BREAK, LAST, N_DAYS, fill
from tests.monitoring.stream import FIRST
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import read_settings
from tidegate.bootstrap.watcher import Watcher, make_watcher
from tidegate.core.home import Home
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import Tally, TallyKey
from tidegate.monitoring.alert import Outbox
from tidegate.monitoring.signal import State
from tidegate.operation.signal import stored_signals


class Told:
    key = name = "told"

    def __init__(self):
        self.signals = []

    def send(self, signal):
        self.signals.append(signal)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    place = Home(tmp_path_factory.mktemp("home"))
    fill(place, latency_p99_ms=25, availability=0.999)
    return place


def midnight(day):
    return int(datetime(day.year, day.month, day.day, 0, 5, tzinfo=UTC).timestamp() * 1e6)


def test_new_signals_are_kept_told_once_and_burns_come_and_go(home):
    with Local(read_settings({"home": str(home.root)}).settings) as local:
        local.clock = clock = FakeClock(midnight(LAST + timedelta(days=1)))
        told = Told()
        watcher = Watcher(local, Outbox([told], clock=clock))

        watcher.look()

        (signal,) = [each for each in stored_signals(local.unit) if each.kind == "input"]
        assert signal.first_on == FIRST + timedelta(days=BREAK)
        assert [each.id for each in told.signals if each.kind == "input"] == [signal.id]
        assert watcher.open_signals["loans", "input", signal.severity.value] == 1

        n_told = len(told.signals)
        clock.forward(60)
        watcher.look()
        assert len(told.signals) == n_told

        ledger = Ledger(home.ledger)
        minute = clock.wall_us() // 60_000_000
        with ledger.transaction():
            for back in range(60):
                key = TallyKey("loans", 1, "stable", RecordKind.PREDICTION, minute - back)
                ledger.add_tallies({key: Tally(requests=100, failed=5)})
                ledger.add_refusals({("loans", minute - back, "contract_violation(amount)"): 10})
        ledger.close()
        watcher.look()
        (burn,) = [each for each in told.signals if each.kind == "slo"]
        assert "availability burns 50.0 times too fast" in burn.title

        (wrong,) = [each for each in told.signals if each.kind == "refusal"]
        assert "because of 'amount'" in wrong.title

        clock.forward(3600)
        for _ in range(3):
            watcher.look()
        (over,) = [each for each in stored_signals(local.unit) if each.kind == "slo"]
        assert over.state is State.RESOLVED


def test_a_receiver_that_hangs_does_not_hold_up_the_watching(home, monkeypatch):
    monkeypatch.setattr("tidegate.bootstrap.watcher._TELL_S", 0.2)
    let_go = threading.Event()

    class Stuck:
        key = name = "stuck"

        def send(self, signal):
            let_go.wait(60)

    with Local(read_settings({"home": str(home.root)}).settings) as local:
        local.clock = clock = FakeClock(midnight(LAST + timedelta(days=1)))
        told = Told()
        watcher = Watcher(local, Outbox([Stuck(), told], clock=clock))
        looked = threading.Thread(target=watcher.look, daemon=True)
        looked.start()
        looked.join(30)

        assert not looked.is_alive()
        assert told.signals
        let_go.set()


def test_what_fails_for_one_service_is_tried_again_later_and_keeps_no_other_unwatched(
    home, monkeypatch, caplog
):
    (home.records / "broken").mkdir()
    ran, burnt = [], []

    def yesterday(self, service, today):
        ran.append(service)
        if service == "broken" and len(ran) < 5:
            raise RuntimeError("no such column")

    def burn(self, service, *_):
        burnt.append(service)
        raise RuntimeError("no such objective")

    monkeypatch.setattr(Watcher, "_yesterday", yesterday)
    monkeypatch.setattr(Watcher, "_burn", burn)
    monkeypatch.setattr(Watcher, "_asked", lambda self, minute: ["a", "b"])
    with Local(read_settings({"home": str(home.root)}).settings) as local:
        local.clock = clock = FakeClock(midnight(LAST + timedelta(days=1)))
        watcher = Watcher(local, Outbox([], clock=clock))

        def runs(*, after_s):
            clock.forward(after_s)
            ran_before = len(ran)
            watcher.look()
            return ran[ran_before:]

        assert runs(after_s=0) == ["broken", "loans"]
        assert runs(after_s=30) == []  # not in a hot loop
        assert runs(after_s=900) == ["broken"]
        assert runs(after_s=900) == []  # the second wait is longer
        assert runs(after_s=900) == ["broken"]
        assert runs(after_s=3600) == ["broken"]
        assert runs(after_s=21_600) == []  # done
        assert runs(after_s=86_400) == ["broken", "loans"]
    (home.records / "broken").rmdir()
    assert burnt[:2] == ["a", "b"]
    assert "monitor.failed service=broken" in caplog.text
    assert "burn.failed service=a" in caplog.text


def test_a_report_that_cannot_be_made_keeps_no_signal_back(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    fill(home)

    def fails(*_):
        raise RuntimeError("no such slice")

    monkeypatch.setattr("tidegate.monitoring.run._Closing.result", fails)
    with Local(read_settings({"home": str(home.root)}).settings) as local:
        local.clock = clock = FakeClock(midnight(LAST + timedelta(days=1)))
        told = Told()
        Watcher(local, Outbox([told], clock=clock)).look()

        assert [each.kind for each in told.signals if each.kind == "input"]


def test_a_home_without_traffic_is_watched_without_complaint(tmp_path, monkeypatch, caplog):
    settings = read_settings({"home": str(tmp_path)}).settings
    monkeypatch.setenv("TIDEGATE_ALERT_URLS", "no address")  # as another process may have set it
    with Local(settings) as local:
        make_watcher(local).look()

    assert "alert.unusable" in caplog.text
    assert N_DAYS > BREAK
