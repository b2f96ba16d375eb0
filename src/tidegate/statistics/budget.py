"""The budget of false alarms: how many a service-month may have, and who may spend them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidegate.core.error import InvalidSetting

DAYS_A_MONTH = 30.0


class AlarmBudget(msgspec.Struct, frozen=True):
    """False alarms that all monitors of a service may raise together in 30 days, in expectation.

    A monitor that tests W windows a month at level a each raises at most W a; a detector whose mean
    time to a false alarm is A labels raises at most labels a month / A. The shares add up to at most 1,
    so by linearity of expectation everything stays within `per_month`, however the monitors depend on
    each other. Bonferroni over time is exact here: what is bounded is a mean, not a probability.

    Attributes:
        per_month: The budget, alarms per service and 30 days, > 0.
        shares: Monitor -> its part of the budget, in (0, 1]; together at most 1.
    """

    per_month: float
    shares: dict[str, float]

    def checked(self) -> AlarmBudget:
        """Return the budget.

        Raises:
            InvalidSetting: It is not above 0, or its shares are not parts of one.
        """
        if self.per_month <= 0:
            raise InvalidSetting(f"A budget of false alarms is above 0 a month. Got {self.per_month}.")
        if any(share <= 0 for share in self.shares.values()) or sum(self.shares.values()) > 1 + 1e-9:
            raise InvalidSetting(
                f"Shares of the alarm budget are above 0 and add up to at most 1. Got {self.shares}."
            )
        return self

    def allowance(self, monitor: str) -> float:
        """Return the false alarms a month that a monitor may raise.

        Raises:
            InvalidSetting: The monitor has no share.
        """
        if monitor not in self.shares:
            raise InvalidSetting(
                f"The monitor {monitor!r} has no share of the alarm budget.",
                hint=f"Shares: {', '.join(self.shares)}.",
            )
        return self.per_month * self.shares[monitor]

    def level(self, monitor: str, *, windows_per_month: float) -> float:
        """Return the level at which a monitor may test each of its windows, at most 1."""
        return min(1.0, self.allowance(monitor) / windows_per_month)

    def limit(self, monitor: str, *, labels_per_month: float) -> float:
        """Return the mean time to a false alarm that a detector must keep, in labels."""
        return max(1.0, labels_per_month / self.allowance(monitor))


def spent(levels: Mapping[str, float], windows: Mapping[str, int]) -> float:
    """Return the expected false alarms of windows that were tested: the sum of their levels.

    Args:
        levels: Monitor -> level of one window.
        windows: Monitor -> how many windows it tested.
    """
    return sum(levels[name] * count for name, count in windows.items())
