"""Sample-ratio mismatch: do the arms get the keys that they were promised?

Keys are counted at first sight, never requests: a request of a key that was seen before tells nothing
about how keys are drawn. For C of N keys in a phase whose candidate share is w,

    E = B(k w + C, k (1 - w) + N - C) / (B(k w, k (1 - w)) w^C (1 - w)^(N - C)),   k = 100

and phases of another share multiply. At E >= 1 / 0.001 the comparison is invalid.

Source: Lindon & Malek, NeurIPS 2022, arXiv 2011.03567 (Dirichlet-multinomial mixture).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

CONCENTRATION = 100.0
"""How close to the promised share the mixture expects a wrong one to be."""

ALPHA = 0.001


class KeyCount(msgspec.Struct, frozen=True, array_like=True):
    """Keys at first sight in one phase of constant share.

    Attributes:
        share: The candidate's share, in [0, 1].
        candidate: Keys that came to the candidate.
        stable: Keys that came to stable.
    """

    share: float
    candidate: int
    stable: int


def log_mismatch(phases: Iterable[KeyCount], *, concentration: float = CONCENTRATION) -> float:
    """Return log E against "every key is drawn to the candidate with its phase's share".

    A phase whose share is 0 or 1 draws nothing and is passed over, unless a key came where none
    could: then the evidence is infinite.
    """
    total = 0.0
    for phase in phases:
        if 0 < phase.share < 1:
            total += _log_phase(phase, concentration)
        elif (phase.share <= 0 and phase.candidate) or (phase.share >= 1 and phase.stable):
            return math.inf
    return total


def log_mismatch_arms(
    shares: Sequence[float], counts: Sequence[int], *, concentration: float = CONCENTRATION
) -> float:
    """Return log E against "every key is drawn to each of several arms with its share".

    Args:
        shares: What each arm was promised; all above 0, together 1.
        counts: Keys that came to each.
        concentration: How close to the promised shares the mixture expects wrong ones to be.
    """
    k, n = concentration, sum(counts)
    total = math.lgamma(k) - math.lgamma(k + n)
    for share, count in zip(shares, counts, strict=True):
        total += math.lgamma(k * share + count) - math.lgamma(k * share) - count * math.log(share)
    return total


def _log_phase(phase: KeyCount, k: float) -> float:
    w, seen, others = phase.share, phase.candidate, phase.stable
    drawn = math.lgamma(k * w + seen) + math.lgamma(k * (1 - w) + others) - math.lgamma(k + seen + others)
    prior = math.lgamma(k * w) + math.lgamma(k * (1 - w)) - math.lgamma(k)
    return drawn - prior - seen * math.log(w) - others * math.log1p(-w)
