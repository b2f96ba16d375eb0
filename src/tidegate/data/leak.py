"""Leaks: features that know the answer, which at the time of asking nobody did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.data.label import require_single_values
from tidegate.data.split import Split, shared_keys

AUC_LIMIT = 0.85
"""A single feature that orders the answers so well is the answer in another form, until someone explains it.

Measured: what is known of a flight before it leaves reaches 0.72 for a late arrival, its departure delay
0.89; what is known of a hotel booking reaches 0.70 for a cancellation, its final status 1.0."""

MAX_BINS = 256
"""Quantile bins of a number with more values: fine enough for an AUC to 0.01, coarse enough to hold rows."""

BIN_ROWS = 20
"""Rows of a bin in a smaller table: half of them teach a rate, half are judged by it."""

VALUE_ROWS = 4
"""Rows of a value on average, below which the values of a number are no classes: only half of them teach."""

HONEST_AUC = 0.75
"""Of a feature that is honestly known; see `AUC_LIMIT` for what was measured."""

MAX_CLASSES = 20

_PRIOR_ROWS = 1.0
_NORMAL_99 = 2.326

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class LeakKind(StrEnum):
    """How an answer got into a feature."""

    ANSWER = "answer"  # the feature alone predicts the label too well
    AFTER_EVENT = "after-event"  # a time in it lies after the moment of asking
    SHARED_KEY = "shared-key"  # keys of the test were seen in training


class Leak(msgspec.Struct, frozen=True):
    """One suspicion, with its figure.

    Attributes:
        kind: How.
        column: Which; several are joined by `, `.
        figure: AUC in [0.5, 1], or the share of rows or keys concerned.
        message: The same in words.
    """

    kind: LeakKind
    column: str
    figure: float
    message: str


def find_leaks(
    table: pl.DataFrame,
    label: str,
    *,
    features: Sequence[str] | None = None,
    asked_at: str | None = None,
    split: Split | None = None,
    keys: Sequence[str] = (),
    auc_limit: float = AUC_LIMIT,
) -> list[Leak]:
    """Look for features that know the answer.

    Args:
        table: The rows, label included. Rows without a label are left out.
        label: A class of at most `MAX_CLASSES` values, or a number (then: is it above its median?).
        features: What a model would be given; every column but the label if None.
        asked_at: The time at which each row's prediction would be asked for; features that are times
            must not lie after it.
        split: Training and test rows, for `keys`.
        keys: Columns that name whom a row is about; no key may stand on both sides of the split.
        auc_limit: Above it a feature is suspect.

    Returns:
        The worst of each kind first. With few rows of an answer the limit is higher, so that chance does
        not accuse an honest feature once in a hundred times; see also `why_untold`.

    Raises:
        InvalidSetting: A column is missing, or the label has a single value, or none that is single.
    """
    named = [name for name in table.columns if name != label] if features is None else list(features)
    for name in (label, *named, *keys, *([asked_at] if asked_at is not None else [])):
        if name not in table.columns:
            raise InvalidSetting(
                f"There is no column {name!r}.", hint=f"Columns: {', '.join(table.columns)}."
            )
    require_single_values(table[label])
    found = list(_answers(_labelled(table, label), label, named, auc_limit))
    if asked_at is not None:
        found += _after(table, asked_at, named)
    if split is not None and keys:
        found += _shared(table, split, keys)
    order = list(LeakKind)
    return sorted(found, key=lambda leak: (order.index(leak.kind), -leak.figure))


def why_untold(table: pl.DataFrame, label: str, *, auc_limit: float = AUC_LIMIT) -> str:
    """Say that rows are too few to suspect a feature of knowing the label; empty where they are not.

    Args:
        table: As for `find_leaks`.
        label: As for `find_leaks`.
        auc_limit: As for `find_leaks`.
    """
    targets = list(_targets(_labelled(table, label)[label]))
    if auc_limit >= 1 or any(_limit(target, auc_limit) < 1 for target in targets):
        return ""
    n_rows = max((min(int(target.sum()), int((~target).sum())) for target in targets), default=0)
    return f"{n_rows} rows of the rarer answer of {label!r} are too few to tell whether a feature knows it."


def _labelled(table: pl.DataFrame, label: str) -> pl.DataFrame:
    """Return the rows that have a label; NaN is none."""
    known = pl.col(label).is_not_null()
    return table.filter(known & pl.col(label).is_not_nan() if table[label].dtype.is_float() else known)


def _answers(table: pl.DataFrame, label: str, features: Sequence[str], limit: float) -> Iterator[Leak]:
    targets = [(target, _limit(target, limit)) for target in _targets(table[label])]
    if not targets:
        raise InvalidSetting(f"The label {label!r} has a single value: nothing can be told from it.")
    targets = [(target, least) for target, least in targets if least < 1]
    for name in features:
        if name == label or table[name].dtype.is_nested() or table[name].dtype == pl.Object:
            continue
        numbers, codes = _numbers(table[name]), _codes(table[name])
        found = [
            (max(_crossed_auc(codes, target), _ranked_auc(numbers, target)), least)
            for target, least in targets
        ]
        best = max((figure for figure, least in found if figure > least), default=0.0)
        if best > limit:
            message = f"{name!r} alone orders {label!r} with AUC {best:.3f}, above {limit:g}."
            yield Leak(LeakKind.ANSWER, name, best, message)


def _targets(label: pl.Series) -> Iterator[Flags]:
    """Give the label as questions of yes and no."""
    distinct = label.unique(maintain_order=True)
    if len(distinct) < 2:
        return
    if len(distinct) > MAX_CLASSES:
        if not label.dtype.is_numeric():
            raise InvalidSetting(f"The label {label.name!r} has {len(distinct)} values and is no number.")
        yield (label > label.median()).to_numpy()
        return
    for value in distinct if len(distinct) > 2 else distinct[:1]:
        yield (label == value).to_numpy()


def _limit(target: Flags, limit: float) -> float:
    """Return the AUC that an honest feature exceeds at most once in a hundred times, at least `limit`.

    Source: the variance of an AUC is at most AUC (1 - AUC) / min(n_yes, n_no); van Dantzig, Proceedings
    KNAW A 54, 1951.
    """
    n_rarer = max(min(int(target.sum()), int((~target).sum())), 1)
    honest = min(HONEST_AUC, limit)
    return max(limit, honest + _NORMAL_99 * math.sqrt(honest * (1 - honest) / n_rarer))


def _numbers(feature: pl.Series) -> Floats | None:
    """Return numbers and times as numbers, missing as NaN; None of anything else."""
    if feature.dtype.is_temporal():
        feature = feature.to_physical()
    return feature.cast(pl.Float64).to_numpy() if feature.dtype.is_numeric() else None


def _codes(feature: pl.Series) -> Codes:
    """Return each row's value as a small number, missing being one."""
    values = _numbers(feature)
    if values is not None:
        present = ~np.isnan(values)
        n_present = int(present.sum())
        if len(np.unique(values[present])) > min(MAX_BINS, n_present // VALUE_ROWS):
            n_bins = min(MAX_BINS, max(2, n_present // BIN_ROWS))
            cuts = np.linspace(0, 1, n_bins + 1)[1:-1]
            edges = np.unique(np.quantile(values[present], cuts, method="lower"))  # infinities have no middle
            return np.where(present, np.searchsorted(edges, values), len(edges) + 1).astype(np.int64)
    if feature.dtype.is_float():
        feature = feature.fill_nan(None)
    return feature.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _ranked_auc(values: Floats | None, target: Flags) -> float:
    """Return how well numbers order the answer as they stand, in a table too small for many bins.

    Nothing is learnt but which way round, so that each row counts. Missing values say nothing.
    """
    if values is None or len(values) >= MAX_BINS * BIN_ROWS or np.isnan(values).all():
        return 0.5
    middle = np.nanquantile(values, 0.5, method="lower")
    area = area_under_curve(np.where(np.isnan(values), middle, values), target, ~target)
    return max(area, 1 - area)


def _crossed_auc(codes: Codes, target: Flags) -> float:
    """Return how well the label rate of a value, learnt on one half, orders the other; mean of both ways.

    Learnt and judged on the same rows, a column of names would know everything.
    """
    half = np.random.default_rng(0).random(len(codes)) < 0.5
    n_codes = int(codes.max()) + 1 if len(codes) else 1
    found = []
    for learn in (half, ~half):
        judge = ~learn
        if not target[judge].any() or target[judge].all() or not learn.any():
            continue
        base = float(target[learn].mean())
        rows = np.bincount(codes[learn], minlength=n_codes)
        hits = np.bincount(codes[learn], weights=target[learn], minlength=n_codes)
        rates = (hits + _PRIOR_ROWS * base) / (rows + _PRIOR_ROWS)
        n_rows = np.bincount(codes[judge], minlength=n_codes)
        yes = np.bincount(codes[judge], weights=target[judge], minlength=n_codes)
        found.append(area_under_curve(rates, yes, n_rows - yes))
    return float(np.mean(found)) if found else 0.5


def area_under_curve(scores: Floats, yes: npt.NDArray[Any], no: npt.NDArray[Any]) -> float:
    """Return the probability that a yes scores above a no, ties counting half.

    Args:
        scores: Shape (n_groups,).
        yes: Rows of each group whose answer is yes; at least one in all.
        no: Rows whose answer is no; at least one in all.
    """
    _, place = np.unique(scores, return_inverse=True)
    n_yes, n_no = np.bincount(place, weights=yes), np.bincount(place, weights=no)
    below = np.cumsum(n_no) - n_no
    return float((n_yes * (below + n_no / 2)).sum() / (n_yes.sum() * n_no.sum()))


def _after(table: pl.DataFrame, asked_at: str, features: Sequence[str]) -> Iterator[Leak]:
    asked = table[asked_at].dtype
    if not isinstance(asked, pl.Datetime | pl.Date):
        raise InvalidSetting(f"Column {asked_at!r} is {asked}, not a time.")
    moment = pl.col(asked_at).dt.epoch("us")
    for name in features:
        dtype = table[name].dtype
        if name == asked_at or not isinstance(dtype, pl.Datetime | pl.Date):
            continue
        both = table.select((pl.col(name).dt.epoch("us") > moment).drop_nulls().alias("after"))["after"]
        n_after = int(both.sum())
        if n_after:
            share = n_after / len(both)
            message = f"{name!r} lies after {asked_at!r} in {n_after} of {len(both)} rows."
            yield Leak(LeakKind.AFTER_EVENT, name, share, message)


def _shared(table: pl.DataFrame, split: Split, keys: Sequence[str]) -> Iterator[Leak]:
    n_shared = len(shared_keys(table, split, keys))
    if n_shared:
        n_test = table.select(keys)[split.test].n_unique()
        message = f"{n_shared} of {n_test} keys of the test stand in the training rows too."
        yield Leak(LeakKind.SHARED_KEY, ", ".join(keys), n_shared / n_test, message)
