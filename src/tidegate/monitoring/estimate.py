"""How good the model is before labels come: estimated from its own probabilities or its own errors.

CBPE believes the calibrated probabilities; PAPE calibrates them for the inputs of the window; DLE learns
the size of the error from the inputs. None sees that the same inputs now mean something else: every
figure leaves with its blind spots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation import metric
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.interval import Interval, grouped
from tidegate.statistics.special import student_quantile

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

N_SCORE_BINS = 256
"""Bins of the score: the figures agree with those of the single rows to 0.001."""
MIN_EFFECTIVE_SHARE = 0.02
MIN_EFFECTIVE_ROWS = 500
_EDGE = 1e-6
_N_DRAWS = 200
_FEW_CHUNKS = 3
_MOST_PAIRS = 60

BLIND_CBPE = (
    "Blind to concept shift: if the same inputs now lead to other outcomes, this figure stays as it was. "
    "Blind where inputs are unlike any in the reference."
)
BLIND_PAPE = (
    "Blind to concept shift. Inputs unlike any in the reference have no rows that could be weighted for them."
)
BLIND_DLE = (
    "Blind to concept shift: errors are expected where the reference had them. "
    "Beyond the reference's inputs it extrapolates nothing."
)


class Estimated(msgspec.Struct, frozen=True, omit_defaults=True):
    """One figure of a window, estimated without its labels.

    Attributes:
        metric: Name of the figure: `brier`, `log_loss`, `accuracy`, `precision`, `recall`, `f1`, `auc`,
            `base_rate`, `mae`, `rmse`, `error_rate`.
        value: The estimate.
        low, high: Its interval: chance of the labels, and how far estimates of later stretches of
            the reference from its first ones were off. A shift that the reference has no like of is
            in none.
        level: Confidence of the interval.
        method: `cbpe`, `pape` or `dle`.
        n_rows: Rows it rests on.
        effective_rows: For PAPE: rows of the reference that the weights leave, in effect.
        blind: What it cannot see, in words.
    """

    metric: str
    value: float
    low: float
    high: float
    level: float
    method: str
    n_rows: int
    blind: str
    effective_rows: float | None = None


class Expected(NamedTuple):
    """A figure and the standard deviation that chance of the labels alone gives it."""

    value: float
    deviation: float


class ScoreTable(msgspec.Struct, frozen=True):
    """The mergeable form of a window's scores: all that CBPE needs.

    Attributes:
        counts: Rows by bin of the score, shape (n_bins,).
        sums: Sum of the scores in each bin, shape (n_bins,).
    """

    counts: Floats
    sums: Floats

    def __add__(self, other: ScoreTable) -> ScoreTable:
        return ScoreTable(self.counts + other.counts, self.sums + other.sums)

    @property
    def scores(self) -> Floats:
        """Mean score of each bin; 0 where it is empty."""
        return np.asarray(
            np.divide(self.sums, self.counts, out=np.zeros_like(self.sums), where=self.counts > 0)
        )


def score_cuts(scores: Floats, *, threshold: float, n_bins: int = N_SCORE_BINS) -> Floats:
    """Return inner ends of score bins: quantiles of the reference, and the threshold of action."""
    inner = np.quantile(scores, np.arange(1, n_bins) / n_bins)
    return np.unique(np.r_[inner, threshold])


def score_table(scores: Floats, cuts: Floats, *, weights: Floats | None = None) -> ScoreTable:
    """Count scores by bin."""
    bins = np.searchsorted(cuts, scores, side="right")
    n_bins = len(cuts) + 1
    given = np.ones(len(scores)) if weights is None else weights
    return ScoreTable(
        _sums(bins, given, n_bins),
        _sums(bins, given * scores, n_bins),
    )


def expected_figures(
    table: ScoreTable, chances: Floats, *, threshold: float, rng: np.random.Generator | None = None
) -> dict[str, Expected]:
    """Return what the figures are in expectation, if `chances` are the probabilities of the event.

    Args:
        table: The window's scores by bin.
        chances: Calibrated probability of each bin, shape (n_bins,).
        threshold: Scores of at least this are acted upon.
        rng: Source of randomness for the deviation of the AUC; None leaves it at 0.

    Source: Kivimaki et al., arXiv 2505.05295 and 2407.08649; deviations by the delta method over
    independent Poisson-binomial counts.
    """
    n, p, c = table.counts, table.scores, chances
    total = float(n.sum())
    if total <= 0:
        raise NotMeasurable("An estimate needs at least one row.")
    acted = p >= threshold
    vary = n * c * (1 - c)
    tp, fn = float((n * c)[acted].sum()), float((n * c)[~acted].sum())
    fp, tn = float((n * (1 - c))[acted].sum()), float((n * (1 - c))[~acted].sum())
    v_acted, v_rest = float(vary[acted].sum()), float(vary[~acted].sum())
    safe = np.clip(p, _EDGE, 1 - _EDGE)
    found = {
        "base_rate": Expected((tp + fn) / total, math.sqrt(v_acted + v_rest) / total),
        "brier": Expected(
            float((n * (c * (1 - p) ** 2 + (1 - c) * p**2)).sum()) / total,
            math.sqrt(float((vary * (1 - 2 * p) ** 2).sum())) / total,
        ),
        "log_loss": Expected(
            float((n * -(c * np.log(safe) + (1 - c) * np.log1p(-safe))).sum()) / total,
            math.sqrt(float((vary * np.log(safe / (1 - safe)) ** 2).sum())) / total,
        ),
        "accuracy": Expected((tp + tn) / total, math.sqrt(v_acted + v_rest) / total),
    }
    if tp + fp > 0:
        found["precision"] = Expected(tp / (tp + fp), math.sqrt(v_acted) / (tp + fp))
    events = tp + fn
    if events > 0:
        # recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN); FP = acted - TP
        slope = math.sqrt(fn**2 * v_acted + tp**2 * v_rest) / events**2
        found["recall"] = Expected(tp / events, slope)
        acted_rows = tp + fp
        below = acted_rows + events
        d_tp, d_fn = 2 * (below - tp) / below**2, -2 * tp / below**2
        found["f1"] = Expected(2 * tp / below, math.sqrt(d_tp**2 * v_acted + d_fn**2 * v_rest))
    if events > 0 and fp + tn > 0:
        found["auc"] = Expected(*_expected_auc(n, c, rng))
    return found


def _expected_auc(n: Floats, c: Floats, rng: np.random.Generator | None) -> tuple[float, float]:
    value = float(_auc((n * c)[None], (n * (1 - c))[None])[0])
    if rng is None:
        return value, 0.0
    events = rng.binomial(np.rint(n).astype(np.int64), np.clip(c, 0, 1), size=(_N_DRAWS, len(n)))
    drawn = _auc(events.astype(np.float64), np.rint(n) - events)
    return value, float(np.nanstd(drawn))


def _auc(events: Floats, others: Floats) -> Floats:
    before = np.cumsum(others, axis=1) - others
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = (events * (before + others / 2)).sum(axis=1)
        return np.asarray(pairs / (events.sum(axis=1) * others.sum(axis=1)))


def calibrate(table: ScoreTable, events: Floats) -> Floats:
    """Return the probability of each score bin: events among its rows, made to grow with the score.

    Args:
        table: The reference's scores by bin.
        events: Sum of labels (or of their weights) in each bin.

    Source: pool adjacent violators: Barlow et al., 1972.
    """
    filled = table.counts > 0
    places = np.flatnonzero(filled)
    means = events[filled] / table.counts[filled]
    pools: list[tuple[float, float, int]] = []
    for mean, weight in zip(means.tolist(), table.counts[filled].tolist(), strict=True):
        pool = (mean, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            m, w, size = pools.pop()
            together = w + pool[1]
            pool = ((m * w + pool[0] * pool[1]) / together, together, size + pool[2])
        pools.append(pool)
    steps = np.repeat([m for m, _, _ in pools], [size for _, _, size in pools])
    return np.asarray(np.clip(np.interp(np.arange(len(filled)), places, steps), 0, 1))


class Misses:
    """How far estimates from the first stretches of a reference are off in later ones, as they are used.

    An estimate is made months after the labels that it was calibrated on. Leaving one stretch out and
    calibrating on those before and after it hides that calibration wanders: on hotel bookings such
    intervals of 95% held 42% of the months. Both are looked at, and the larger miss counts.
    """

    def __init__(self, chunk: Integers) -> None:
        """Take the number of each row's stretch of time."""
        self._present = np.unique(chunk).tolist()
        self.n_chunks = len(self._present)
        self._misses: dict[tuple[str, bool], list[tuple[float, float]]] = {}

    @property
    def pairs(self) -> Iterator[tuple[int, int | None]]:
        """Return which stretches to estimate from all rows before which stretch; None: from all others."""
        if self.n_chunks < 2:
            return
        yield from ((each, None) for each in self._present)
        least = 2 if self.n_chunks > _FEW_CHUNKS else 1
        pairs = [
            (self._present[later], self._present[first])
            for later in range(least, self.n_chunks)
            for first in range(least, later + 1)
        ]
        yield from pairs[:: -(-len(pairs) // _MOST_PAIRS) or 1]

    def note(
        self, before: int | None, estimated: Mapping[str, Expected], realised: Mapping[str, float]
    ) -> None:
        """Note one of the pairs: its estimate and what came true."""
        for name, each in estimated.items():
            if name in realised:
                miss = each.value - realised[name], each.deviation
                self._misses.setdefault((name, before is None), []).append(miss)

    def spread(self) -> dict[str, float]:
        """Return by figure what the estimates missed beyond chance, as standard deviations."""
        found: dict[str, float] = {}
        for (name, _), misses in self._misses.items():
            miss, chance = np.square(misses).mean(axis=0).tolist()
            found[name] = max(found.get(name, 0.0), math.sqrt(max(0.0, miss - chance)))
        return found


def enough_rows(effective: float, n_rows: int) -> bool:
    """Tell whether weights leave enough rows of a reference in effect."""
    return effective >= max(MIN_EFFECTIVE_ROWS, MIN_EFFECTIVE_SHARE * n_rows)


class CalibratedEstimator:
    """CBPE and PAPE over one labelled reference."""

    def __init__(
        self,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        chunk: Integers,
        rng: np.random.Generator,
        threshold: float = 0.5,
        level: float = 0.95,
    ) -> None:
        """Learn calibration and how far estimates are off.

        Args:
            scores: Probabilities that the model gave, shape (n_rows,); to rows it was not fitted on.
            labels: 0 or 1, shape (n_rows,).
            chunk: Number of each row's stretch of time, from 0: stretches like the windows that are
                to be estimated. Later ones are estimated from the first ones, and how far that is off
                widens the intervals. With fewer than two there is only the chance of the labels.
            rng: Source of randomness.
            threshold: Scores of at least this are acted upon.
            level: Confidence, in (0, 1).

        Raises:
            NotMeasurable: See `metric.binary_report`.
        """
        metric.binary_report(labels, scores)  # refuses what cannot be measured
        self.threshold, self.level = threshold, level
        self._scores = np.asarray(scores, dtype=np.float64)
        self._labels = np.asarray(labels, dtype=np.float64)
        self._chunk = chunk
        self._rng = rng
        self.cuts = score_cuts(self._scores, threshold=threshold)
        self._bins = np.searchsorted(self.cuts, self._scores, side="right")
        n_chunks = int(chunk.max()) + 1 if len(chunk) else 0
        self._rows = self._summed(np.ones(len(self._scores)), n_chunks)
        self._sums = self._summed(self._scores, n_chunks)
        self._events = self._summed(self._labels, n_chunks)
        self.recalibrated = self._recalibration_helps(n_chunks)
        whole = ScoreTable(self._rows.sum(axis=0), self._sums.sum(axis=0))
        self.chances = self._chances(whole, self._events.sum(axis=0))
        self.spread, self.n_chunks = self._misses()

    def _summed(self, values: Floats, n_chunks: int) -> Floats:
        n_bins = len(self.cuts) + 1
        placed = _sums(self._chunk * n_bins + self._bins, values, n_chunks * n_bins)
        return placed.reshape(n_chunks, n_bins)

    def _from(self, chunk: int, before: int | None) -> tuple[ScoreTable, Floats]:
        """Return the rows before a chunk, or all but those of `chunk`."""
        places = np.arange(len(self._rows))
        others = places != chunk if before is None else places < before
        return (
            ScoreTable(self._rows[others].sum(axis=0), self._sums[others].sum(axis=0)),
            self._events[others].sum(axis=0),
        )

    def _recalibration_helps(self, n_chunks: int) -> bool:
        """Tell by log loss on chunks that had no part in it."""
        if n_chunks < 2:
            return False
        before = after = 0.0
        for chunk in range(n_chunks):
            table, events = self._from(chunk, None)
            if table.counts.sum() == 0:
                return False
            own = ScoreTable(self._rows[chunk], self._sums[chunk])
            before += _cross_entropy(own.scores, self._rows[chunk], self._events[chunk])
            after += _cross_entropy(calibrate(table, events), self._rows[chunk], self._events[chunk])
        return after < before

    def _chances(self, table: ScoreTable, events: Floats) -> Floats | None:
        return calibrate(table, events) if self.recalibrated else None

    def _misses(self) -> tuple[dict[str, float], int]:
        """Return what estimates of the reference's chunks miss beyond chance, as standard deviations."""
        misses = Misses(self._chunk)
        for chunk, before in misses.pairs:
            own = ScoreTable(self._rows[chunk], self._sums[chunk])
            given = self._chances(*self._from(chunk, before))
            mine = self._chunk == chunk
            misses.note(
                before,
                expected_figures(
                    own, own.scores if given is None else given, threshold=self.threshold, rng=self._rng
                ),
                realised_figures(self._scores[mine], self._labels[mine], threshold=self.threshold),
            )
        return misses.spread(), misses.n_chunks

    def table(self, scores: Floats) -> ScoreTable:
        """Return the mergeable form of a window's scores."""
        return score_table(scores, self.cuts)

    def cbpe(self, table: ScoreTable) -> tuple[Estimated, ...]:
        """Estimate a window's figures from its scores.

        Raises:
            NotMeasurable: It has no rows.
        """
        chances = table.scores if self.chances is None else self.chances
        return self._figures(table, chances, "cbpe", BLIND_CBPE, None)

    def pape(self, table: ScoreTable, weights: npt.ArrayLike) -> tuple[Estimated, ...]:
        """Estimate a window's figures with the reference weighted to look like it.

        Args:
            table: The window's scores by bin.
            weights: Density of the window over that of the reference at each of the reference's rows,
                shape (n_reference,). Where they leave too few rows in effect, the answer is CBPE's.

        Raises:
            NotMeasurable: The window has no rows.
            InvalidSetting: There is not one weight a row of the reference.

        Source: Bialek et al., arXiv 2401.08348; effective sample size: Kish, Survey Sampling, 1965.
        """
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != self._scores.shape:
            raise InvalidSetting(f"One weight a row of the reference. Got {given.shape}.")
        effective = float(given.sum() ** 2 / max(float((given**2).sum()), 1e-300))
        if not enough_rows(effective, len(given)):
            return self._figures(
                table,
                table.scores if self.chances is None else self.chances,
                "cbpe",
                f"{BLIND_CBPE} The reference has too few rows like this window for PAPE ({effective:.0f}).",
                effective,
            )
        weighted = score_table(self._scores, self.cuts, weights=given)
        events = _sums(self._bins, given * self._labels, len(self.cuts) + 1)
        return self._figures(table, calibrate(weighted, events), "pape", BLIND_PAPE, effective)

    def _figures(
        self, table: ScoreTable, chances: Floats, method: str, blind: str, effective: float | None
    ) -> tuple[Estimated, ...]:
        freedom = max(1, self.n_chunks - 1) if self.n_chunks >= 2 else 1000
        reach = student_quantile(0.5 + self.level / 2, freedom)
        found = []
        for name, each in expected_figures(table, chances, threshold=self.threshold, rng=self._rng).items():
            half = reach * math.hypot(each.deviation, self.spread.get(name, 0.0))
            found.append(
                Estimated(
                    name,
                    each.value,
                    each.value - half if name == "log_loss" else max(0.0, each.value - half),
                    each.value + half if name == "log_loss" else min(1.0, each.value + half),
                    self.level,
                    method,
                    round(float(table.counts.sum())),
                    blind,
                    effective,
                )
            )
        return tuple(found)


def realised_figures(scores: Floats, labels: Floats, *, threshold: float) -> dict[str, float]:
    """Return the figures of `expected_figures`, from labels; those that are not defined are left out."""
    n_rows = len(labels)
    if not n_rows:
        return {}
    acted = scores >= threshold
    tp, fp = float(labels[acted].sum()), float((1 - labels[acted]).sum())
    events = float(labels.sum())
    found = {
        "base_rate": events / n_rows,
        "brier": float(((labels - scores) ** 2).mean()),
        "log_loss": metric.log_loss(labels, scores, floor=_EDGE),
        "accuracy": float((acted == (labels > 0)).mean()),
    }
    if tp + fp > 0:
        found["precision"] = tp / (tp + fp)
    if events > 0:
        found["recall"] = tp / events
        found["f1"] = 2 * tp / (tp + fp + events)
    if 0 < events < n_rows:
        found["auc"] = metric.auc(labels, scores)
    return found


def _sums(places: npt.NDArray[np.integer[Any]], weights: Floats, n_places: int) -> Floats:
    return np.bincount(places, weights=weights, minlength=n_places).astype(np.float64)


def _cross_entropy(chances: Floats, rows: Floats, events: Floats) -> float:
    safe = np.clip(chances, 1e-4, 1 - 1e-4)
    return float(-(events * np.log(safe) + (rows - events) * np.log1p(-safe)).sum())


def fused(
    estimates: npt.ArrayLike,
    losses: npt.ArrayLike,
    propensities: npt.ArrayLike,
    *,
    cluster: Integers | None = None,
    level: float = 0.95,
) -> tuple[float, Interval | None]:
    """Return the mean loss from estimates of all rows, put right by those with labels.

    Of one row, or rows of one cluster, there is no interval: nothing says how like it others would be.

    theta = (1/N) [ sum of all estimates + sum over labelled rows of (loss - estimate) / propensity ]

    Args:
        estimates: What each row is expected to lose, shape (n_rows,).
        losses: What it lost; NaN where it has no label.
        propensities: Probability that a row has got its label by now, as logged, in (0, 1]; right
            propensities make theta unbiased however bad the estimates are.
        cluster: Which rows belong together (a day), for the interval.
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: There are no rows, or a labelled one has no propensity above 0.

    Source: Angelopoulos et al., Prediction-powered inference, Science 382, 2023; arXiv 2403.03208.
    """
    f, loss = np.asarray(estimates, np.float64), np.asarray(losses, np.float64)
    pi = np.broadcast_to(np.asarray(propensities, np.float64), loss.shape)
    labelled = np.isfinite(loss)
    if not len(f) or bool((pi[labelled] <= 0).any()):
        raise NotMeasurable("A fused estimate needs rows, and propensities above 0 where there are labels.")
    terms = f.copy()
    terms[labelled] += (loss[labelled] - f[labelled]) / pi[labelled]
    return float(terms.mean()), grouped(terms, cluster, level=level)


def by_name(figures: tuple[Estimated, ...]) -> Mapping[str, Estimated]:
    """Return estimates by the name of their figure."""
    return {each.metric: each for each in figures}
