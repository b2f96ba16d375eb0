"""Case A behind a declared contract: a named float field a feature. `train` registers the ready graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tidegate as tg
from benchmarks import model

N_SAMPLES = 200


class Row(tg.Input):
    """A row with a field a feature."""

    f0: float
    f1: float
    f2: float
    f3: float
    f4: float
    f5: float
    f6: float
    f7: float
    f8: float
    f9: float
    f10: float
    f11: float
    f12: float
    f13: float
    f14: float
    f15: float
    f16: float
    f17: float
    f18: float
    f19: float


class Score(tg.Output):
    """What the trees add up to."""

    prediction: float


service = tg.Service("case-a", input=Row, output=Score)


@service.trainer
def train(data: Any, params: Mapping[str, Any]) -> tg.Trained:
    """Return the graph that all servers under test are given."""
    del data, params
    case = model.case_a()
    return tg.Trained(model=case.path, sample=case.rows(N_SAMPLES), notes="benchmark case A")
