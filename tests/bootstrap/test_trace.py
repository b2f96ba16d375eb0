"""Traces are made of what the controller reads anyway."""

from tests.journal.fake import FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.adapter.telemetry.otlp import SpanExporter
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.trace import TracedSink, open_exporter
from tidegate.core.home import Home
from tidegate.journal.ledger import Ledger
from tidegate.journal.tailer import Tailer


class Kept:
    def __init__(self):
        self.rows = 0

    def take(self, segment, turns, frames):
        self.rows += turns.n_rows

    def advance(self, positions):
        pass

    forget = catch_up = lambda self, *_: 0


def test_what_is_counted_is_traced_and_kept(tmp_path):
    home = Home(tmp_path)
    writer = new_writer(home.journal)
    encoder = writer.stream(new_stream())
    writer.append([encoder.encode(new_turn(new_ids(4), took_us=[200.0] * 4))])
    writer.close()
    kept, exporter = Kept(), SpanExporter("http://127.0.0.1:1", share=1.0)
    ledger = Ledger(home.ledger)
    tailer = Tailer(home.journal, ledger, clock=FakeClock(), sink=TracedSink(kept, exporter))

    while tailer.poll(settle_now=True).read_bytes:
        pass
    tailer.close()
    ledger.close()

    assert kept.rows == 4
    assert len(exporter._waiting) == 12


def test_without_an_address_nothing_is_made_and_a_bad_one_is_logged(caplog):
    assert open_exporter(None) is None
    assert open_exporter(Settings()) is None
    assert open_exporter(Settings(trace_url="nowhere")) is None
    assert "trace.unusable" in caplog.text
