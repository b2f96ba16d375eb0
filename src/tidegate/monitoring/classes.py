"""Quality of a classifier of several classes before labels come: CBPE and PAPE class by class."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tidegate.monitoring.estimate import (
    BLIND_CBPE,
    BLIND_PAPE,
    Estimated,
    Expected,
    Misses,
    ScoreTable,
    calibrate,
    enough_rows,
    score_cuts,
    score_table,
)
from tidegate.statistics.special import student_quantile

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_N_BINS = 64
_LEAST = 1e-6


def class_figures(scores: Floats, chances: Floats) -> dict[str, Expected]:
    """Return what the figures are in expectation, if `chances` are the probabilities of the classes.

    With ones and zeros as chances these are the realised figures.

    Args:
        scores: What the model said, shape (n_rows, n_classes).
        chances: Shape (n_rows, n_classes); each row adds up to 1.

    Returns:
        `accuracy`, `error_rate`, `f1` (mean over the classes that are there), `auc` (mean of one class
        against the rest) and `log_loss`, with the deviation that chance of the labels gives the first three.
    """
    n_rows, n_classes = scores.shape
    decided = scores.argmax(axis=1)
    right = chances[np.arange(n_rows), decided]
    accuracy, deviation = float(right.mean()), math.sqrt(float((right * (1 - right)).sum())) / n_rows
    found = {
        "accuracy": Expected(accuracy, deviation),
        "error_rate": Expected(1 - accuracy, deviation),
        "log_loss": Expected(float(-(chances * np.log(np.maximum(scores, _LEAST))).sum(axis=1).mean()), 0.0),
    }
    f1s = [each for k in range(n_classes) if (each := _f1(decided == k, chances[:, k])) is not None]
    if f1s:
        spread = math.sqrt(sum(each.deviation**2 for each in f1s)) / len(f1s)
        found["f1"] = Expected(float(np.mean([each.value for each in f1s])), spread)
    aucs = [area for k in range(n_classes) if (area := _auc(scores[:, k], chances[:, k])) is not None]
    if aucs:
        found["auc"] = Expected(float(np.mean(aucs)), 0.0)
    return found


def _f1(acted: npt.NDArray[np.bool_], chances: Floats) -> Expected | None:
    tp, fn = float(chances[acted].sum()), float(chances[~acted].sum())
    below = float(acted.sum()) + tp + fn
    if below <= 0:
        return None
    vary = chances * (1 - chances)
    d_tp, d_fn = 2 * (below - tp) / below**2, -2 * tp / below**2
    spread = math.sqrt(d_tp**2 * float(vary[acted].sum()) + d_fn**2 * float(vary[~acted].sum()))
    return Expected(2 * tp / below, spread)


def _auc(scores: Floats, chances: Floats) -> float | None:
    """Return the expected area under the curve of one class against the rest; None without either."""
    values, group = np.unique(scores, return_inverse=True)
    events = np.bincount(group, weights=chances, minlength=len(values))
    others = np.bincount(group, weights=1 - chances, minlength=len(values))
    pairs = events.sum() * others.sum()
    if pairs <= 0:
        return None
    return float((events * (np.cumsum(others) - others / 2)).sum() / pairs)


class ClassEstimator:
    """CBPE and PAPE over one labelled reference of several classes: calibrated by class, renormalised."""

    def __init__(self, scores: Floats, labels: Integers, *, chunk: Integers, level: float = 0.95) -> None:
        """Learn calibration and how far estimates are off.

        Args:
            scores: Probabilities that the model gave, shape (n_rows, n_classes).
            labels: Place of the class that came true, shape (n_rows,).
            chunk: Number of each row's stretch of time, from 0; see `CalibratedEstimator`.
            level: Confidence, in (0, 1).

        Source: Kivimaki et al., arXiv 2407.08649: classes one by one, then made to add up to 1.
        """
        self.level = level
        self._scores = scores
        self._truth = np.eye(scores.shape[1])[labels]
        self._cuts = [score_cuts(column, threshold=0.5, n_bins=_N_BINS) for column in scores.T]
        self._bins = np.stack(
            [np.searchsorted(c, s, side="right") for c, s in zip(self._cuts, scores.T, strict=True)]
        )
        ones = np.ones(len(scores))
        self.recalibrated = self._recalibration_helps(chunk)
        self._chances = self._learned(ones) if self.recalibrated else None
        misses = Misses(chunk)
        for each, before in misses.pairs:
            mine = chunk == each
            rows = chunk != each if before is None else chunk < before
            learned = self._learned(rows.astype(np.float64)) if self.recalibrated else None
            misses.note(
                before,
                class_figures(scores[mine], self._looked_up(scores[mine], learned)),
                {name: found.value for name, found in class_figures(scores[mine], self._truth[mine]).items()},
            )
        self.spread, self.n_chunks = misses.spread(), misses.n_chunks

    def _learned(self, weights: Floats) -> list[Floats]:
        """Return the probability of each class in each of its score bins, from weighted rows."""
        found = []
        for k, cuts in enumerate(self._cuts):
            table = score_table(self._scores[:, k], cuts, weights=weights)
            happened = weights * self._truth[:, k]
            events = np.bincount(self._bins[k], happened, minlength=len(cuts) + 1).astype(np.float64)
            found.append(_calibrated(table, events))
        return found

    def _looked_up(self, scores: Floats, learned: list[Floats] | None) -> Floats:
        if learned is None:
            given = np.maximum(scores, 0.0)
        else:
            given = np.column_stack(
                [
                    chances[np.searchsorted(cuts, column, side="right")]
                    for chances, cuts, column in zip(learned, self._cuts, scores.T, strict=True)
                ]
            )
        total = given.sum(axis=1, keepdims=True)
        return np.asarray(np.where(total > 0, given / np.maximum(total, _LEAST), 1 / scores.shape[1]))

    def _recalibration_helps(self, chunk: Integers) -> bool:
        """Tell by log loss on chunks that had no part in it."""
        present = np.unique(chunk)
        if len(present) < 2:
            return False
        before = after = 0.0
        for each in present:
            mine = chunk == each
            learned = self._learned((~mine).astype(np.float64))
            scores, truth = self._scores[mine], self._truth[mine] > 0
            before -= float(np.log(np.maximum(self._looked_up(scores, None)[truth], 1e-4)).sum())
            after -= float(np.log(np.maximum(self._looked_up(scores, learned)[truth], 1e-4)).sum())
        return after < before

    def estimate(self, scores: Floats, weights: Floats | None = None) -> tuple[Estimated, ...]:
        """Estimate a window's figures from its probabilities.

        Args:
            scores: Shape (n_rows, n_classes), at least one row.
            weights: Density of the window over that of the reference at each of the reference's rows;
                where they leave too few rows in effect, or None, the answer is CBPE's.
        """
        method, blind, effective = "cbpe", BLIND_CBPE, None
        learned = self._chances
        if weights is not None:
            effective = float(weights.sum() ** 2 / max(float((weights**2).sum()), 1e-300))
            if enough_rows(effective, len(self._scores)):
                method, blind, learned = "pape", BLIND_PAPE, self._learned(weights)
            else:
                blind = f"{blind} The reference has too few rows like this window for PAPE ({effective:.0f})."
        reach = student_quantile(0.5 + self.level / 2, max(1, self.n_chunks - 1))
        found = []
        for name, each in class_figures(scores, self._looked_up(scores, learned)).items():
            half = reach * math.hypot(each.deviation, self.spread.get(name, 0.0))
            high = math.inf if name == "log_loss" else 1.0
            ends = max(0.0, each.value - half), min(high, each.value + half)
            found.append(
                Estimated(name, each.value, *ends, self.level, method, len(scores), blind, effective)
            )
        return tuple(found)


def _calibrated(table: ScoreTable, events: Floats) -> Floats:
    """Calibrate the bins of one class; without any row nothing is known of it."""
    if table.counts.sum() <= 0:
        return np.zeros(len(table.counts))
    return calibrate(table, events)
