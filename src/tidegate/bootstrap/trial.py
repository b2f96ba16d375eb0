"""The trial of a version on this machine, in a process of its own, before any worker loads it.

A version that crashes while loading, or answers its check inputs otherwise than when it was
registered, fails here and nowhere else. The trial also measures how long a call takes, which
decides where the model will run: in the workers' loops, or once, in a runner.
"""

from __future__ import annotations

import base64
import os
import resource
import sys
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.process import TrialSettings, end_with_supervisor, told
from tidegate.bootstrap.stage import Stage, write_stage
from tidegate.contract.batch import Batch
from tidegate.contract.decode import RowDecoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.placement import Placement
from tidegate.contract.schema import Contract, Schema
from tidegate.core.digest import Digest
from tidegate.core.error import TidegateError
from tidegate.core.home import Home
from tidegate.predictor.protocol import BuildContext, Predictor, build
from tidegate.service.manifest import Manifest

LOOP_CALL_US = 1_000.0
"""A call up to this long may run in the loop: a turn is about as long at 64 connections, and a
hand-over to another process and back costs a fifth of it."""

LIGHT_KINDS = frozenset({"onnx", "lookup", "rule"})
"""Kinds that may run in a worker at all: the others bring libraries of hundreds of megabytes, or
code that is not ours."""

_BATCH_ROWS = (1, 8, 32, 64)
_TRIAL_S = 0.15
_LEAST_BYTES = 512_000_000
"""A runner may take that much whatever its trial took: batches are larger than those of a trial."""


def try_version(manifest: Manifest, build: Callable[[int], Predictor]) -> Stage:
    """Load, warm up and time a version.

    Args:
        manifest: The version.
        build: Builds its predictor with that many threads.
    """
    light = manifest.predictor.kind in LIGHT_KINDS
    n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    predictor = build(1)
    predictor.warm_up()
    rows = sample_rows(manifest)
    one_us = min(time_calls(predictor, rows, [1])[1])
    if manifest.predictor.kind == "remote":  # workers ask its server themselves; here it has answered once
        predictor.close()
        return Stage(runner=False, call_us={1: one_us}, max_batch_rows=64, peak_bytes=_peak_bytes())
    placement = manifest.placement or Placement()
    if light and one_us <= LOOP_CALL_US and not placement.isolated:
        predictor.close()
        return Stage(runner=False, call_us={1: one_us}, max_batch_rows=64, peak_bytes=_peak_bytes())
    if light and n_threads > 1:
        predictor.close()
        predictor = build(n_threads)
        predictor.warm_up()
    sizes = _BATCH_ROWS if manifest.contract.batched else (1,)
    durations_us = time_calls(predictor, rows, sizes)
    predictor.close()
    # while a server starts, its other processes take the cores for a second: what was disturbed least is
    # the model's own time, and how busy the machine is, is learnt while it serves
    call_us = {n_rows: min(taken) for n_rows, taken in durations_us.items()}
    best = max(sizes, key=lambda n_rows: n_rows / call_us[n_rows])
    peak_bytes = _peak_bytes()
    return Stage(
        runner=True,
        call_us=call_us,
        longest_us=max(max(taken) for taken in durations_us.values()),
        max_batch_rows=best,
        n_threads=n_threads if light else 1,
        peak_bytes=peak_bytes,
        memory_bytes=placement.memory_mb * 1_000_000 or max(_LEAST_BYTES, 4 * peak_bytes),
    )


def time_calls(
    predictor: Predictor, rows: Batch, sizes: Sequence[int], *, now_s: Callable[[], float] = perf_counter
) -> dict[int, list[float]]:
    """Return how long calls of each size take, microseconds, at least 3 of each.

    Sizes are timed in turns, so that whatever else the machine does disturbs them alike. The least of each
    is the model's own time.

    Source: Chen & Revels, "Robust benchmarking in noisy environments", 2016 (the minimum).

    Args:
        predictor: What is called.
        rows: What it is called with, as often repeated as it takes.
        sizes: Rows of the calls.
        now_s: Tells the time, seconds.
    """
    batches = {n_rows: repeat(rows, n_rows) for n_rows in sizes}
    for batch in batches.values():
        predictor.predict(batch)
    taken_us: dict[int, list[float]] = {n_rows: [] for n_rows in sizes}
    began_s, n_rounds = now_s(), 0
    while n_rounds < 3 or (now_s() - began_s < _TRIAL_S * len(sizes) and n_rounds < 100):
        for n_rows, batch in batches.items():
            started_s = now_s()
            predictor.predict(batch)
            taken_us[n_rows].append((now_s() - started_s) * 1e6)
        n_rounds += 1
    return taken_us


def _peak_bytes() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def sample_rows(manifest: Manifest) -> Batch:
    """Return a few rows the model takes: its check inputs, or one row made from the contract."""
    schema = manifest.contract.input
    checks = manifest.check_inputs
    if checks is not None and checks.rows:
        rows = checks.rows
    else:  # for no pattern a text can be made up, and a model that is only timed needs none
        rows = [plain_row(manifest.contract)]
        schema = Schema(tuple(msgspec.structs.replace(field, pattern=None) for field in schema.fields))
    decoder = RowDecoder(schema, max_rows=1_000_000)
    decoded, _ = decoder.decode(msgspec.json.encode({"rows": rows}))
    return decoder.gather(decoded)


def repeat(batch: Batch, n_rows: int) -> Batch:
    """Return `n_rows` rows, going round `batch` as often as it takes."""
    return batch.take([row % batch.n_rows for row in range(n_rows)])


def plain_row(contract: Contract) -> dict[str, object]:
    """Return one row that the contract accepts, as JSON values."""
    return {field.name: _plain_value(field) for field in contract.input.fields if not field.optional}


def _plain_value(field: Field) -> object:
    value = _plain_element(field)
    for length in reversed(field.shape):
        value = [value] * (1 if length is None else length)
    return value


def _plain_element(field: Field) -> object:
    if field.type is DataType.BOOL:
        return False
    if field.type is DataType.CATEGORY:
        return field.categories[0]
    if field.type is DataType.BYTES:
        return base64.b64encode(bytes(field.min_length or 0)).decode()
    if field.type.is_text:
        return "a" * (field.min_length or 0)
    low = field.ge if field.ge is not None else None if field.gt is None else field.gt + 1
    high = field.le if field.le is not None else None if field.lt is None else field.lt - 1
    if low is not None and high is not None and high < low:
        low = high = (low + high) / 2
    value = (
        0.0
        if low is None and high is None
        else low
        if high is None
        else high
        if low is None
        else min(max(low, 0), high)
    )
    assert value is not None
    return value if field.type.is_float else int(value)


def try_digest(home: Home, digest: str) -> None:
    """Try the version of a manifest, and keep what was found."""
    artifacts = LocalArtifactStore(home.artifacts)
    try:
        manifest = Manifest.from_json(artifacts.read_bytes(Digest(digest)))
        for fallback in manifest.fallback:
            build(fallback.spec, BuildContext(manifest.contract, artifacts.open), BUILDERS).close()
        stage = try_version(
            manifest,
            lambda n_threads: build(
                manifest.predictor, BuildContext(manifest.contract, artifacts.open, n_threads), BUILDERS
            ),
        )
    except TidegateError as error:
        stage = Stage(error=str(error))
    write_stage(home, digest, stage)


def main() -> None:
    """Run the trial that the command line names."""
    settings = told(TrialSettings)
    end_with_supervisor(settings.server)
    try_digest(settings.server.place, settings.manifest)


if __name__ == "__main__":
    main()
