"""Declared figures of the business: watched by their daily means, known as late as they are reported."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from tests.monitoring.stream import FIRST, records, subject
from tidegate.core.error import InvalidSetting
from tidegate.monitoring.declaration import Kpi
from tidegate.monitoring.report import render
from tidegate.monitoring.run import run
from tidegate.monitoring.subject import LABEL, TableHistory

pytestmark = pytest.mark.slow

BASIS = (FIRST, FIRST + timedelta(days=59))
LATER = (FIRST + timedelta(days=60), FIRST + timedelta(days=99))
CHANGE = FIRST + timedelta(days=70)


def sold(*, factor=1.0, late_days=0, seed=3):
    """100 days whose predictions brought about 20 each, from the change on `factor` times as much."""
    table = records(100)
    rng = np.random.default_rng(seed)
    amount = pl.Series(rng.gamma(2.0, 10.0, table.height))
    turned = pl.col("arrived_at").dt.date() >= CHANGE
    return TableHistory(
        table.with_columns(
            pl.when(turned).then(amount * factor).otherwise(amount).alias("kpi.revenue"),
            (pl.col("labelled_at") + pl.duration(days=late_days)).alias("kpi_at.revenue"),
        )
    )


def watched(history, **kpi):
    return run(history, subject(kpis=[Kpi("revenue", unit="EUR", **kpi)]), over=LATER, reference=BASIS)


def found(result):
    return [signal for signal in result.signals if signal.kind == "kpi"]


def test_a_figure_that_falls_is_a_signal_and_one_that_rises_is_good_news():
    (signal,) = found(watched(sold(factor=0.6)))

    assert signal.first_on >= CHANGE
    assert signal.title.startswith("The mean of revenue is below")
    assert "EUR" in signal.cost
    assert found(watched(sold())) == []
    assert found(watched(sold(factor=1.6))) == []
    (risen,) = found(watched(sold(factor=1.6), better="lower"))
    assert risen.title.startswith("The mean of revenue is above")


def test_values_that_are_no_numbers_are_left_out_and_told():
    table = sold().records(BASIS[0], LATER[1])
    odd = pl.int_range(pl.len()) % 500 == 0
    texts = pl.col("kpi.revenue").cast(pl.String)
    history = TableHistory(
        table.with_columns(pl.when(odd).then(pl.lit("12 EUR")).otherwise(texts).alias("kpi.revenue"))
    )

    result = watched(history)

    assert "24 values of 'revenue' are no numbers and do not count: '12 EUR'." in result.notes
    assert found(result) == []


def test_a_loss_within_its_tolerance_is_none():
    assert found(watched(sold(factor=0.7), tolerance=0.5)) == []


def test_the_budget_is_shared_with_the_other_monitors_of_what_came_true():
    result = watched(sold())
    alone = run(sold(), subject(), over=LATER, reference=BASIS)

    assert "kpi.revenue" in result.spending
    together = result.spending["kpi.revenue"].allowance + result.spending["risk"].allowance
    assert together == pytest.approx(alone.spending["risk"].allowance)


def test_what_is_reported_after_its_time_does_not_count_on_that_day():
    in_time, too_late = watched(sold()), watched(sold(late_days=30))

    assert all("revenue" in day.kpis for day in in_time.days[2:])
    assert not any(day.kpis for day in too_late.days)


def test_a_figure_is_watched_where_no_answer_is_judged():
    table = sold(factor=0.6).records(BASIS[0], LATER[1])
    unlabelled = TableHistory(table.with_columns(pl.lit(None, pl.Float64).alias(LABEL)))
    watched_only = subject(kpis=[Kpi("revenue")])
    none_judged = type(watched_only)(
        service="loans", inputs=watched_only.inputs, outputs=(), monitoring=watched_only.monitoring
    )

    result = run(unlabelled, none_judged, over=LATER, reference=BASIS)

    assert len(found(result)) == 1
    assert set(result.spending) >= {"input", "kpi.revenue"}


def test_the_report_shows_it_by_day_and_month():
    page = render(watched(sold(factor=0.6)))

    assert "revenue by day" in page
    assert "EUR a prediction; more is better" in page
    assert '<th class="n">revenue</th>' in page


@pytest.mark.parametrize(
    ("kpis", "words"),
    [
        ([Kpi("revenue"), Kpi("revenue")], "twice"),
        ([Kpi("revenue", tolerance=-0.1)], "at least 0"),
        ([Kpi("my revenue")], "cannot be used"),
    ],
)
def test_a_wrong_declaration_is_refused_in_words(kpis, words):
    with pytest.raises(InvalidSetting) as refused:
        subject(kpis=kpis)

    assert words in str(refused.value)
