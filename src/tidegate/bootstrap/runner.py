"""The runner process: one version's model, for all workers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import sys
from math import inf
from pathlib import Path

import numpy as np

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.confine import confine
from tidegate.bootstrap.process import (
    BUSY_SINCE,
    DUE_AT,
    RUNNER_SEEN_AT,
    RunnerSettings,
    end_with_supervisor,
    frames_path,
    quarantine_folder,
    runner_page,
    told,
)
from tidegate.bootstrap.stage import read_stage
from tidegate.contract.placement import Placement
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, build
from tidegate.service.manifest import Manifest
from tidegate.serving.duration import DurationModel
from tidegate.serving.metric import MetricPage
from tidegate.serving.quarantine import Notes, Quarantine, RowGuard
from tidegate.serving.runner import Runner

_log = logging.getLogger("tidegate.runner")


def _guard(settings: RunnerSettings, service: str, secret: bytes, *, clock: Clock) -> RowGuard:
    """Return what tells which rows to keep from the model, after a look at what ended the one before."""
    quarantine = Quarantine(quarantine_folder(settings.server, service), settings.version, clock=clock)
    notes = Notes(Path(settings.notes))
    if notes.left:
        quarantine.crashed(notes.left)
        _log.warning(
            "runner.suspects service=%s version=%d rows=%d", service, settings.version, len(notes.left)
        )
    return RowGuard(quarantine, notes, secret)


def main() -> None:
    """Load the version that the command line names and serve it until told to stop."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a model prints is seen when it prints it
    settings = told(RunnerSettings)
    np.seterr(over="ignore", invalid="ignore")  # infinities are found by the contract's checks, not on stderr
    end_with_supervisor(settings.server)
    home = settings.server.place
    artifacts = LocalArtifactStore(home.artifacts)
    manifest = Manifest.from_json(artifacts.read_bytes(Digest(settings.manifest)))
    stage = read_stage(home, settings.manifest)
    if stage is None or stage.error:
        raise InvalidSetting("This version was not tried on this machine, or failed its trial.")
    placement = manifest.placement or Placement()
    for lacking in confine(placement, memory_bytes=stage.memory_bytes):
        _log.warning(
            "runner.unbounded service=%s version=%d: %s", manifest.service, settings.version, lacking
        )
    guard = _guard(settings, manifest.service, home.secret_key(), clock=SystemClock())
    context = BuildContext(manifest.contract, artifacts.open, stage.n_threads)
    predictor = build(manifest.predictor, context, BUILDERS)
    predictor.warm_up()
    clock = SystemClock()
    page = MetricPage(runner_page(settings.server, settings.manifest))
    labels = {"service": manifest.service, "version": str(settings.version)}
    busy, due, seen = (
        page.counter(name, labels, gauge=True) for name in (BUSY_SINCE, DUE_AT, RUNNER_SEEN_AT)
    )

    def on_call(due_s: float | None) -> None:
        seen.set(int(clock.monotonic_s() * 1000))  # first: after a long call the last time is long ago
        if due_s is not None:
            due.set(0 if due_s == inf else int(due_s * 1000))
        busy.set(0 if due_s is None else int(clock.monotonic_s() * 1000))

    stopping = False

    def has_to_stop() -> bool:
        seen.set(int(clock.monotonic_s() * 1000))  # asked each time that the loop comes round
        return stopping or settings.server.is_orphaned

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    for signum in (signal.SIGINT, signal.SIGHUP):  # of a terminal; the supervisor decides
        signal.signal(signum, signal.SIG_IGN)
    path = Path(frames_path(settings.sockets, settings.manifest))
    draft = f"{path}.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(draft)
        Path(draft).chmod(0o600)
        listener.listen(64)
        inode = Path(draft).stat().st_ino
        Path(draft).rename(path)  # whoever finds the name finds it listening
        runner = Runner(
            listener,
            predictor,
            clock=clock,
            max_batch_rows=stage.max_batch_rows if manifest.contract.batched else 1,
            duration=DurationModel(stage.call_us),
            on_call=on_call,
            guard=guard,
        )

        def leave() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ours only notes that it came
            runner.let_go()

        os.register_at_fork(after_in_child=leave)
        runner.serve(has_to_stop)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:  # else it is the successor's by now
                path.unlink()
    predictor.close()


if __name__ == "__main__":
    main()
