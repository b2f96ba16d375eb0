"""An alarm stands for as long as its cause does, and ends by days that were good again."""

from tidegate.monitoring.signal import QUIET_WINDOWS
from tidegate.monitoring.standing import StandingAlarm


def alarmed():
    alarm = StandingAlarm(threshold=0.3, limit=50.0)
    days = next(day for day in range(100) if alarm.take(0.8) is not None)
    assert 1 < days < 30
    return alarm


def test_an_alarm_says_so_on_every_day_that_is_worse():
    alarm = alarmed()

    assert [alarm.take(0.31) is not None for _ in range(50)] == [True] * 50
    assert alarm.level == 1.0


def test_single_good_days_do_not_end_it_and_several_in_a_row_do():
    alarm = alarmed()

    for _ in range(10):
        assert alarm.take(0.2) is None
        assert alarm.take(0.5) is not None
    for _ in range(QUIET_WINDOWS):
        assert alarm.take(0.2) is None

    assert alarm.level == 0.0
    assert alarm.take(0.5) is None, "it takes the detector's certainty again"
