import numpy as np
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.statistics.budget import AlarmBudget, spent
from tidegate.statistics.drift import psi, psi_tail
from tidegate.statistics.null import drift_null


def days(rng, n_days, *, n_fields=4):
    """Rows of a day resemble each other: each day has its own shares around common ones."""
    found = {}
    for field in range(n_fields):
        shares = rng.dirichlet([8.0] * 10, size=n_days)
        found[f"f{field}"] = np.stack([rng.multinomial(300, each) for each in shares])
    return found


@pytest.mark.parametrize("n_blocks", [1, 5])
def test_new_days_without_drift_alarm_as_often_as_the_level_says(n_blocks):
    rng = np.random.default_rng(0)
    level, p_values, naive = 0.1, [], []
    for _ in range(25):
        blocks = days(rng, 60 + 2 * n_blocks)
        reference = {name: counts[:60] for name, counts in blocks.items()}
        null = drift_null(reference, n_blocks=n_blocks, rng=rng, n_draws=100)
        for window in (slice(60, 60 + n_blocks), slice(60 + n_blocks, None)):
            values = {
                name: float(psi(reference[name].sum(0), counts[window].sum(0)))
                for name, counts in blocks.items()
            }
            p_values.append(null.p_value(null.statistic(values)))
            naive.append(psi_tail(values["f0"], 60 * 300, n_blocks * 300, n_bins=10))

    fired = np.mean(np.array(p_values) <= level)
    assert fired <= level + 0.13  # 50 windows: three standard errors
    assert np.mean(np.array(naive) <= 0.01) > 0.5  # the law for independent rows sees drift everywhere


def test_a_moved_field_is_named_and_a_field_that_never_moved_alarms_at_once():
    rng = np.random.default_rng(1)
    blocks = days(rng, 60) | {"constant": np.tile([0, 300, 0], (60, 1))}
    null = drift_null(blocks, n_blocks=1, rng=rng)

    assert null.field_p_value("constant", float(psi([0, 18_000, 0], [30, 270, 0]))) < 1 / 61
    assert null.field_p_value("f0", null.medians["f0"]) > 0.2
    assert null.statistic(dict.fromkeys(blocks, 0.0)) == 0


def test_a_reference_shorter_than_two_windows_is_refused():
    with pytest.raises(InvalidSetting, match="says nothing"):
        drift_null({"a": np.ones((9, 3), np.int64)}, n_blocks=5, rng=np.random.default_rng(0))


def test_levels_of_a_month_add_up_to_the_budget():
    budget = AlarmBudget(0.5, {"drift": 0.6, "quality": 0.4}).checked()
    windows = {"drift": 30, "quality": 720}
    levels = {name: budget.level(name, windows_per_month=count) for name, count in windows.items()}

    assert spent(levels, windows) == pytest.approx(0.5)
    assert budget.limit("quality", labels_per_month=2000) == pytest.approx(10_000)


@pytest.mark.parametrize("shares", [{"a": 0.7, "b": 0.4}, {"a": 0.0}])
def test_a_budget_spent_twice_is_refused(shares):
    with pytest.raises(InvalidSetting, match="Shares"):
        AlarmBudget(1.0, shares).checked()
