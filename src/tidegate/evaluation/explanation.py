"""Why one prediction came out as it did: what each column added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from tidegate.evaluation.estimate import Column, Floats
from tidegate.evaluation.importance import contributions
from tidegate.evaluation.robustness import Predict

Scale = Literal["log-odds", "prediction"]

_EDGE = 1e-6
"""Probabilities count as at least this far from 0 and 1: their log odds would be infinite."""


class Contribution(msgspec.Struct, frozen=True):
    """What one column added.

    Attributes:
        column: Its name.
        value: What stood there, as text; `hidden` for a sensitive field.
        amount: What it added, on the explanation's scale.
    """

    column: str
    value: str
    amount: float


class Explanation(msgspec.Struct, frozen=True):
    """One prediction, taken apart: base + contributions + remainder = score.

    Attributes:
        prediction: What was predicted, for the class explained.
        score: The same on the explanation's scale.
        base: What is predicted where nothing is known of the row.
        scale: `log-odds` of a probability, or the `prediction` itself.
        method: `tree-shap`: the booster's own; `measured`: against other rows, one column at a time.
        label: The class that is explained; empty where there are no classes.
        contributions: By falling size.
        remainder: What columns add only together; 0 for boosters, and for models that add up terms.
    """

    prediction: float
    score: float
    base: float
    scale: Scale
    method: Literal["tree-shap", "measured"]
    label: str
    contributions: tuple[Contribution, ...]
    remainder: float


class Parts(msgspec.Struct, frozen=True):
    """Contributions of a booster's own to some rows.

    Attributes:
        columns: Names, in the order of the parts.
        parts: Shape (n_rows, n_columns), or (n_rows, n_classes, n_columns).
        base: Shape (n_rows,), or (n_rows, n_classes).
    """

    columns: tuple[str, ...]
    parts: Floats
    base: Floats


Native = Callable[[Mapping[str, Column]], Parts]


def explain_native(
    parts: Parts,
    shown: Sequence[Mapping[str, str]],
    predictions: Column,
    *,
    classes: Sequence[str],
    scale: Scale,
) -> list[Explanation]:
    """Return explanations from a booster's own contributions (Shapley values of its trees).

    Args:
        parts: The contributions.
        shown: Of each row, each column's value as text.
        predictions: Shape (n_rows,), or (n_rows, n_classes).
        classes: Names of the classes, where there are several.
        scale: What the contributions add up to.

    Source: Lundberg et al., Nature Machine Intelligence 2, 2020 (TreeSHAP), as LightGBM and XGBoost have it.
    """
    found = []
    for row, values in enumerate(shown):
        amounts, base, predicted, label = parts.parts[row], parts.base[row], predictions[row], ""
        if amounts.ndim == 2:
            best = int(np.argmax(predicted))
            amounts, base, predicted, label = amounts[best], base[best], predicted[best], classes[best]
        found.append(
            _explanation(
                dict(zip(parts.columns, amounts.tolist(), strict=True)),
                values,
                prediction=float(predicted),
                base=float(base),
                score=float(base + amounts.sum()),
                scale=scale,
                method="tree-shap",
                label=label,
            )
        )
    return found


def explain_measured(
    predict: Predict,
    columns: Mapping[str, Column],
    background: Mapping[str, Column],
    shown: Sequence[Mapping[str, str]],
    *,
    scale: Scale,
    label: str = "",
) -> list[Explanation]:
    """Return explanations by asking the model what it says with other rows' values, one column at a time.

    On the log-odds scale the contributions of a logistic model are its terms less their means, exactly, and
    of a linear one on the scale of the prediction.

    Args:
        predict: The model: one number a row.
        columns: Rows to explain.
        background: Rows to compare with; some hundred do.
        shown: Of each row, each column's value as text.
        scale: `log-odds` where predictions are probabilities.
        label: The class that is explained, if there are classes.

    Raises:
        NotMeasurable: See `contributions`.
    """
    link = _log_odds if scale == "log-odds" else _identity

    def score(rows: Mapping[str, Column]) -> Column:
        return link(np.asarray(predict(rows), dtype=np.float64))

    parts = contributions(score, columns, background)
    scores, base = score(columns), float(score(background).mean())
    predictions = np.asarray(predict(columns), dtype=np.float64)
    return [
        _explanation(
            {name: float(amounts[row]) for name, amounts in parts.items()},
            values,
            prediction=float(predictions[row]),
            base=base,
            score=float(scores[row]),
            scale=scale,
            method="measured",
            label=label,
        )
        for row, values in enumerate(shown)
    ]


def _explanation(
    amounts: Mapping[str, float],
    values: Mapping[str, str],
    *,
    prediction: float,
    base: float,
    score: float,
    scale: Scale,
    method: Literal["tree-shap", "measured"],
    label: str,
) -> Explanation:
    ordered = sorted(amounts.items(), key=lambda item: (-abs(item[1]), item[0]))
    return Explanation(
        prediction=prediction,
        score=score,
        base=base,
        scale=scale,
        method=method,
        label=label,
        contributions=tuple(Contribution(name, values.get(name, ""), amount) for name, amount in ordered),
        remainder=score - base - sum(amounts.values()),
    )


def _log_odds(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _identity(values: Floats) -> Floats:
    return values
