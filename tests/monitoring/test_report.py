from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import msgspec
import numpy as np
import polars as pl
import pytest

from tests.monitoring.stream import FIRST, records, subject
from tidegate.monitoring.chart import Line, interval_chart, strip_chart, time_chart
from tidegate.monitoring.report import render
from tidegate.monitoring.run import run
from tidegate.monitoring.signal import Finding, Severity, SignalBook
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
def result():
    reference = (FIRST, FIRST + timedelta(days=59))
    over = (FIRST + timedelta(days=60), FIRST + timedelta(days=89))
    table = records(
        90,
        on=70,
        change=lambda c: (
            c | {"input.channel": np.where(np.arange(120) % 3 == 0, "<script>", c["input.channel"])}
        ),
    )
    return run(TableHistory(table), subject(), over=over, reference=reference)


@pytest.fixture(scope="module")
def page(result):
    return render(result, made_at=datetime(2026, 5, 1, tzinfo=UTC))


def found_on(kind, day):
    finding = Finding(kind, ("x",), "Something rose", Severity.CRITICAL, {}, "Roll back.")
    (signal,) = SignalBook("loans").update(day, [finding])
    return signal


def test_the_first_sentence_is_the_verdict(result):
    def said(**changes):
        return render(msgspec.structs.replace(result, **changes))

    assert "Quality was lost: detected on 9 March 2026" in said(signals=[found_on("risk", date(2026, 3, 9))])
    assert "bring less than they did: detected" in said(signals=[found_on("value", date(2026, 3, 9))])
    assert "Quality may be lost" in said(accepted_loss=result.realised.loss - 1e-6)
    assert "Quality is worse than is accepted." in said(accepted_loss=result.reference_loss / 2)
    assert "No loss of quality is seen" in said(accepted_loss=result.realised.loss + 1e-6)
    assert "Undecided whether quality held" in said(accepted_loss=None)
    assert "no outcomes have come" in said(realised=None)
    assert "Quality is not judged" in said(task="none")


def test_the_verdict_is_about_the_predictions_of_the_period_itself():
    """Outcomes are due after a week, and the model broke with the period: what fell due in it was good."""
    reference = (FIRST, FIRST + timedelta(days=23))

    def said(first, last, *, good=30, bad=40):
        table = records(50, on=good, change=lambda c: c | {"chance": lambda p: 1 - p})
        days = pl.col("arrived_at").cast(pl.Date)
        back = pl.when(days >= FIRST + timedelta(days=bad)).then(None).otherwise(pl.col("label"))
        watched = msgspec.structs.replace(subject(), horizon_days=7)
        over = (FIRST + timedelta(days=first), FIRST + timedelta(days=last))
        found = run(TableHistory(table.with_columns(label=back)), watched, over=over, reference=reference)
        return found, render(found)

    found, page = said(33, 36, good=33)
    assert [day.realised_loss < 0.25 for day in found.days] == [True] * 4
    assert "Quality is worse than is accepted." in page
    assert f"the mean error was {found.stretches[0].realised['brier']:.4g}" in page
    assert "480 of 480 predictions have an outcome and are judged." in page
    assert "The risk monitor has not looked at 480 of them" in page

    # and the other way round: the loss that was found is that of the days before
    early, page = said(30, 49, good=50, bad=45)
    risk = msgspec.structs.replace(found_on("risk", early.days[2].on), last_on=early.days[4].on)
    page = render(msgspec.structs.replace(early, signals=[risk]))
    assert "Quality held, as far as outcomes have come." in page
    assert "is of predictions before this period" in page
    assert "and 600 have none" in page

    one, page = said(38, 38)
    assert "Quality may be lost" in page
    assert "They are of a single day" in page
    assert one.stretches[0].fused[1:] == (None, None)
    assert "± –" in page


def test_a_bad_month_is_told_apart_from_hard_cases(result):
    last = result.stretches[-1]
    first = msgspec.structs.replace(last, name="2026-02")
    brier = last.constant["brier"]

    def told(expected):
        estimate = msgspec.structs.replace(
            last.estimated[1], value=expected, low=expected - 0.001, high=expected + 0.001
        )
        assert estimate.metric == "brier"
        worse = msgspec.structs.replace(last, realised={"brier": 1.5 * brier}, estimated=(estimate,))
        return render(msgspec.structs.replace(result, stretches=[first, worse]))

    assert "Its cases were harder: 40% was to be expected" in told(1.4 * brier)
    assert "Harder cases do not explain it" in told(brier)


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
        "may raise 1 false alarm, and they share that out",
        "2026-05-01 00:00 UTC",
    ):
        assert sentence in words, sentence


def test_charts_leave_gaps_out_and_say_when_there_is_nothing():
    drawn = time_chart(["a", "b", "c"], [Line("x", [1.0, None, 3.0], "red", "dots")], title="t")

    assert drawn.count("<circle") == 2
    assert "Nothing to draw" in time_chart(["a"], [], title="t")
    assert interval_chart([], title="t") == ""
    assert strip_chart(["a", "b"], [("x", [None, 0.5], 0.1)]).count("<rect") == 1
