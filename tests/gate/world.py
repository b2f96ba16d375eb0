"""Answers to made-up rows: a champion that knows the truth as well as it can be known, and candidates."""

from __future__ import annotations

import numpy as np

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
        is_binary=True,
        cluster=day if cluster else None,
        unit="days" if cluster else "rows",
    )
