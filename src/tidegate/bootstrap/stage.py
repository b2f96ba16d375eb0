"""What the trial of a version on this machine found, and where it is kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from tidegate.core.home import Home


class Stage(msgspec.Struct, frozen=True):
    """What the trial found.

    Attributes:
        runner: Whether the model runs in a runner instead of the workers.
        call_us: Batch rows -> duration of a call that nothing disturbs, microseconds.
        longest_us: The longest call of any size that was timed, disturbed or not.
        max_batch_rows: Rows of one call at which the machine gets most rows done.
        n_threads: Threads of one call.
        peak_bytes: Peak memory of the trial process.
        error: Why the version cannot serve, in words; "" if it can.
        tried_us: When it was tried, microseconds UTC.
        memory_bytes: What its runner may take before it is replaced; 0: no bound.
    """

    runner: bool = False
    call_us: dict[int, float] = {}
    longest_us: float = 0.0
    max_batch_rows: int = 1
    n_threads: int = 1
    peak_bytes: int = 0
    error: str = ""
    tried_us: int = 0
    memory_bytes: int = 0

    @property
    def longest_call_s(self) -> float:
        """How long the longest call took that was timed, seconds; 0 if none was."""
        return max((self.longest_us, *self.call_us.values())) / 1e6


def stage_path(home: Home, manifest: str) -> Path:
    """Return where the trial's result is kept, by the digest of the manifest."""
    folder = home.run / "stage"
    folder.mkdir(exist_ok=True)
    return folder / f"{manifest.removeprefix('sha256:')}.json"


def read_stage(home: Home, manifest: str) -> Stage | None:
    """Return the trial's result, or None if there was none yet."""
    try:
        return msgspec.json.decode(stage_path(home, manifest).read_bytes(), type=Stage)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def write_stage(home: Home, manifest: str, stage: Stage) -> Stage:
    """Keep the trial's result, and return it with its time."""
    path = stage_path(home, manifest)
    draft = path.with_suffix(f".{os.getpid()}")
    stage = msgspec.structs.replace(stage, tried_us=time.time_ns() // 1000)
    draft.write_bytes(msgspec.json.encode(stage))
    draft.replace(path)
    return stage


def forget_failures(home: Home) -> None:
    """Drop what failed before, so that it is tried anew; for the supervisor, at its start."""
    folder = home.run / "stage"
    for path in folder.glob("*.json"):
        stage = read_stage(home, path.stem)
        if stage is None or stage.error:
            path.unlink(missing_ok=True)
