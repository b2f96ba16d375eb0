"""The certificate that needs no labels: two versions differ in accuracy by at most how often they disagree.

|accuracy(a) - accuracy(b)| <= P(a and b disagree), whatever the truth is. So an upper bound on the rate of
disagreement bounds what a change of versions can cost, and labels are worth asking for only where they
disagree.

Source: Robbins, Ann. Math. Statist. 41, 1970 (method of mixtures), with Jeffreys' Beta(1/2, 1/2).
"""

from __future__ import annotations

import math

from tidegate.core.error import InvalidSetting

_HALVINGS = 60
_ZERO_BET = 0.95
_PARTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The bet on "they never disagree", and the other bets as parts of the margin."""


def largest_disagreement(disagreed: int, pairs: int, *, alpha: float) -> float:
    """Return an upper bound on the rate of disagreement that holds at all times with 1 - `alpha`.

    Args:
        disagreed: Pairs in which the versions disagreed.
        pairs: All pairs; 0 gives 1.
        alpha: Probability that the bound is ever wrong.

    Raises:
        InvalidSetting: Not 0 <= disagreed <= pairs, or alpha outside (0, 1).
    """
    _check(disagreed, pairs, alpha)
    if pairs == 0:
        return 1.0
    agreed = pairs - disagreed
    mixture = _log_beta(0.5 + disagreed, 0.5 + agreed) - _log_beta(0.5, 0.5)
    low, high = disagreed / pairs, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        log_e = mixture - _log_likelihood(disagreed, agreed, middle)
        if log_e >= -math.log(alpha):
            high = middle
        else:
            low = middle
    return high


def log_certificate(disagreed: int, pairs: int, *, margin: float) -> float:
    """Return log E against "they disagree at a rate of `margin` or more", for a margin declared before.

    Without a disagreement about ln(1 / alpha) / margin pairs suffice.

    Raises:
        InvalidSetting: Not 0 <= disagreed <= pairs, or the margin outside (0, 1).
    """
    _check(disagreed, pairs, margin)
    agreed = pairs - disagreed
    null = _log_likelihood(disagreed, agreed, margin)
    logs = [math.log(_ZERO_BET) - null] if disagreed == 0 else []
    rest = math.log((1 - _ZERO_BET) / len(_PARTS))
    logs += [rest + _log_likelihood(disagreed, agreed, part * margin) - null for part in _PARTS]
    largest = max(logs)
    return largest + math.log(sum(math.exp(value - largest) for value in logs))


def _log_likelihood(yes: int, no: int, rate: float) -> float:
    found = yes * math.log(rate) if yes else 0.0
    if not no:
        return found
    return found + no * math.log1p(-rate) if rate < 1 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _check(disagreed: int, pairs: int, share: float) -> None:
    if not 0 <= disagreed <= pairs:
        raise InvalidSetting(f"Disagreements lie in [0, pairs]. Got {disagreed} of {pairs}.")
    if not 0 < share < 1:
        raise InvalidSetting(f"A margin and an alpha lie in (0, 1). Got {share}.")
