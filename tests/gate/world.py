"""Answers to made-up rows: a champion that knows the truth as well as it can be known, and candidates."""

from __future__ import annotations

import numpy as np

from tidegate.evaluation.measure import Measure
from tidegate.gate.answer import Answers

AIRPORTS = np.array(["EWR", "JFK", "LGA"], dtype=object)


def answers(*, n=6_000, n_days=30, seed=0, worse=None, champion=True, blur=0.05, cluster=True):
    """Return answers of a candidate that differs from the champion by noise, and by `worse(columns, own)`."""
    rng = np.random.default_rng(seed)
    airport = AIRPORTS[rng.integers(0, 3, n)]
    carrier = np.array(["AA", "B6", "DL", "UA"], dtype=object)[rng.integers(0, 4, n)]
    x = rng.normal(size=n)
    day = rng.integers(0, n_days, n)
    truth = 1 / (1 + np.exp(-(x - 1 + rng.normal(0, 0.3, n_days)[day])))
    outcomes = (rng.random(n) < truth).astype(float)
    columns = {"origin": airport, "carrier": carrier, "x": x}

    def blurred(p):
        return np.clip(p + rng.normal(0, blur, n), 0.01, 0.99)

    own = blurred(truth)
    if worse is not None:
        own = worse(columns, own)
    return Answers(
        columns=columns,
        outcomes=outcomes,
        candidate=own,
        champion=blurred(truth) if champion else None,
        measure=Measure(task="binary"),
        cluster=day if cluster else None,
        unit="days" if cluster else "rows",
    )


def trees(*, n=3_000, seed=0, blur=0.05, worse=None, champion=True, decided=False):
    """Return answers of two classifiers of three classes; `worse(columns, own)` spoils the candidate's."""
    rng = np.random.default_rng(seed)
    site = np.array(["hill", "shore"], dtype=object)[rng.integers(0, 2, n)]
    truth = rng.dirichlet([1, 1, 1], n)
    outcomes = (truth.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1).astype(float)

    def blurred(p):
        noisy = np.clip(p + rng.normal(0, blur, p.shape), 0.01, None)
        return noisy / noisy.sum(axis=1, keepdims=True)

    own, other = blurred(truth), blurred(truth) if champion else None
    if worse is not None:
        own = worse({"site": site}, own)
    measure = Measure(task="multiclass", classes=("ash", "birch", "cedar"), has_scores=not decided)
    if decided:
        own, other = (None if each is None else each.argmax(axis=1).astype(float) for each in (own, other))
    return Answers(columns={"site": site}, outcomes=outcomes, candidate=own, champion=other, measure=measure)
