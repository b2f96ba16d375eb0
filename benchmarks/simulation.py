"""Releases in a world where everything goes wrong: `python -m benchmarks.simulation --seeds 100000`.

The world is that of the tests (`tests/release/world.py`, or with `--world shadow` that of a worker's
shadows, `tests/serving/world.py`); every invariant is checked after every step, and a seed that breaks
one is printed and replays exactly. `--first` goes on where an earlier run has stopped.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_CHUNK = 200


def live_beside_shadows(first: int, n: int) -> tuple[Counter[str], list[str]]:
    """Live through some seeds of a worker with shadows; return how many there were, and what broke."""
    world: Any = importlib.import_module("tests.serving.world")
    logging.disable(logging.CRITICAL)
    broken = []
    for seed in range(first, first + n):
        with tempfile.TemporaryDirectory() as folder:
            try:
                world.World(seed, Path(folder)).run()
            except Exception as error:  # noqa: BLE001 - whatever it is, the seed must be named
                broken.append(f"seed {seed}: {type(error).__name__}: {error}")
    return Counter(shadows=n), broken


def live(first: int, n: int) -> tuple[Counter[str], list[str]]:
    """Live through some seeds; return how their releases ended, and what broke."""
    world: Any = importlib.import_module("tests.release.world")
    logging.disable(logging.CRITICAL)
    endings: Counter[str] = Counter()
    broken = []
    for seed in range(first, first + n):
        try:
            ending = world.World(seed).run()
        except world.Broken as error:
            broken.append(str(error))
            ending = None
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed must be named
            broken.append(f"seed {seed}: {type(error).__name__}: {error}")
            ending = None
        endings["none" if ending is None else ending.value] += 1
    return endings, broken


def main() -> int:
    """Run what was asked for.

    Returns:
        Exit status: 1 if an invariant was broken.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation")
    parser.add_argument("--seeds", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    parser.add_argument("--world", choices=("release", "shadow"), default="release")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    starts = range(arguments.first, arguments.first + arguments.seeds, _CHUNK)
    sizes = [min(_CHUNK, arguments.first + arguments.seeds - start) for start in starts]
    run = live if arguments.world == "release" else live_beside_shadows
    endings: Counter[str] = Counter()
    broken: list[str] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for number, (found, failed) in enumerate(pool.map(run, starts, sizes), start=1):
            endings += found
            broken += failed
            for each in failed:
                print(each, flush=True)
            if number % 5 == 0:
                print(f"{endings.total():,} seeds, {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"{endings.total():,} seeds in {time.monotonic() - began_s:.0f} s, {len(broken)} broken")
    print("ended: " + ", ".join(f"{name} {count:,}" for name, count in endings.most_common()))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
