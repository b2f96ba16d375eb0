"""What a trial finds out of a model on a machine that others use as well."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.bootstrap.trial import time_calls
from tidegate.contract.batch import Batch

SIZES = (1, 8, 32, 64)
ROW = Batch({"x": np.zeros(1)}, 1)


class Machine:
    """A model of 3 ms a call and 0.25 a row, on a machine that starts other things as well."""

    def __init__(self, busy: tuple[float, float]) -> None:
        self.now_s = 0.0
        self.n_calls = 0
        self._busy = busy

    def predict(self, batch: Batch) -> Batch:
        begins_s, ends_s = self._busy
        slowness = 2.0 if begins_s <= self.now_s < ends_s else 1.0
        self.now_s += slowness * (0.003 + 0.00025 * batch.n_rows)
        self.n_calls += 1
        return batch

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("busy", [(0.0, 0.4), (0.2, 9.9)], ids=["at first", "later"])
def test_a_busy_machine_does_not_make_large_calls_look_slow(busy: tuple[float, float]) -> None:
    machine = Machine(busy)
    found = time_calls(machine, ROW, SIZES, now_s=lambda: machine.now_s)
    assert {rows: min(taken) for rows, taken in found.items()} == pytest.approx(
        {rows: 3000 + 250 * rows for rows in SIZES}
    )
    assert machine.now_s < 0.8


def test_a_slow_model_is_called_a_few_times_at_each_size() -> None:
    machine = Machine((0.0, 0.0))
    _ = time_calls(machine, ROW, SIZES, now_s=lambda: 1e3 * machine.now_s)
    assert machine.n_calls == 4 * len(SIZES)
