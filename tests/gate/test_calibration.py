"""Probabilities that moved away from what happens are told from noise."""

from __future__ import annotations

import numpy as np

from tests.gate.world import answers
from tidegate.core.decision import Verdict
from tidegate.gate.calibration import calibration
from tidegate.gate.declaration import Gates


def judged(given, **options):
    return calibration(given, Gates(**options), rng=np.random.default_rng(0))


def test_a_calibrated_candidate_is_safe_with_and_without_a_champion():
    assert judged(answers()).verdict is Verdict.SAFE
    assert judged(answers(champion=False)).verdict is Verdict.SAFE


def test_probabilities_that_are_too_high_regress():
    def too_high(columns, own):
        return np.clip(own + 0.2, 0.01, 0.99)

    with_champion, alone = (
        judged(answers(n=3_000, worse=too_high)),
        judged(answers(n=3_000, worse=too_high, champion=False)),
    )

    assert with_champion.verdict is Verdict.REGRESSED
    assert "Recalibrate" in with_champion.reason
    assert alone.verdict is Verdict.REGRESSED
    assert with_champion.observed["rise"] > 0.1
