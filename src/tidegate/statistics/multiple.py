"""Several tests at once."""

from __future__ import annotations

import math
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


def bonferroni(alpha: float, count: int) -> float:
    """Return the level of each of `count` rules such that any of them errs with at most `alpha`.

    For what acts on ANY of several rules. What needs ALL of them needs no correction.

    Source: Schultzberg, Ankargren & Frånberg, arXiv 2402.11609.
    """
    return alpha / max(1, count)


def e_benjamini_hochberg(log_e_values: Sequence[float], *, alpha: float) -> list[int]:
    """Return which of several hypotheses are refuted with a false discovery rate of at most `alpha`.

    Args:
        log_e_values: Logarithm of each hypothesis's e-value; they may depend on each other. What is
            no number refutes nothing.
        alpha: False discovery rate, in (0, 1).

    Returns:
        Positions, strongest evidence first.

    Source: Wang & Ramdas, False Discovery Rate Control with E-values, JRSSB 84(3), 2022.
    """
    known = [index for index, value in enumerate(log_e_values) if not math.isnan(value)]
    order = sorted(known, key=lambda index: -log_e_values[index])
    best = 0
    for rank, index in enumerate(order, start=1):
        if log_e_values[index] >= math.log(len(log_e_values) / (alpha * rank)):
            best = rank
    return order[:best]
