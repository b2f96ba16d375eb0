"""What a model does with inputs that are a little wrong, and whether it keeps rules that it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Invariant, Monotone
from tidegate.evaluation.estimate import Column, Estimate, Floats, estimate_of, resampled
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.interval import clopper_pearson

Predict = Callable[[Mapping[str, Column]], Column]
"""Maps columns of shape (n_rows,) to one prediction a row: numbers, or labels."""

UNSEEN = "tidegate-unseen"
_N_GRID = 7


class Perturbed(msgspec.Struct, frozen=True):
    """What one kind of damage to one column did.

    Attributes:
        column: Which column was damaged.
        damage: `noise`: a normal error of a tenth of the column's standard deviation; `missing`: no
            value at all; `unseen`: a category that does not occur.
        n_rows: Rows that were tried.
        refused: The kind of error with which the model refused all of them; empty where it answered.
        n_unusable: Answers that are no finite number.
        change: Mean absolute change of the answer; for labels the share that changed. None where it
            refused or no answer was usable.
        flipped: Share of rows on which the decision at the threshold changed; None without one.
    """

    column: str
    damage: Literal["noise", "missing", "unseen"]
    n_rows: int
    refused: str = ""
    n_unusable: int = 0
    change: Estimate | None = None
    flipped: Estimate | None = None


class RuleFinding(msgspec.Struct, frozen=True):
    """Whether a rule was kept.

    Attributes:
        rule: The rule.
        violations: Share of rows on which it was broken, with an exact interval: no violation among
            few rows proves little.
        largest: Largest violation, in the prediction's unit; 0 where there is none.
        worst_row: Row (of those given) with the largest; None where there is none.
    """

    rule: Monotone | Invariant
    violations: Estimate
    largest: float
    worst_row: int | None

    @property
    def held(self) -> bool:
        """Whether no violation was seen."""
        return self.worst_row is None


def robustness(
    predict: Predict,
    columns: Mapping[str, Column],
    *,
    rng: np.random.Generator,
    threshold: float | None = None,
    n_rows: int = 2000,
    noise: float = 0.1,
    level: float = 0.95,
) -> tuple[Perturbed, ...]:
    """Damage one column at a time and compare the answers with those to the rows as they are.

    Columns of float numbers get noise and go missing (NaN); whole numbers get noise, rounded;
    columns of objects go missing (None) and get a category never seen.

    Args:
        predict: The model.
        columns: Inputs, shape (n_rows,) each.
        rng: Source of randomness.
        threshold: Where a decision turns; None: there is no decision, or predictions are labels.
        n_rows: Rows to try, drawn from those given.
        noise: Standard deviation of the noise, as a share of the column's own.
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: There are no rows, or a prediction on undamaged rows is not finite.
    """
    rows = _drawn(columns, n_rows, rng)
    usual = _predictions(predict, rows)
    found = []
    for name, column in rows.items():
        for damage, damaged in _damaged(column, noise, rng):
            try:
                answers = np.asarray(predict({**rows, name: damaged}))
            except Exception as error:  # noqa: BLE001  # whatever a model raises is the finding
                found.append(Perturbed(name, damage, len(usual), refused=type(error).__name__))
                continue
            found.append(_compared(name, damage, (usual, answers), threshold=threshold, rng=rng, level=level))
    return tuple(found)


def check_rule(
    predict: Predict,
    columns: Mapping[str, Column],
    rule: Monotone | Invariant,
    *,
    rng: np.random.Generator,
    n_rows: int = 1000,
    level: float = 0.95,
) -> RuleFinding:
    """Try a rule on real rows, each with several other values of the column.

    A monotone rule is tried at seven quantiles of the column besides the row's own value; an
    invariant one with five values of other rows.

    Args:
        predict: The model, which predicts numbers.
        columns: Inputs, shape (n_rows,) each.
        rule: The rule.
        rng: Source of randomness.
        n_rows: Rows to try, drawn from those given.
        level: Confidence of the share of violations, in (0, 1).

    Raises:
        InvalidSetting: There is no such column, or a monotone rule names one that holds no numbers.
        NotMeasurable: There are no rows, or a prediction is no finite number.

    Source: Ribeiro et al., CheckList, ACL 2020 (invariance and directional expectation tests).
    """
    if rule.column not in columns:
        raise InvalidSetting(f"There is no column {rule.column!r}.", hint=f"There are: {', '.join(columns)}.")
    chosen = _chosen(columns, n_rows, rng)
    rows = {name: column[chosen] for name, column in columns.items()}
    changes = (
        _steps_back(predict, rows, columns[rule.column], rule)
        if isinstance(rule, Monotone)
        else _changes(predict, rows, columns[rule.column], rule.column, rng)
    )
    broken = changes > rule.tolerance
    n_broken = int(broken.sum())
    return RuleFinding(
        rule=rule,
        violations=estimate_of(
            "violations",
            n_broken / len(broken),
            clopper_pearson(n_broken, len(broken), level=level),
            method="clopper-pearson",
            n_rows=len(broken),
            level=level,
            larger_is_better=False,
        ),
        largest=float(changes[broken].max(initial=0.0)),
        worst_row=int(chosen[int(changes.argmax())]) if n_broken else None,
    )


def _steps_back(predict: Predict, rows: Mapping[str, Column], column: Column, rule: Monotone) -> Floats:
    """Return by how much each row's prediction goes the wrong way at most, along the grid."""
    if column.dtype.kind not in "iuf":
        raise InvalidSetting(f"A monotone rule needs a column of numbers; {rule.column!r} is none.")
    present = column[np.isfinite(column)]
    if not len(present):
        raise NotMeasurable(f"Column {rule.column!r} holds no number.")
    grid = np.quantile(present, np.linspace(0, 1, _N_GRID), method="nearest")
    own = rows[rule.column]
    own = np.where(np.isfinite(own), own, grid[0])
    values = np.sort(np.column_stack([np.tile(grid, (len(own), 1)), own]), axis=1).astype(column.dtype)
    answers = np.column_stack(
        [_numbers(predict, {**rows, rule.column: np.ascontiguousarray(at)}) for at in values.T]
    )
    rising = answers if rule.direction == "rising" else -answers
    back: Floats = (np.maximum.accumulate(rising, axis=1) - rising).max(axis=1)
    return back


