"""The runner process: one version's model, for all workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import numpy as np

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.process import (
    BUSY_SINCE,
    RunnerSettings,
    end_with_supervisor,
    runner_page,
    socket_path,
    told,
)
from tidegate.bootstrap.stage import read_stage
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, build
from tidegate.service.manifest import Manifest
from tidegate.serving.duration import DurationModel
from tidegate.serving.metric import MetricPage
from tidegate.serving.runner import Runner


def main() -> None:
    """Load the version that the command line names and serve it until told to stop."""
    settings = told(RunnerSettings)
    np.seterr(over="ignore", invalid="ignore")  # infinities are found by the contract's checks, not on stderr
    end_with_supervisor(settings.server)
    home = settings.server.place
    artifacts = LocalArtifactStore(home.artifacts)
    manifest = Manifest.from_json(artifacts.read_bytes(Digest(settings.manifest)))
    stage = read_stage(home, settings.manifest)
    if stage is None or stage.error:
        raise InvalidSetting("This version was not tried on this machine, or failed its trial.")
    context = BuildContext(manifest.contract, artifacts.open, stage.n_threads)
    predictor = build(manifest.predictor, context, BUILDERS)
    predictor.warm_up()
    clock = SystemClock()
    page = MetricPage(runner_page(settings.server, settings.manifest))
    busy = page.counter(
        BUSY_SINCE, {"service": manifest.service, "version": str(settings.version)}, gauge=True
    )
    stopping = False

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    path = Path(socket_path(settings.sockets, settings.manifest))
    draft = f"{path}.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(draft)
        Path(draft).chmod(0o600)
        listener.listen(64)
        Path(draft).rename(path)  # whoever finds the name finds it listening
        runner = Runner(
            listener,
            predictor,
            clock=clock,
            max_batch_rows=stage.max_batch_rows if manifest.contract.batched else 1,
            duration=DurationModel(stage.call_us),
            on_busy=lambda on: busy.set(int(clock.monotonic_s() * 1000) if on else 0),
        )
        runner.serve(lambda: stopping or settings.server.is_orphaned)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    predictor.close()


if __name__ == "__main__":
    main()
