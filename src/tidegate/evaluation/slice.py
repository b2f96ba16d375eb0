"""Parts of the data on which a model does worse, found on one half of the rows and confirmed on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Column, Estimate, Floats, estimate_of, numbers
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.interval import welch
from tidegate.statistics.multiple import holm

Codes = Mapping[str, npt.NDArray[np.int64]]
_ROUNDING = 1e-9
# Two slices with more than half their rows in common are one finding told twice.
_MAX_OVERLAP = 0.5
_MAX_CATEGORIES = 50
_MIN_PART_SHARE = 0.01
MIN_PART_ROWS = 50
N_PART_BINS = 5
"""Ranges that a number is cut into where parts are named beforehand: fifths."""

SIZE_WEIGHT = 0.01
"""1 - a of the score. A slice of 2% of the rows counts if it is 1.5 times as bad as the whole; with the
0.05 of SliceLine's authors it would have to be 3.6 times as bad. Chance is the second half's to rule out."""


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """One requirement on one column. Exactly one of value, range or `missing` says what is asked.

    Attributes:
        column: Name of the column.
        value: The category (or text, or truth value as text) it has to be.
        low: Least number that fits; None: no lower end.
        high: Least number that no longer fits; None: no upper end.
        missing: Whether it has to be missing.
        is_time: The numbers are microseconds UTC.
    """

    column: str
    value: str | None = None
    low: float | None = None
    high: float | None = None
    missing: bool = False
    is_time: bool = False

    def matches(self, column: Column) -> npt.NDArray[np.bool_]:
        """Return which rows fit, shape (n_rows,)."""
        absent = _absent(column)
        if self.missing:
            return absent
        if self.value is not None:
            texts = column.astype(str)
            return np.asarray((texts == self.value) & ~absent)
        values = np.where(absent, np.nan, column).astype(np.float64)
        fits = ~absent
        if self.low is not None:
            fits &= values >= self.low
        if self.high is not None:
            fits &= values < self.high
        return fits

    def __str__(self) -> str:
        if self.missing:
            return f"{self.column} is missing"
        if self.value is not None:
            return f"{self.column} = {self.value}"
        parts = [
            f"{self.column} >= {self._told(self.low)}" if self.low is not None else "",
            f"{self.column} < {self._told(self.high)}" if self.high is not None else "",
        ]
        return " and ".join(part for part in parts if part) or f"{self.column} is present"

    def _told(self, number: float) -> str:
        if not self.is_time:
            return f"{number:.6g}"
        return datetime.fromtimestamp(number / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


class SliceFinding(msgspec.Struct, frozen=True):
    """A part of the data with a larger loss, as it looks on rows that had no part in finding it.

    Attributes:
        conditions: What its rows have in common.
        n_rows: Rows of it in the confirming half.
        loss: Mean loss on them.
        rest: Mean loss on the other rows of that half.
        difference: `loss` less `rest`, with an interval that holds for all findings at once.
        p_value: One-sided, of "not larger", adjusted by Holm for all findings.
        confirmed: Whether `p_value` is at most 1 - level.
        score: SliceLine's score in the finding half.
    """

    conditions: tuple[Condition, ...]
    n_rows: int
    loss: float
    rest: float
    difference: Estimate
    p_value: float
    confirmed: bool
    score: float

    def matches(self, columns: Mapping[str, Column]) -> npt.NDArray[np.bool_]:
        """Return which rows belong to it, shape (n_rows,)."""
        fits = [condition.matches(columns[condition.column]) for condition in self.conditions]
        return np.asarray(np.logical_and.reduce(fits))

    def __str__(self) -> str:
        return " and ".join(str(condition) for condition in self.conditions)


class ScoredSlice(msgspec.Struct, frozen=True):
    """A slice as the search sees it.

    Attributes:
        conditions: Pairs of feature and code, features in the order of the table.
        n_rows: How many rows fit.
        loss: Sum of their losses.
        score: SliceLine's score; above 0 it is worse than the whole.
    """

    conditions: tuple[tuple[str, int], ...]
    n_rows: int
    loss: float
    score: float


def find_slices(
    columns: Mapping[str, Column],
    losses: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    n_slices: int = 5,
    max_conditions: int = 2,
    min_rows: int | None = None,
    size_weight: float = SIZE_WEIGHT,
    n_bins: int = 5,
    level: float = 0.95,
) -> tuple[SliceFinding, ...]:
    """Search one half of the rows for slices with a larger loss, and test them on the other half.

    Numbers are cut at their quantiles in the first half, texts and categories taken as they are (the
    50 most frequent), missing values are a value of their own. Of slices that share most of their
    rows only the best is kept.

    Args:
        columns: Features, shape (n_rows,) each.
        losses: Loss of each row, >= 0: 0 or 1 for wrong answers, |error|, negative log likelihood.
        rng: Source of randomness of the halves.
        n_slices: Findings at most.
        max_conditions: Conditions of a slice at most.
        min_rows: Rows that a slice has in the first half at least; None: 1% of it, and at least 30.
        size_weight: 1 - a of the score: how much size counts against loss, in (0, 1).
        n_bins: Ranges that a column of numbers is cut into.
        level: Confidence that all confirmed findings together are right.

    Returns:
        Findings by falling score in the first half, confirmed or not.

    Raises:
        NotMeasurable: Losses are negative or not finite, or columns do not fit them.
        InvalidSetting: A setting lies outside its range.
    """
    loss = numbers(losses, name="Losses")
    if (loss < 0).any() or any(column.shape != loss.shape for column in columns.values()):
        raise NotMeasurable("Slices need losses of at least 0, and columns of one value a loss.")
    first = np.zeros(len(loss), dtype=np.bool_)
    first[rng.permutation(len(loss))[: len(loss) // 2]] = True
    if loss[first].sum() == 0 or min(first.sum(), (~first).sum()) < 4:
        return ()
    codes, conditions = encode({name: column[first] for name, column in columns.items()}, n_bins)
    found = search(
        codes,
        loss[first],
        min_rows=max(30, int(first.sum()) // 100) if min_rows is None else min_rows,
        n_slices=8 * n_slices,
        max_conditions=max_conditions,
        size_weight=size_weight,
    )
    kept: list[tuple[ScoredSlice, npt.NDArray[np.bool_]]] = []
    for each in found:
        fits = np.logical_and.reduce([codes[name] == code for name, code in each.conditions])
        overlaps = ((fits & other).sum() / (fits | other).sum() for _, other in kept)
        if len(kept) < n_slices and all(overlap <= _MAX_OVERLAP for overlap in overlaps):
            kept.append((each, fits))
    named = [
        (tuple(conditions[name][code] for name, code in each.conditions), each.score) for each, _ in kept
    ]
    second = {name: column[~first] for name, column in columns.items()}
    return _confirmed(named, second, loss[~first], level)


def search(
    codes: Codes,
    losses: Floats,
    *,
    min_rows: int,
    n_slices: int,
    max_conditions: int = 2,
    size_weight: float = SIZE_WEIGHT,
) -> list[ScoredSlice]:
    """Return the slices of highest score above 0, by falling score: all of them, not a sample.

    A slice S of n rows with losses e scores a (e_S / e - 1) - (1 - a) (n / |S| - 1), with e_S and e mean
    losses. Level by level a slice gets one condition more; one whose best possible score, by
    the sizes, sums and largest losses of all its parents, is too low is never looked at.

    Args:
        codes: Features as integers from 0; below 0 fits no condition. Shape (n_rows,) each.
        losses: Loss of each row, >= 0, not all 0. Shape (n_rows,).
        min_rows: Rows a slice has at least, >= 1.
        n_slices: How many to return.
        max_conditions: Conditions of a slice at most, >= 1.
        size_weight: 1 - a, in (0, 1).

    Raises:
        InvalidSetting: A setting lies outside its range.

    Source: Sagadeeva & Boehm, SliceLine, SIGMOD 2021.
    """
    if min_rows < 1 or n_slices < 1 or max_conditions < 1 or not 0 < size_weight < 1:
        raise InvalidSetting("A slice has at least one row and one condition, and size a weight in (0, 1).")
    lattice = _Lattice(codes, losses, min_rows=min_rows, n_slices=n_slices, size_weight=size_weight)
    level: dict[tuple[tuple[int, int], ...], _Bound] = {(): _Bound(len(losses), losses.sum(), losses.max())}
    for _ in range(max_conditions):
        level = {key: bound for parent in level for key, bound in lattice.children(parent, level)}
        # the bar may have risen since a slice was kept
        level = {key: bound for key, bound in level.items() if lattice.promising(bound)}
    return lattice.best()


class _Bound(msgspec.Struct, frozen=True):
    """What no part of a slice can exceed: its rows, the sum of its losses, its largest loss."""

    n_rows: int
    loss: float
    largest: float


class _Lattice:
    """Slices over coded columns, and the best seen so far."""

    def __init__(
        self, codes: Codes, losses: Floats, *, min_rows: int, n_slices: int, size_weight: float
    ) -> None:
        self._names = list(codes)
        self._codes = list(codes.values())
        self._n_codes = [int(column.max(initial=-1)) + 1 for column in self._codes]
        self._losses = losses
        self._mean = float(losses.mean())
        self._min_rows = min_rows
        self._n_slices = n_slices
        self._size_weight = size_weight
        self._best: list[tuple[float, tuple[tuple[int, int], ...], int, float]] = []

    def children(
        self, parent: tuple[tuple[int, int], ...], level: Mapping[tuple[tuple[int, int], ...], _Bound]
    ) -> Iterator[tuple[tuple[tuple[int, int], ...], _Bound]]:
        """Yield the slices that add one condition on a later feature and may have good parts."""
        fits = np.ones(len(self._losses), dtype=np.bool_)
        for feature, code in parent:
            fits &= self._codes[feature] == code
        rows = np.flatnonzero(fits)
        losses = self._losses[rows]
        for feature in range(parent[-1][0] + 1 if parent else 0, len(self._codes)):
            bounds = {
                code: bound
                for code in range(self._n_codes[feature])
                if (bound := self._bound((*parent, (feature, code)), level)) is not None
            }
            if not bounds:
                continue
            given = self._codes[feature][rows]
            known = given >= 0
            sizes = np.bincount(given[known], minlength=self._n_codes[feature])
            sums = np.bincount(given[known], weights=losses[known], minlength=self._n_codes[feature])
            for code, bound in bounds.items():
                n_rows, loss, largest = int(sizes[code]), float(sums[code]), bound.largest
                if n_rows < self._min_rows:
                    continue
                if not parent:  # deeper down the parents' largest loss bounds well enough
                    largest = float(losses[given == code].max())
                key = (*parent, (feature, code))
                self._offer(key, n_rows, loss)
                found = _Bound(n_rows, loss, largest)
                if self.promising(found):
                    yield key, found

    def promising(self, bound: _Bound) -> bool:
        """Whether a part of a slice with these bounds may still score high enough."""
        if bound.n_rows < self._min_rows:
            return False
        turn = bound.loss / bound.largest if bound.largest > 0 else 0.0
        sizes = (self._min_rows, min(max(turn, self._min_rows), bound.n_rows), bound.n_rows)
        highest = max(self._score(size, min(bound.loss, size * bound.largest)) for size in sizes)
        return highest > self._bar() - _ROUNDING

    def best(self) -> list[ScoredSlice]:
        return [
            ScoredSlice(tuple((self._names[f], code) for f, code in key), n_rows, loss, score)
            for score, key, n_rows, loss in self._best
        ]

    def _bound(
        self, key: tuple[tuple[int, int], ...], level: Mapping[tuple[tuple[int, int], ...], _Bound]
    ) -> _Bound | None:
        parents = [level.get(parent) for parent in combinations(key, len(key) - 1)]
        known = [parent for parent in parents if parent is not None]
        if len(known) < len(parents):
            return None  # a parent was too small or could not contain anything good: nor can this
        bound = _Bound(
            min(parent.n_rows for parent in known),
            min(parent.loss for parent in known),
            min(parent.largest for parent in known),
        )
        return bound if self.promising(bound) else None

    def _score(self, n_rows: float, loss: float) -> float:
        n, b = len(self._losses), self._size_weight
        return (1 - b) * (loss / n_rows / self._mean - 1) - b * (n / n_rows - 1)

    def _bar(self) -> float:
        return self._best[-1][0] if len(self._best) == self._n_slices else 0.0

    def _offer(self, key: tuple[tuple[int, int], ...], n_rows: int, loss: float) -> None:
        score = self._score(n_rows, loss)
        if score <= 0 or (len(self._best) == self._n_slices and score <= self._bar()):
            return
        self._best.append((score, key, n_rows, loss))
        self._best.sort(key=lambda each: (-each[0], each[1]))
        del self._best[self._n_slices :]


def _confirmed(
    named: list[tuple[tuple[Condition, ...], float]],
    columns: Mapping[str, Column],
    losses: Floats,
    level: float,
) -> tuple[SliceFinding, ...]:
    tested = []
    for conditions, score in named:
        fits = np.logical_and.reduce([each.matches(columns[each.column]) for each in conditions])
        inside, rest = losses[fits], losses[~fits]
        if len(inside) < 2 or len(rest) < 2:
            continue  # too rare in the second half to be said anything of
        tested.append((conditions, score, inside, rest))
    each_level = 1 - (1 - level) / max(1, len(tested))
    compared = [welch(inside, rest, level=each_level) for _, _, inside, rest in tested]
    adjusted = holm([p_value for _, p_value in compared])
    return tuple(
        SliceFinding(
            conditions=conditions,
            n_rows=len(inside),
            loss=float(inside.mean()),
            rest=float(rest.mean()),
            difference=estimate_of(
                "slice_difference",
                float(inside.mean() - rest.mean()),
                interval,
                method="welch-bonferroni",
                n_rows=len(inside),
                level=level,
                larger_is_better=False,
            ),
            p_value=p_value,
            confirmed=p_value <= 1 - level,
            score=score,
        )
        for (conditions, score, inside, rest), (interval, _), p_value in zip(
            tested, compared, adjusted, strict=True
        )
    )


def least_rows(n_rows: int) -> int:
    """Return how many of `n_rows` a part that was named beforehand needs, to be judged at all."""
    return max(MIN_PART_ROWS, int(_MIN_PART_SHARE * n_rows))


def encode(
    columns: Mapping[str, Column], n_bins: int
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, list[Condition]]]:
    """Return columns as codes for `search`, and what each code of a column means.

    Numbers are cut at their quantiles, the 50 most frequent texts are taken as they are, and missing
    values are a value of their own; a row that none of them fits has code -1.

    Raises:
        InvalidSetting: There are fewer than two ranges.
    """
    if n_bins < 2:
        raise InvalidSetting(f"Numbers are cut into at least two ranges. Got {n_bins}.")
    codes, conditions = {}, {}
    for name, column in columns.items():
        absent = _absent(column)
        is_number = column.dtype.kind in "iuf"
        present = column[~absent]
        meanings = _ranges(name, present, n_bins) if is_number else _categories(name, present)
        if absent.any():
            meanings.append(Condition(name, missing=True))
        code = np.full(len(column), -1, dtype=np.int64)
        for i, meaning in enumerate(meanings):
            code[meaning.matches(column)] = i
        codes[name], conditions[name] = code, meanings
    return codes, conditions


def _ranges(name: str, values: Column, n_bins: int) -> list[Condition]:
    if not len(values):
        return []
    distinct = np.unique(values.astype(np.float64))
    if len(distinct) <= n_bins:
        edges = [float(value) for value in distinct[1:]]
    else:
        cuts = np.quantile(values.astype(np.float64), np.arange(1, n_bins) / n_bins, method="higher")
        edges = [float(cut) for cut in np.unique(cuts) if cut > distinct[0]]
    lows: list[float | None] = [None, *edges]
    highs: list[float | None] = [*edges, None]
    return [Condition(name, low=low, high=high) for low, high in zip(lows, highs, strict=True)]


def _categories(name: str, values: Column) -> list[Condition]:
    texts, counts = np.unique(values.astype(str), return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:_MAX_CATEGORIES]
    return [Condition(name, value=str(texts[i])) for i in frequent]


def _absent(column: Column) -> npt.NDArray[np.bool_]:
    if column.dtype.kind == "f":
        return np.asarray(np.isnan(column))
    if column.dtype.kind == "O":
        # None, and NaN among objects, which is the only value that differs from itself
        return np.fromiter((v is None or v != v for v in column), np.bool_, len(column))  # noqa: PLR0124
    return np.zeros(len(column), dtype=np.bool_)
