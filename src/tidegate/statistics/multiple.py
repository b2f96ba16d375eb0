"""Several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that rejecting those <= alpha errs anywhere with at most alpha.

    Args:
        p_values: One a hypothesis, each in [0, 1], in any order; they may depend on each other.

    Returns:
        Adjusted p-values in the order given, each in [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