def _changes(
    predict: Predict, rows: Mapping[str, Column], column: Column, name: str, rng: np.random.Generator
) -> Floats:
    usual = _numbers(predict, rows)
    largest = np.zeros(len(usual))
    values = column[rng.integers(0, len(column), size=(5, len(usual)))]
    for other in values:
        largest = np.maximum(largest, np.abs(_numbers(predict, {**rows, name: other}) - usual))
    return largest


def _damaged(
    column: Column, noise: float, rng: np.random.Generator
) -> Iterator[tuple[Literal["noise", "missing", "unseen"], Column]]:
    if column.dtype.kind in "iuf":
        size = noise * float(np.nanstd(column.astype(np.float64)))
        changed = column + rng.normal(0, size, len(column))
        if column.dtype.kind != "f":
            limits = np.iinfo(column.dtype)
            changed = np.clip(np.rint(changed), limits.min, limits.max)
        yield "noise", changed.astype(column.dtype)
    if column.dtype.kind == "f":
        yield "missing", np.full(len(column), np.nan, dtype=column.dtype)
    if column.dtype.kind == "O":
        yield "missing", np.full(len(column), None, dtype=object)
        yield "unseen", np.full(len(column), UNSEEN, dtype=object)


def _compared(
    name: str,
    damage: Literal["noise", "missing", "unseen"],
    pair: tuple[Column, Column],
    *,
    threshold: float | None,
    rng: np.random.Generator,
    level: float,
) -> Perturbed:
    usual, answers = pair
    is_number = usual.dtype.kind in "iufb"
    usable = np.ones(len(usual), dtype=np.bool_)
    if is_number:
        usable = np.isfinite(answers.astype(np.float64))
        usual, answers = usual.astype(np.float64)[usable], answers.astype(np.float64)[usable]
        change = np.abs(answers - usual)
    else:
        change = (answers != usual).astype(np.float64)
    n_unusable = int((~usable).sum())
    if not len(usual):
        return Perturbed(name, damage, len(usable), n_unusable=n_unusable)
    flipped = np.zeros(len(usual)) if threshold is None else ((usual >= threshold) != (answers >= threshold))
    estimates = resampled(
        np.column_stack([change, flipped, np.ones(len(usual))]),
        {"change": (lambda s: s[:, 0] / s[:, 2], False), "flipped": (lambda s: s[:, 1] / s[:, 2], False)},
        rng=rng,
        level=level,
    )
    return Perturbed(
        name,
        damage,
        len(usable),
        n_unusable=n_unusable,
        change=estimates[0],
        flipped=None if threshold is None else estimates[1],
    )


def _chosen(columns: Mapping[str, Column], n_rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    n_given = len(next(iter(columns.values()))) if columns else 0
    if not n_given:
        raise NotMeasurable("There are no rows to try the model on.")
    return np.sort(rng.permutation(n_given)[:n_rows])


def _drawn(columns: Mapping[str, Column], n_rows: int, rng: np.random.Generator) -> dict[str, Column]:
    chosen = _chosen(columns, n_rows, rng)
    return {name: column[chosen] for name, column in columns.items()}


def _predictions(predict: Predict, rows: Mapping[str, Column]) -> Column:
    answers = np.asarray(predict(rows))
    n_rows = len(next(iter(rows.values())))
    if answers.shape != (n_rows,):
        raise NotMeasurable(f"A model gives one prediction a row. Got {answers.shape} for {n_rows} rows.")
    if answers.dtype.kind == "f" and not bool(np.isfinite(answers).all()):
        raise NotMeasurable("A prediction is not a finite number.")
    return answers


def _numbers(predict: Predict, rows: Mapping[str, Column]) -> Floats:
    answers = _predictions(predict, rows)
    if answers.dtype.kind not in "iufb":
        raise NotMeasurable("Rules of this kind need a model that predicts numbers.")
    return answers.astype(np.float64)
