"""Whether a model answers each row for itself.

Rows of several requests share one call of the model. A graph that takes a mean over its rows, or
multiplies one set of rows with another, would then answer one caller with the numbers of others: its
shapes say nothing of it, so it is asked. Rows that differ are given together and each alone. A model
that does not pass is still good for its contract: each row is then a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract

if TYPE_CHECKING:
    from tidegate.predictor.protocol import Predictor

_RELATIVE = 0.03
"""Of the output's largest value: a graph that is quantised dynamically takes its steps from all values of
a call, so that the rows beside a row change its last digits. Less influence than this is not seen."""

_ABSOLUTE = 1e-7
"""Nor is this: where large numbers cancel out, what is left is rounding alone."""

Array = npt.NDArray[np.generic]
Ask = Callable[[slice], Sequence[Array]]
"""Return each output for these rows of the probe, a row of it for each."""


def is_coupled(ask: Ask, n_rows: int) -> bool:
    """Tell whether a model's answer to a row depends on the rows beside it.

    Numbers decide where there are any: a label also flips where two scores are equal but for rounding.
    A model that answers the same question differently each time cannot be judged; it is taken for one
    that answers each row for itself.

    Args:
        ask: Asks the model; what it raises is raised.
        n_rows: Rows of the probe.
    """
    if n_rows < 2:
        return False
    together = [np.asarray(output) for output in ask(slice(0, n_rows))]
    alone = [[np.asarray(output) for output in ask(slice(row, row + 1))] for row in range(n_rows)]
    again = [np.asarray(output) for output in ask(slice(0, n_rows))]
    numbers = [at for at, output in enumerate(together) if output.dtype.kind == "f"]
    for at in numbers or range(len(together)):
        near = _near(together[at])
        if not near(together[at], again[at]):
            return False
        if len(together[at]) != n_rows:
            return True
        if not all(near(together[at][row : row + 1], answers[at]) for row, answers in enumerate(alone)):
            return True
    return False


def is_coupled_on(predictor: Predictor, rows: Batch) -> bool:
    """Tell whether a predictor's answer to one of some real rows depends on the others.

    Raises:
        PredictorError: It failed.
    """

    def ask(part: slice) -> list[Array]:
        return list(predictor.predict(rows.rows(part.start, part.stop)).columns.values())

    return is_coupled(ask, rows.n_rows)


class RowByRow:
    """A predictor that is given one row a call."""

    def __init__(self, inner: Predictor) -> None:
        """Take the predictor; it is closed with this."""
        self._inner = inner

    @property
    def contract(self) -> Contract:
        return self._inner.contract

    def predict(self, batch: Batch) -> Batch:
        """See `Predictor.predict`."""
        if batch.n_rows == 1:
            return self._inner.predict(batch)
        return Batch.concat([self._inner.predict(batch.rows(row, row + 1)) for row in range(batch.n_rows)])

    def warm_up(self) -> None:
        self._inner.warm_up()

    def close(self) -> None:
        self._inner.close()


def _near(output: Array) -> Callable[[Array, Array], bool]:
    """Return whether two answers are the same but for rounding, on the scale of `output`."""
    if output.dtype.kind != "f":
        return np.array_equal
    known = np.abs(output[np.isfinite(output)])
    allowed = max(_ABSOLUTE, _RELATIVE * float(known.max(initial=0.0)))

    def near(one: Array, other: Array) -> bool:
        return one.shape == other.shape and np.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)

    return near
