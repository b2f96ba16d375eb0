"""Drift of many fields at once: which moved, by more than days differ anyway, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.monitoring.profile import Grids, codes_of
from tidegate.statistics import drift
from tidegate.statistics.histogram import Counts, Grid, NumberGrid
from tidegate.statistics.null import DriftNull, drift_null

Floats = npt.NDArray[np.float64]
WINDOWS = (1, 7)
"""Days of a window: one finds what breaks, a week what creeps and what one day is too small for."""


class FieldShift(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one field of a window differs from the reference.

    Attributes:
        field: Name of the field.
        psi: Population stability index, nats.
        excess: PSI beyond what windows of the reference have among themselves (their median).
        ks: Kolmogorov-Smirnov distance of the bins, in [0, 1]; None for categories.
        jensen_shannon: Distance in [0, 1].
        wasserstein: In the field's unit; None for categories.
        p_value: Against day blocks of the reference, all fields as one test.
        chi2_p: The same for independent rows, which they seldom are: for comparison.
        missing, missing_before: Share of rows without a value, in the window and the reference.
        strange: Share of rows with a value that the reference lacks: an unseen category, or out
            of its range.
        moved: The bin that moved most, in words, and its shares before and now.
        effect: Estimated change of the mean loss by this field alone; None where it is not known.
    """

    field: str
    psi: float
    excess: float
    jensen_shannon: float
    p_value: float
    chi2_p: float
    missing: float
    missing_before: float
    strange: float
    moved: tuple[str, float, float]
    ks: float | None = None
    wasserstein: float | None = None
    effect: float | None = None

    @property
    def kind(self) -> str:
        """What the shift is mostly: `missing`, `unseen`, `range` or `drift`."""
        if self.moved[0] == "missing":
            return "missing"
        if self.moved[0] == "any other":
            return "unseen"
        return "range" if self.moved[0].startswith(("below ", "above ")) else "drift"


class ShiftTest(msgspec.Struct, frozen=True):
    """What one window came to.

    Attributes:
        n_blocks: Days in it.
        p_value: Of "no field moved".
        level: At or below it, it is an alarm.
        culprits: Fields that are below the level themselves and above the floor of effect, the
            costliest first.
    """

    n_blocks: int
    p_value: float
    level: float
    culprits: tuple[FieldShift, ...]


class ShiftMonitor:
    """Compares windows of days with a reference, field by field, as one test a window."""

    def __init__(
        self,
        blocks: Mapping[str, Counts],
        grids: Grids,
        *,
        allowance: float,
        min_effect: float,
        rng: np.random.Generator,
        losses: Mapping[str, Floats] | None = None,
        windows: tuple[int, ...] = WINDOWS,
        windows_per_month: float = 30.0,
    ) -> None:
        """Learn from the reference how far its own days lie apart.

        Args:
            blocks: Field -> counts by day of the reference, shape (n_days, n_bins).
            grids: Their bins.
            allowance: False alarms a month, for all windows and fields together.
            min_effect: Least excess of PSI that counts.
            rng: Source of randomness.
            losses: Field -> mean loss of the reference's rows by bin, by which fields are sorted.
            windows: Days of the windows that end with each day; those that the reference is too
                short for are left out.
            windows_per_month: How often each is looked at in 30 days.

        Raises:
            InvalidSetting: The reference is shorter than two days.
        """
        self.grids = {name: grids[name] for name in blocks}
        self.reference = {name: counts.sum(axis=0) for name, counts in blocks.items()}
        self._losses = losses or {}
        self._min_effect = min_effect
        n_all = min((len(counts) for counts in blocks.values()), default=0)
        fitting = [length for length in windows if n_all >= 2 * length]
        if not fitting:
            raise InvalidSetting(
                f"A reference of {n_all} days says nothing about drift.",
                hint="It needs two days at least; a month sees much more.",
            )
        self.nulls: dict[int, DriftNull] = {
            length: drift_null(blocks, n_blocks=length, rng=rng) for length in fitting
        }
        self.level = allowance / len(fitting) / windows_per_month

    def test(self, counts: Mapping[str, Counts], n_blocks: int) -> ShiftTest:
        """Compare one window.

        Args:
            counts: Field -> rows by bin.
            n_blocks: Its days; one of the windows that the monitor was made for.
        """
        null = self.nulls[n_blocks]
        filled = {name: counts[name] for name in self.reference if counts[name].sum()}
        values = {name: float(drift.psi(self.reference[name], found)) for name, found in filled.items()}
        if not values:
            return ShiftTest(n_blocks, 1.0, self.level, ())
        p_value = null.p_value(max(value / null.scales[name] for name, value in values.items()))
        culprits = []
        if p_value <= self.level:
            shifts = [self.describe(name, found, n_blocks) for name, found in filled.items()]
            culprits = [
                shift for shift in shifts if shift.p_value <= self.level and shift.excess >= self._min_effect
            ]
        culprits.sort(key=lambda shift: (-abs(shift.effect or 0.0), -shift.excess))
        return ShiftTest(n_blocks, p_value, self.level, tuple(culprits))

    def describe(self, name: str, counts: Counts, n_blocks: int) -> FieldShift:
        """Measure one field of a window; a window of other lengths is judged by the longest null."""
        null = self.nulls.get(n_blocks) or self.nulls[max(self.nulls)]
        grid, before = self.grids[name], self.reference[name]
        p, q = before / before.sum(), counts / counts.sum()
        value = float(drift.psi(before, counts))
        ordered = isinstance(grid, NumberGrid) and before[:-1].sum() > 0 and counts[:-1].sum() > 0
        most = int(np.argmax(_contributions(p, q)))
        loss = self._losses.get(name)
        return FieldShift(
            field=name,
            psi=value,
            excess=value - null.medians[name],
            jensen_shannon=float(drift.jensen_shannon(before, counts)),
            p_value=null.field_p_value(name, value),
            chi2_p=drift.chi_square(before, counts)[1],
            missing=float(q[-1]),
            missing_before=float(p[-1]),
            strange=_strange(grid, q),
            moved=(grid.names[most], float(p[most]), float(q[most])),
            ks=float(drift.ks(before[:-1], counts[:-1])) if ordered else None,
            wasserstein=_wasserstein(grid, before, counts) if ordered else None,
            effect=None if loss is None else float(((q - p) * loss).sum()),
        )


def mean_losses(table: pl.DataFrame, grids: Grids, losses: Floats) -> dict[str, Floats]:
    """Return the mean loss of the rows in each bin of each field; the mean of all where a bin is empty."""
    found = {}
    mean = float(losses.mean()) if len(losses) else 0.0
    for name, grid in grids.items():
        codes = codes_of(table[name], grid)
        rows = np.bincount(codes, minlength=grid.n_bins)
        sums = np.bincount(codes, weights=losses, minlength=grid.n_bins)
        found[name] = np.where(rows > 0, sums / np.maximum(rows, 1), mean)
    return found


def _contributions(p: Floats, q: Floats) -> Floats:
    tiny = 1e-6
    return np.asarray((q - p) * np.log(np.maximum(q, tiny) / np.maximum(p, tiny)))


def _strange(grid: Grid, shares: Floats) -> float:
    return float(shares[0] + shares[-2]) if isinstance(grid, NumberGrid) else float(shares[-2])


def _wasserstein(grid: Grid, before: Counts, counts: Counts) -> float:
    assert isinstance(grid, NumberGrid)
    return float(drift.wasserstein(before[:-1], counts[:-1], grid.cuts))
