"""How decisions differ between groups of people, with intervals that hold for all groups at once."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.classification import share
from tidegate.evaluation.estimate import Column, Estimate, estimate_of
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.interval import Interval, newcombe


class GroupFigures(msgspec.Struct, frozen=True):
    """One group.

    Attributes:
        group: Its value of the attribute, as text.
        n_rows: Its rows.
        figures: selection_rate, true_positive_rate, false_positive_rate, accuracy, precision; the
            intervals of all figures of all groups hold together.
    """

    group: str
    n_rows: int
    figures: tuple[Estimate, ...]


class GroupDifference(msgspec.Struct, frozen=True):
    """How far apart groups are in one figure.

    Attributes:
        difference: Largest less smallest over the groups, in [0, 1], with an interval; the intervals
            of all figures hold together.
        ratio: Smallest over largest; None where the largest is 0.
        largest: The group with the largest figure.
        smallest: The group with the smallest.
    """

    difference: Estimate
    ratio: float | None
    largest: str
    smallest: str


class Fairness(msgspec.Struct, frozen=True):
    """Decisions over the groups of one attribute.

    Attributes:
        attribute: Name of the attribute.
        groups: By falling number of rows.
        differences: One a figure that at least two groups have. Those of selection_rate and of
            equalized_odds (the larger of true and false positive rate) are what the literature calls
            demographic parity difference and equalized odds difference.
        left_out: Groups with too few rows to enter the differences.
    """

    attribute: str
    groups: tuple[GroupFigures, ...]
    differences: tuple[GroupDifference, ...]
    left_out: tuple[str, ...] = ()


class _Count(NamedTuple):
    group: str
    successes: int
    n_rows: int


def fairness(
    outcomes: npt.ArrayLike,
    decisions: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    attribute: str,
    min_rows: int = 1,
    level: float = 0.95,
) -> Fairness:
    """Compare decisions between groups.

    Rates have Wilson's interval and differences of two groups Newcombe's, each at a level that makes
    all of them hold together (Bonferroni). The largest difference of any two groups lies between the
    largest lower end and the largest upper end over all pairs: unlike the naive interval of the two
    groups that happen to be furthest apart, this one does not profit from picking them.

    Args:
        outcomes: What happened, 0 or 1, shape (n_rows,).
        decisions: What was decided, 0 or 1, shape (n_rows,).
        groups: The protected attribute, shape (n_rows,); None and NaN form a group `missing`.
        attribute: Its name.
        min_rows: Groups with fewer rows are listed but do not enter the differences.
        level: Confidence of all intervals of one kind together, in (0, 1).

    Raises:
        NotMeasurable: Columns differ in length, are empty, or are not 0 or 1.
        InvalidSetting: The level lies outside its range.

    Source: Hardt, Price & Srebro, NeurIPS 2016 (equalized odds); Newcombe 1998.
    """
    if not 0 < level < 1:
        raise InvalidSetting(f"A confidence level lies in (0, 1). Got {level}.")
    happened, decided = _truths(outcomes, "Outcomes"), _truths(decisions, "Decisions")
    names = _texts(np.asarray(groups))
    if not len(happened) == len(decided) == len(names):
        raise NotMeasurable(
            f"Outcomes, decisions and groups must have one length. Got {len(happened)}, {len(decided)} "
            f"and {len(names)}."
        )
    present, n_of = np.unique(names, return_counts=True)
    order = [str(present[i]) for i in np.argsort(-n_of, kind="stable")]
    n_rows = {str(name): int(n) for name, n in zip(present, n_of, strict=True)}
    counts = _counts(happened, decided, names, order)
    each_level = 1 - (1 - level) / (len(counts) * len(order))
    compared = {
        figure: [count for count in of if n_rows[count.group] >= min_rows and count.n_rows > 0]
        for figure, of in counts.items()
    }
    return Fairness(
        attribute=attribute,
        groups=tuple(
            GroupFigures(
                name,
                n_rows[name],
                tuple(
                    share(
                        figure,
                        of[i].successes,
                        of[i].n_rows,
                        level=each_level,
                        larger_is_better=True if figure in ("accuracy", "precision") else None,
                    )
                    for figure, of in counts.items()
                ),
            )
            for i, name in enumerate(order)
        ),
        differences=_differences(compared, level),
        left_out=tuple(name for name in order if n_rows[name] < min_rows),
    )


def _counts(
    happened: npt.NDArray[np.bool_], decided: npt.NDArray[np.bool_], names: Column, order: list[str]
) -> dict[str, list[_Count]]:
    parts: dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = {
        "selection_rate": (decided, np.ones(len(names), dtype=np.bool_)),
        "true_positive_rate": (decided, happened),
        "false_positive_rate": (decided, ~happened),
        "accuracy": (decided == happened, np.ones(len(names), dtype=np.bool_)),
        "precision": (happened, decided),
    }
    return {
        figure: [
            _Count(name, int((good & base & (names == name)).sum()), int((base & (names == name)).sum()))
            for name in order
        ]
        for figure, (good, base) in parts.items()
    }


def _differences(compared: dict[str, list[_Count]], level: float) -> tuple[GroupDifference, ...]:
    n_pairs = sum(len(of) * (len(of) - 1) // 2 for of in compared.values())
    if n_pairs == 0:
        return ()
    each_level = 1 - (1 - level) / n_pairs
    found = {
        figure: _difference(figure, of, level=level, each_level=each_level)
        for figure, of in compared.items()
        if len(of) >= 2
    }
    rates = [found[name] for name in ("true_positive_rate", "false_positive_rate") if name in found]
    if len(rates) < 2:
        return tuple(found.values())
    # of the larger of two figures: both intervals hold, so the larger lies between the larger ends
    worst = max(rates, key=lambda each: each.difference.value or 0.0)
    odds = msgspec.structs.replace(
        worst,
        difference=msgspec.structs.replace(
            worst.difference,
            name="equalized_odds",
            low=max(each.difference.low or 0.0 for each in rates),
            high=max(1.0 if each.difference.high is None else each.difference.high for each in rates),
        ),
        ratio=None if any(each.ratio is None for each in rates) else min(each.ratio or 0.0 for each in rates),
    )
    return (*found.values(), odds)


def _difference(figure: str, of: list[_Count], *, level: float, each_level: float) -> GroupDifference:
    by_rate = sorted(of, key=lambda count: count.successes / count.n_rows)
    smallest, largest = by_rate[0], by_rate[-1]
    low = high = 0.0
    for a, b in combinations(of, 2):
        pair = newcombe(a.successes, a.n_rows, b.successes, b.n_rows, level=each_level)
        low = max(low, pair.low, -pair.high)
        high = max(high, pair.high, -pair.low)
    top, bottom = largest.successes / largest.n_rows, smallest.successes / smallest.n_rows
    return GroupDifference(
        difference=estimate_of(
            figure,
            top - bottom,
            Interval(low, min(1.0, high)),
            method="newcombe-bonferroni",
            n_rows=sum(count.n_rows for count in of),
            level=level,
            larger_is_better=False,
        ),
        ratio=bottom / top if top > 0 else None,
        largest=largest.group,
        smallest=smallest.group,
    )


def _truths(values: npt.ArrayLike, name: str) -> npt.NDArray[np.bool_]:
    given = np.asarray(values)
    truths = given.astype(np.bool_)
    if given.ndim != 1 or not given.size or not np.array_equal(truths, given):
        raise NotMeasurable(f"{name} must be a column of 0 and 1 with at least one row.")
    return truths


def _texts(groups: Column) -> Column:
    if groups.ndim != 1:
        raise NotMeasurable(f"Groups must be a column. Got shape {groups.shape}.")
    return np.array(
        ["missing" if value is None or value != value else str(value) for value in groups.tolist()],  # noqa: PLR0124
        dtype=object,
    )
