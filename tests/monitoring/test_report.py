from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.monitoring.stream import FIRST, records, subject
from tidegate.monitoring.chart import Line, interval_chart, strip_chart, time_chart
from tidegate.monitoring.report import render
from tidegate.monitoring.run import run
from tidegate.monitoring.subject import TableHistory

_VOID = {"meta", "br", "line", "circle", "rect", "polyline"}


class Checker(HTMLParser):
    """Notes tags that are not closed, and whatever a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page():
    reference = (FIRST, FIRST + timedelta(days=59))
    over = (FIRST + timedelta(days=60), FIRST + timedelta(days=89))
    table = records(
        90,
        on=70,
        change=lambda c: (
            c | {"input.channel": np.where(np.arange(120) % 3 == 0, "<script>", c["input.channel"])}
        ),
    )
    return render(
        run(TableHistory(table), subject(), over=over, reference=reference),
        made_at=datetime(2026, 5, 1, tzinfo=UTC),
    )


def test_page_is_whole_and_fetches_nothing(page):
    checker = Checker()
    checker.feed(page)

    assert checker.open == []
    assert checker.fetched == []
    assert "<script" not in page


def test_page_says_what_a_manager_asks(page):
    checker = Checker()
    checker.feed(page)
    words = " ".join(checker.words)

    for sentence in (
        "Quality held",
        "Inputs moved: channel",
        "A category that the model never saw",
        "Blind to concept shift",
        "At most 1 false alarms in 30 days",
        "2026-05-01 00:00 UTC",
    ):
        assert sentence in words, sentence


def test_charts_leave_gaps_out_and_say_when_there_is_nothing():
    drawn = time_chart(["a", "b", "c"], [Line("x", [1.0, None, 3.0], "red", "dots")], title="t")

    assert drawn.count("<circle") == 2
    assert "Nothing to draw" in time_chart(["a"], [], title="t")
    assert interval_chart([], title="t") == ""
    assert strip_chart(["a", "b"], [("x", [None, 0.5], 0.1)]).count("<rect") == 1
