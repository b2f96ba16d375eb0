"""I7 in a world where shadows do everything wrong; `python -m benchmarks.simulation --world shadow`."""

from __future__ import annotations

import logging
import os

import pytest

from tests.serving.world import World

SEEDS = int(os.environ.get("TIDEGATE_SEEDS", "60"))


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_shadow_changes_no_answer_delays_nobody_for_long_and_is_counted(tmp_path):
    n_written = 0
    for seed in range(SEEDS):
        world = World(seed, tmp_path)
        world.run()
        n_written += len(world.journal.written)

    assert n_written > SEEDS  # shadows were asked, and answered


def test_a_seed_replays_exactly(tmp_path):
    worlds = [World(6, tmp_path / name) for name in ("a", "b") if not (tmp_path / name).mkdir()]
    for world in worlds:
        world.run()

    assert worlds[0].log == worlds[1].log
    assert worlds[0].journal.written == worlds[1].journal.written
    assert worlds[0].spent == worlds[1].spent
