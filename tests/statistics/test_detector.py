import math

import numpy as np
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.statistics.detector import RiskDetector, bets, first_alarms


def stream(n_streams, *, seed):
    rng = np.random.default_rng(seed)
    before, after = rng.random((n_streams, 2000)) < 0.10, rng.random((n_streams, 2000)) < 0.16
    return np.concatenate([before, after], axis=1)


@pytest.mark.parametrize(
    ("limit", "early", "detected", "delay"), [(1e4, 0.011, 0.985, 477), (1e3, 0.267, 0.733, 165)]
)
def test_risk_from_10_to_16_per_cent_is_found_as_soon_as_published(limit, early, detected, delay):
    """METHODS 3.1: r0 = 0.12, the change at label 2,000. Within 15%; early alarms at 1e4 are rarer, 0.6%."""
    alarms = first_alarms(stream(700, seed=7), threshold=0.12, limit=limit)
    after = alarms >= 2000

    assert float(after.mean()) == pytest.approx(detected, rel=0.15)
    assert float(np.median(alarms[after] - 2000)) == pytest.approx(delay, rel=0.15)
    assert float(((alarms >= 0) & ~after).mean()) <= early * 1.15


def test_mean_time_to_a_false_alarm_is_at_least_the_limit():
    rng = np.random.default_rng(1)

    alarms = first_alarms(rng.random((150, 2000)) < 0.12, threshold=0.12, limit=100)
    times = np.where(alarms < 0, 2000, alarms + 1)

    assert times.mean() >= 100


def test_one_stream_alarms_where_many_do_and_survives_a_restart_of_the_process():
    losses = stream(1, seed=3)[0].astype(float)
    expected = int(first_alarms(losses[None], threshold=0.12, limit=1e3)[0])
    detector = RiskDetector(threshold=0.12, limit=1e3)

    assert detector.update(losses[:1000]) is None
    resumed = RiskDetector(threshold=0.12, limit=1e3, state=list(detector.state), n_labels=detector.n_labels)
    found = resumed.update(losses[1000:])

    assert found is not None
    assert 1000 + found == expected
    assert resumed.alarmed
    assert resumed.n_labels == expected + 1
    resumed.restart()
    assert not resumed.alarmed


def test_bets_never_lose_everything():
    for threshold in (0.01, 0.12, 0.5, 0.9, 0.99):
        assert (1 - bets(threshold) * threshold > 0).all()


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_a_loss_outside_its_range_is_refused(loss):
    with pytest.raises(InvalidSetting, match="A loss lies"):
        RiskDetector(threshold=0.1, limit=100).update([loss])


def test_a_threshold_that_is_no_risk_is_refused():
    with pytest.raises(InvalidSetting, match="risk threshold"):
        bets(1.0)
