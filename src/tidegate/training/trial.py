"""A trial: what a trainer shows of its model on rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Fit = Callable[[Any], Callable[[Any], Any]]


@dataclass(frozen=True)
class Trial:
    """A model fitted on some rows and asked about others, so that simpler models can be set beside it.

    Attributes:
        train: Rows that the model was fitted on: a data frame with the input fields and the target.
        test: Rows that it was not fitted on, of the same columns.
        target: Column of both that holds what came true: 0 or 1, or a number.
        predicted: What the model answers to `test`: probabilities of a 1, or numbers; shape (n_test,).
        group: Column of `test` whose rows are no independent evidence, such as the day: intervals are
            made by drawing whole groups.
        fit: Fits the candidate's kind of model on rows like `train` and returns a function from rows
            like `test` to answers like `predicted`. For feasibility; without it a linear model stands in.
        refitted: The registered model was fitted once more, on `test` too. What `predicted` shows is
            then the recipe, and the gates can only see that the registered model is no worse.
    """

    train: Any
    test: Any
    target: str
    predicted: Any
    group: str | None = None
    fit: Fit | None = None
    refitted: bool = False
