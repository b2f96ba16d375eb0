"""What no drift looks like in a stream whose rows depend on each other: blocks of the reference, drawn again.

Rows of one day resemble each other: a storm, a price, a campaign. The law of PSI for independent rows
is then far too narrow. Here the reference itself says how far a window of whole days lies from the
other days; a window of today is compared with that.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.drift import psi
from tidegate.statistics.histogram import Counts

Floats = npt.NDArray[np.float64]

N_DRAWS = 2000
_SCALE_AT = 0.9
_LEAST_TAIL = 0.25
_CHUNK = 256


class DriftNull(msgspec.Struct, frozen=True):
    """How far windows of the reference lie from the rest of it, all fields at once.

    Attributes:
        n_blocks: Blocks of a window.
        scales: Field -> PSI that a tenth of the windows exceed: the unit in which fields are compared.
        medians: Field -> PSI of half of the windows.
        maxima: Of each drawn window the greatest PSI of all fields, in units of their scales,
            ascending: the test of all fields together is one test.
    """

    n_blocks: int
    scales: dict[str, float]
    medians: dict[str, float]
    maxima: tuple[float, ...]

    def statistic(self, values: Mapping[str, float]) -> float:
        """Return a window's statistic: the greatest PSI in units of the fields' scales."""
        return max(values[name] / scale for name, scale in self.scales.items())

    def p_value(self, statistic: float) -> float:
        """Return how often a window of the reference lies at least so far away.

        The window itself counts as one of the draws: where it is exchangeable with them,
        P(p <= a) <= a for every a that the number of draws resolves. Beyond the farthest draw the
        tail is taken as Pareto's with Hill's index, never lighter than a fourth power.
        """
        n_above = len(self.maxima) - int(np.searchsorted(self.maxima, statistic, side="left"))
        by_rank = (1 + n_above) / (1 + len(self.maxima))
        greatest = self.maxima[-1]
        if n_above or greatest <= 0:
            return by_rank
        return float(by_rank * (statistic / greatest) ** (-1 / self._tail_index()))

    def _tail_index(self) -> float:
        """Hill's estimate from the highest tenth of the draws (Annals of Statistics 3(5), 1975)."""
        highest = np.asarray(self.maxima[-max(10, len(self.maxima) // 10) :])
        highest = highest[highest > 0]
        return max(_LEAST_TAIL, float(np.log(highest / highest[0]).mean()))

    def field_p_value(self, name: str, value: float) -> float:
        """Return the p-value of one field within the test of all of them."""
        return self.p_value(value / self.scales[name])


def drift_null(
    blocks: Mapping[str, Counts], *, n_blocks: int, rng: np.random.Generator, n_draws: int = N_DRAWS
) -> DriftNull:
    """Draw windows of whole blocks from the reference and compare each with the blocks left over.

    Drawing without replacement and comparing with the rest gives the variance that a new window has
    against the whole reference. Of windows of one block there are as many as blocks, and all are taken.

    Args:
        blocks: Field -> counts of each block, shape (n_all, n_bins); a block is what may be exchanged
            with another one, a day in most cases.
        n_blocks: Blocks of a window.
        rng: Source of randomness.
        n_draws: Windows drawn.

    Raises:
        InvalidSetting: There are too few blocks: the reference needs at least twice those of a window.

    Source: the block bootstrap: Kuensch, Annals of Statistics 17(3), 1989; the rank as p-value:
    Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005; the maximum over fields:
    Westfall & Young, Resampling-Based Multiple Testing, 1993.
    """
    n_all = min((len(counts) for counts in blocks.values()), default=0)
    if n_blocks < 1 or n_all < 2 * n_blocks:
        raise InvalidSetting(
            f"A reference of {n_all} blocks says nothing about windows of {n_blocks}.",
            hint="Take a longer reference: at least twice the blocks of a window, better twenty times.",
        )
    if n_blocks == 1:
        chosen = np.eye(n_all)
    else:
        chosen = np.zeros((n_draws, n_all))
        for row in chosen:
            row[rng.choice(n_all, n_blocks, replace=False)] = 1
    values = {name: _distances(counts, chosen) for name, counts in blocks.items()}
    medians = {name: float(np.median(found)) for name, found in values.items()}
    scales = {
        name: max(float(np.quantile(found, _SCALE_AT)), _least_scale(blocks[name], n_blocks))
        for name, found in values.items()
    }
    maxima = np.max([values[name] / scales[name] for name in values], axis=0)
    return DriftNull(n_blocks, scales, medians, tuple(np.sort(maxima).tolist()))


def _distances(counts: Counts, chosen: Floats) -> Floats:
    total = counts.sum(axis=0)
    found = np.zeros(len(chosen))
    for start in range(0, len(chosen), _CHUNK):
        window = chosen[start : start + _CHUNK] @ counts
        rest = total - window
        filled = (window.sum(axis=1) > 0) & (rest.sum(axis=1) > 0)
        found[start : start + _CHUNK][filled] = psi(rest[filled], window[filled])
    return found


def _least_scale(counts: Counts, n_blocks: int) -> float:
    """Return what one row in an empty bin would come to: the unit of a field that never moved."""
    n_window = max(1.0, counts.sum() / len(counts) * n_blocks)
    total = float(counts.sum())
    p = 0.5 / total
    q = 1 / n_window
    return float((q - p) * np.log(q / p)) if q > p else 1 / n_window
