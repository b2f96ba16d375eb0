from datetime import date, timedelta

import pytest

from tidegate.contract.objective import Objectives
from tidegate.core.error import InvalidSetting
from tidegate.journal.tally import Tally, step_of
from tidegate.monitoring.burn import burning
from tidegate.monitoring.signal import Finding, Severity, SignalBook, State, counts_by, to_tell

DAY = date(2026, 5, 1)


def finding(*subjects, kind="input", severity=Severity.NOTICE):
    return Finding(kind, subjects, f"{subjects[0]} moved", severity, {"p_value": 0.001}, "look")


def later(days):
    return DAY + timedelta(days=days)


def test_one_cause_is_one_signal_however_often_it_is_found():
    book = SignalBook("loans", owner="risk")
    began = book.update(DAY, [finding("age")])
    book.update(later(1), [finding("amount", "age", severity=Severity.CRITICAL)])

    (signal,) = book.signals
    assert [each.id for each in began] == [signal.id]
    assert signal.subjects == ("age", "amount")
    assert signal.n_windows == 2
    assert signal.severity is Severity.CRITICAL
    assert (signal.first_on, signal.last_on, signal.owner) == (DAY, later(1), "risk")
    assert signal.replay == "tidegate monitor run loans --over 2026-05-01..2026-05-01"


def test_other_fields_and_monitors_are_other_signals():
    book = SignalBook("loans")
    book.update(DAY, [finding("age"), finding("channel"), finding("age", kind="risk")])

    assert len(book.signals) == 3
    assert counts_by(book.signals)["input", "notice"] == 2


def test_a_signal_is_over_after_three_quiet_windows_and_comes_back_as_another():
    book = SignalBook("loans")
    book.update(DAY, [finding("age")])
    changes = [book.update(later(n), []) for n in (1, 2, 3)]

    assert [len(each) for each in changes] == [0, 0, 1]
    assert changes[2][0].state is State.RESOLVED
    assert "3 windows" in changes[2][0].resolution
    book.update(later(4), [finding("age")])
    assert len(book.signals) == 2


def test_the_silence_of_a_monitor_that_did_not_look_means_nothing():
    book = SignalBook("loans")
    book.update(DAY, [finding("x", kind="slice"), finding("age")])
    for n in range(1, 8):
        book.update(later(n), [], untested={"slice"})

    assert {each.kind: each.state for each in book.signals} == {"slice": State.OPEN, "input": State.RESOLVED}


def test_a_pause_does_not_end_it():
    book = SignalBook("loans")
    for n in range(12):
        book.update(later(n), [finding("age")] if n % 3 == 0 else [])

    (signal,) = book.signals
    assert signal.state is State.OPEN
    assert signal.n_windows == 4


def test_acknowledged_and_muted_signals_are_told_to_nobody():
    book = SignalBook("loans")
    book.update(DAY, [finding("a"), finding("b"), finding("c", severity=Severity.CRITICAL)])
    first, second = (each.id for each in book.signals if each.subjects[0] != "c")
    book.acknowledge(first, "ada")
    book.mute(second, until_us=100)

    assert [each.subjects for each in to_tell(book.signals, now_us=99)] == [("c",)]
    assert len(to_tell(book.signals, now_us=100)) == 2
    assert book.get(first[:6]).acknowledged_by == "ada"


def test_what_is_over_cannot_be_changed():
    book = SignalBook("loans")
    (signal,) = book.update(DAY, [finding("age")])
    book.resolve(signal.id, DAY, "by hand")

    with pytest.raises(InvalidSetting, match="was resolved"):
        book.mute(signal.id, until_us=1)


def minutes(bad, *, since, length=400, rate=1000, slow=0):
    found = {}
    for minute in range(length):
        here = bad if minute >= since else 0
        steps = {int(step_of_us(1_000)): rate - slow, int(step_of_us(90_000)): slow}
        found[minute] = Tally(requests=rate, failed=here, service_times=steps)
    return found


def step_of_us(value):
    import numpy as np

    return step_of(np.array([value]))[0]


def test_a_budget_that_burns_fast_is_seen_and_ends_with_the_fault():
    objectives = Objectives(availability=0.999)
    fault = minutes(20, since=330)

    assert burning(fault, 329, objectives) == []
    (burn,) = burning(fault, 390, objectives)
    assert burn.objective == "availability"
    assert burn.rate == pytest.approx(20)
    healed = fault | {minute: Tally(requests=1000) for minute in range(391, 420)}
    assert burning(healed, 400, objectives) == []


def test_a_slow_burn_is_seen_over_six_hours_and_a_few_events_never():
    objectives = Objectives(availability=0.999)

    (burn,) = burning(minutes(7, since=0), 399, objectives)
    assert burn.long_minutes == 360
    assert burning(minutes(1, since=395, rate=10), 399, objectives) == []


def test_slow_answers_burn_the_objective_of_latency():
    (burn,) = burning(minutes(0, since=0, slow=200), 399, Objectives(latency_p99_ms=25))

    assert burn.objective == "latency"
    assert burn.rate == pytest.approx(20)
