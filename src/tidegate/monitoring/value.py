"""What predictions bring in money, day by day: a signal once it is less than it was."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.evaluation.declaration import CostMatrix
from tidegate.monitoring.signal import Finding, Severity
from tidegate.monitoring.subject import LABEL, Subject
from tidegate.statistics.detector import RiskDetector
from tidegate.statistics.special import student_quantile

Floats = npt.NDArray[np.float64]


def brought(subject: Subject, labelled: pl.DataFrame) -> Floats | None:
    """Return what each labelled prediction brought; None without declared costs of an event.

    Args:
        subject: What is watched.
        labelled: Prepared records with a label and an answer.
    """
    costs = subject.costs
    if costs is None or subject.task != "binary":
        return None
    acted = labelled[subject.judged].cast(pl.Float64).to_numpy() >= subject.threshold
    happened = labelled[LABEL].cast(pl.Float64).to_numpy() > 0
    return np.where(
        acted,
        np.where(happened, costs.true_positive, costs.false_positive),
        np.where(happened, costs.false_negative, costs.true_negative),
    ).astype(np.float64)


class ValueMonitor:
    """The e-SR detector over days, on the part of the best case that a day's predictions missed."""

    def __init__(self, costs: CostMatrix, means: Floats, *, tolerance: float, limit: float) -> None:
        """Learn what a prediction brings when all is well.

        Args:
            costs: What decisions bring.
            means: Mean of each day of the reference, shape (n_days,), at least two.
            tolerance: Part of the value that may be lost without a word.
            limit: Mean days to a false alarm at least.
        """
        four = (costs.true_positive, costs.false_positive, costs.false_negative, costs.true_negative)
        self._worst, self._best = min(four), max(four)
        self._currency = costs.currency
        self.reference = float(means.mean())
        reach = student_quantile(0.975, len(means) - 1) * float(means.std(ddof=1)) / len(means) ** 0.5
        self.accepted = self.reference - reach - tolerance * abs(self.reference)
        threshold = float(np.clip(self._missed(self.accepted), 1e-3, 0.99))
        self.detector = RiskDetector(threshold=threshold, limit=limit)

    def _missed(self, value: float) -> float:
        return min(1.0, max(0.0, (self._best - value) / (self._best - self._worst)))

    def take(self, mean: float, n_labelled: int) -> list[Finding]:
        """Take a day's mean; return a finding if it is certain enough that predictions bring less."""
        if self.detector.update([self._missed(mean)]) is None:
            return []
        since, limit = self.detector.n_since, self.detector.limit
        self.detector.restart()
        lost = self.reference - mean
        return [
            Finding(
                kind="value",
                subjects=("value of a prediction",),
                title=f"A prediction brings less than {self.accepted:,.4g} {self._currency} for "
                f"about {since} days; it was {self.reference:,.4g}",
                severity=Severity.CRITICAL,
                evidence={
                    "rule": "e-SR detector over days",
                    "limit": limit,
                    "reference": self.reference,
                    "accepted": self.accepted,
                    "last_day": mean,
                    "days_since_estimated_change": since,
                },
                remedy="See whether events became more frequent or decisions worse: compare `risk` and "
                "`label`. Set the threshold anew for today's costs, or retrain.",
                cost=f"about {lost * n_labelled:,.0f} {self._currency} on the last such day",
            )
        ]
