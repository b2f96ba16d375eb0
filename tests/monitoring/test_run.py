from datetime import timedelta

import msgspec
import numpy as np
import polars as pl
import pytest

from tests.monitoring.stream import FIRST, records, subject
from tidegate.core.error import InvalidSetting
from tidegate.monitoring.run import Result, run
from tidegate.monitoring.signal import State
from tidegate.monitoring.subject import TableHistory

REFERENCE = (FIRST, FIRST + timedelta(days=59))
OVER = (FIRST + timedelta(days=60), FIRST + timedelta(days=99))


def watched(**given):
    return run(TableHistory(records(100, on=70, **given)), subject(), over=OVER, reference=REFERENCE)


def kinds(result):
    return {signal.kind for signal in result.signals}


@pytest.mark.slow
def test_no_change_gives_no_signal_and_stays_within_the_budget():
    result = watched()

    assert result.signals == []
    months = 40 / 30
    assert sum(each.spent for each in result.spending.values()) <= result.budget * months
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result).n_rows == 4_800


def test_a_wrong_unit_is_one_signal_that_names_field_day_and_remedy():
    result = watched(change=lambda columns: columns | {"input.amount": columns["input.amount"] * 100})
    (signal,) = [signal for signal in result.signals if signal.kind == "input"]

    assert signal.subjects[0] == "amount"
    assert signal.first_on == FIRST + timedelta(days=70)
    assert signal.n_windows > 20
    assert signal.state is State.OPEN
    assert "unit" in signal.remedy
    assert signal.evidence["p_value"] <= signal.evidence["level"]
    assert "input.amount" in [each.field for each in result.fields[:2]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (
            lambda c: c | {"input.age": np.where(np.arange(120) % 3 == 0, np.nan, c["input.age"])},
            "age",
            "missing",
        ),
        (
            lambda c: c | {"input.channel": np.where(np.arange(120) % 5 == 0, "APP", c["input.channel"])},
            "channel",
            "any other",
        ),
    ],
)
def test_gaps_and_unseen_categories_are_called_what_they_are(change, field, words):
    (signal,) = [each for each in watched(change=change).signals if each.kind == "input"]

    assert signal.subjects == (field,)
    assert words in signal.title


def test_concept_shift_is_invisible_to_estimates_and_caught_by_realised_risk():
    """The inputs stay as they were; what they mean is turned round."""
    result = watched(change=lambda columns: columns | {"chance": lambda p: 1 - 0.8 * p})
    last = result.stretches[-1]
    estimated = {each.metric: each for each in last.estimated}

    assert "risk" in kinds(result)
    assert not kinds(result) & {"input", "output", "estimate"}
    assert estimated["brier"].value == pytest.approx(last.constant["brier"], rel=0.15)
    assert last.realised["brier"] > 1.5 * last.constant["brier"]
    assert "concept shift" in estimated["brier"].blind
    theta, low, high = last.fused
    assert low <= last.realised["brier"] <= high
    assert theta == pytest.approx(last.realised["brier"], rel=0.01)


@pytest.mark.slow
def test_a_part_that_becomes_worse_is_named():
    """From day 62 on the model is wrong about those who come by phone; others notice nothing."""

    def worse(columns):
        phone = columns["input.channel"] == "phone"
        return columns | {"chance": lambda p: np.where(phone, 1 - p, p)}

    table = records(110, on=62, change=worse)
    over = (OVER[0], FIRST + timedelta(days=109))
    result = run(TableHistory(table), subject(tolerance=5.0), over=over, reference=REFERENCE)
    (signal,) = [each for each in result.signals if each.kind == "slice"]

    assert "channel = phone" in signal.title
    assert signal.evidence["gap"] > signal.evidence["gap_before"] + 0.1
    assert "slice" in result.spending


def test_outcomes_that_stop_coming_and_errors_are_signals():
    table = records(85).with_columns(failed=pl.lit(False))
    late = pl.col("arrived_at").dt.date() >= FIRST + timedelta(days=65)
    broken = table.with_columns(
        label=pl.when(late).then(None).otherwise(pl.col("label")),
        failed=late & (pl.int_range(pl.len()) % 4 == 0),
    )
    over = (OVER[0], FIRST + timedelta(days=84))
    found = {
        each.kind: each
        for each in run(TableHistory(broken), subject(), over=over, reference=REFERENCE).signals
    }

    assert "missing" in found["label"].title
    assert "who sends them" in found["label"].remedy
    assert "Errors moved" in found["service"].title


@pytest.mark.slow
def test_silence_is_a_signal():
    table = records(70)
    result = run(
        TableHistory(table), subject(), over=(OVER[0], FIRST + timedelta(days=72)), reference=REFERENCE
    )

    assert ("service", "traffic") in {(signal.kind, signal.subjects[0]) for signal in result.signals}


@pytest.mark.slow
def test_labels_that_are_not_known_yet_are_not_used():
    table = records(100)
    late = table.with_columns(labelled_at=table["labelled_at"] + timedelta(days=400))

    result = run(TableHistory(late), subject(), over=OVER, reference=REFERENCE)

    assert result.coverage == 0
    assert any("no labels" in note for note in result.notes)


@pytest.mark.slow
def test_the_same_history_gives_the_same_signals():
    def once():
        return [
            signal.id for signal in watched(change=lambda c: c | {"input.age": c["input.age"] + 30}).signals
        ]

    assert once() == once()


def test_a_period_without_reference_or_records_is_refused():
    history = TableHistory(records(10))
    with pytest.raises(InvalidSetting, match="no two days"):
        run(history, subject(), over=(FIRST, FIRST))
    with pytest.raises(InvalidSetting, match="no records"):
        run(history, subject(), over=OVER, reference=(FIRST, FIRST + timedelta(days=5)))


def test_a_period_that_overlaps_its_reference_says_so():
    def notes(first):
        over = (FIRST + timedelta(days=first), FIRST + timedelta(days=11))
        reference = (FIRST, FIRST + timedelta(days=9))
        return run(TableHistory(records(12)), subject(), over=over, reference=reference).notes

    assert any(note.startswith("2 of the period's days are in the reference as well") for note in notes(8))
    assert any(note.startswith("1 of the period's days is in the reference") for note in notes(9))
    assert not any("in the reference as well" in note for note in notes(10))
