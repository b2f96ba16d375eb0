"""Labels that are likely wrong: a model that has not seen the row is confident of another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.data.label import require_single_values

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

Learner = Callable[[pl.DataFrame, Codes, int], Callable[[pl.DataFrame], Floats]]
"""Fits a classifier on rows, the numbers of their classes (from 0) and the number of classes; what it
returns maps rows to probabilities, shape (n_rows, n_classes), rows summing to 1."""

MAX_CLASSES = 50
MIN_ROWS = 10
"""Of a class: with fewer, the model that judges a fold has hardly seen it."""

_ROUNDING = 1e-6


class Mislabelled(msgspec.Struct, frozen=True):
    """One row whose label is likely wrong.

    Attributes:
        row: Its number.
        given: The label it has.
        suggested: The label that a model has for it that was fitted without it.
        p_given: That model's probability of the label it has.
        p_suggested: That of the suggested one.
    """

    row: int
    given: str
    suggested: str
    p_given: float
    p_suggested: float

    @property
    def margin(self) -> float:
        """By how much the suggested label is the likelier one, in (-1, 1]."""
        return self.p_suggested - self.p_given


class Confusion(msgspec.Struct, frozen=True):
    """How often one label seems to stand where another belongs.

    Attributes:
        given: The label that stands there.
        suggested: The one that belongs there.
        count: Suspects among them.
        share: Estimated share of all rows, in [0, 1]; a pair may have one without a suspect.
    """

    given: str
    suggested: str
    count: int
    share: float


class MislabelReport(msgspec.Struct, frozen=True):
    """Labels that are likely wrong.

    Attributes:
        n_rows: Labelled rows that were looked at.
        classes: Names of the classes.
        share: Estimated share of wrong labels, in [0, 1]: of a model that is often unsure it is a guess.
        confusions: By falling count.
        rows: Suspects, the surest first.
    """

    n_rows: int
    classes: tuple[str, ...]
    share: float
    confusions: tuple[Confusion, ...]
    rows: tuple[Mislabelled, ...]


def find_mislabelled(given: Codes, probabilities: Floats, classes: Sequence[str]) -> MislabelReport:
    """Find labels that are likely wrong from out-of-sample probabilities.

    A row counts as confidently of a class when its probability is at least the mean probability of that
    class among the rows that bear its label; of several such classes the likeliest. A row that is
    confidently of another class than its label, and whose label is not the likeliest of all, is a
    suspect. Counts by pair, scaled to the number of rows of each label, estimate how often one label
    stands for another.

    Args:
        given: Number of each row's label, from 0, shape (n_rows,).
        probabilities: Of models that were not fitted on the row, shape (n_rows, n_classes).
        classes: Their names.

    Raises:
        InvalidSetting: Shapes do not fit, or a class has no row.

    Source: Northcutt, Jiang & Chuang, Confident learning, J. Artificial Intelligence Research 70, 2021
    (sections 3.1 and 3.2; suspects are the off-diagonal of the confident joint).
    """
    n_rows, n = len(given), len(classes)
    counts = np.bincount(given, minlength=n)
    if probabilities.shape != (n_rows, n) or len(counts) != n or not bool((counts > 0).all()):
        raise InvalidSetting(
            f"Each of {n} classes needs rows, and each of {n_rows} rows {n} probabilities. "
            f"Got shape {probabilities.shape} and {int((counts > 0).sum())} classes."
        )
    thresholds = np.array([probabilities[given == k, k].mean() for k in range(n)])
    confident = probabilities >= thresholds - _ROUNDING
    likeliest = np.where(confident, probabilities, -1.0).argmax(axis=1)
    suggested = np.where(confident.any(axis=1), likeliest, given)
    joint = np.zeros((n, n))
    sure = confident.any(axis=1)
    np.add.at(joint, (given[sure], suggested[sure]), 1)
    calibrated = joint + np.diag(np.where(joint.sum(axis=1) == 0, 1.0, 0.0))
    calibrated *= (counts / calibrated.sum(axis=1))[:, None] / n_rows
    # A row whose own label is the likeliest of all is none, however low the others' thresholds are.
    at = np.flatnonzero((suggested != given) & (probabilities.argmax(axis=1) != given))
    suspects = np.zeros((n, n), dtype=np.int64)
    np.add.at(suspects, (given[at], suggested[at]), 1)
    margin = probabilities[at, suggested[at]] - probabilities[at, given[at]]
    at = at[np.argsort(-margin, kind="stable")]
    return MislabelReport(
        n_rows=n_rows,
        classes=tuple(classes),
        share=float(calibrated.sum() - np.trace(calibrated)),
        confusions=tuple(
            Confusion(classes[i], classes[j], int(suspects[i, j]), float(calibrated[i, j]))
            for i, j in sorted(np.ndindex(n, n), key=lambda pair: (-suspects[pair], -joint[pair], pair))
            if i != j and joint[i, j] > 0
        ),
        rows=tuple(
            Mislabelled(
                int(row),
                classes[given[row]],
                classes[suggested[row]],
                float(probabilities[row, given[row]]),
                float(probabilities[row, suggested[row]]),
            )
            for row in at
        ),
    )


def cross_validated(
    table: pl.DataFrame, given: Codes, n_classes: int, learner: Learner, *, n_folds: int = 5, seed: int = 0
) -> Floats:
    """Return for each row the probabilities of a model that was fitted without it.

    Folds have the classes' shares; rows that are equal in every column stand in one fold, or a copy with
    the right label would tell on one with the wrong label only by chance, and hide it for certain.

    Args:
        table: Features.
        given: Class of each row, from 0, shape (n_rows,).
        n_classes: How many there are.
        learner: Fits a model.
        n_folds: Folds, at least 2.
        seed: Of the folds.

    Raises:
        InvalidSetting: Folds are fewer than 2, a class has fewer rows than folds, or all rows are equal.
    """
    counts = np.bincount(given, minlength=n_classes)
    if n_folds < 2 or int(counts.min()) < n_folds:
        raise InvalidSetting(
            f"{n_folds} folds need at least 2, and {n_folds} rows of each class; the rarest has "
            f"{int(counts.min())}."
        )
    fold = _folds(table, given, n_folds, seed)
    found = np.zeros((len(table), n_classes))
    for each in range(n_folds):
        held = fold == each
        if held.all():
            raise InvalidSetting(
                f"All rows are equal in {', '.join(table.columns)}: nothing tells labels apart."
            )
        if held.any():
            model = learner(table.filter(~held), given[~held], n_classes)
            found[held] = model(table.filter(held))
    return found


def _folds(table: pl.DataFrame, given: Codes, n_folds: int, seed: int) -> Codes:
    draw = np.random.default_rng(seed)
    fold = np.zeros(len(table), np.int64)
    for k in np.unique(given):
        rows = draw.permutation(np.flatnonzero(given == k))
        fold[rows] = np.arange(len(rows)) % n_folds
    first = table.with_row_index("\x00row").select(pl.col("\x00row").first().over(table.columns))
    return np.asarray(fold[first.to_series().to_numpy().astype(np.int64)])


def check_mislabelled(
    table: pl.DataFrame,
    label: str,
    learner: Learner,
    *,
    features: Sequence[str] | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> MislabelReport:
    """Look for labels that are likely wrong in a table, by cross-validation.

    Args:
        table: The rows; those without a label are left out, their numbers are kept.
        label: A class of at most `MAX_CLASSES` values.
        features: What the model looks at; every other column if None.
        learner: Fits a model.
        n_folds: Folds of the cross-validation.
        seed: Of the folds.

    Raises:
        InvalidSetting: A column is missing, the label has one value, too many or too rare ones, or is no
            single value a row, or nothing in the features tells rows apart.
    """
    named = [name for name in table.columns if name != label] if features is None else list(features)
    for name in (label, *named):
        if name not in table.columns:
            raise InvalidSetting(
                f"There is no column {name!r}.", hint=f"Columns: {', '.join(table.columns)}."
            )
    require_single_values(table[label])
    if not named:
        raise InvalidSetting("A model needs at least one column beside the label.")
    numbered = table.with_row_index("\x00row").filter(pl.col(label).is_not_null())
    if numbered[label].dtype.is_float():
        numbered = numbered.filter(pl.col(label).is_not_nan())
    values = numbered[label]
    classes = values.unique().sort()
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise InvalidSetting(
            f"The label {label!r} has {len(classes)} values; label errors are sought among 2 to "
            f"{MAX_CLASSES}.",
            column=label,
        )
    rarest = values.value_counts().sort("count").row(0)
    if rarest[1] < MIN_ROWS:
        raise InvalidSetting(
            f"The class {rarest[0]!r} of {label!r} has {rarest[1]} rows: at least {MIN_ROWS} are needed.",
            hint="Leave its rows out, or join it with another class.",
            column=label,
        )
    given = np.searchsorted(classes.to_numpy(), values.to_numpy()).astype(np.int64)
    features_of = numbered.select(named)
    probabilities = cross_validated(features_of, given, len(classes), learner, n_folds=n_folds, seed=seed)
    names = ["null" if value is None else str(value) for value in classes.to_list()]
    report = find_mislabelled(given, probabilities, names)
    place = numbered["\x00row"].to_numpy()
    return msgspec.structs.replace(
        report,
        rows=tuple(msgspec.structs.replace(each, row=int(place[each.row])) for each in report.rows),
    )
