"""From a manifest in the artifact store to a version that a worker can serve."""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property
from weakref import WeakKeyDictionary

import msgspec

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.feature import open_source
from tidegate.bootstrap.process import WorkerSettings, frames_path, is_of_another_release
from tidegate.bootstrap.stage import Stage
from tidegate.contract.objective import Limits
from tidegate.contract.tolerance import tolerances
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.core.error import TidegateError
from tidegate.predictor.protocol import BuildContext, Predictor, Spec, build
from tidegate.service.manifest import CheckInputs, Manifest
from tidegate.serving.duration import DurationModel
from tidegate.serving.endpoint import Executor, LoadedVersion, Tensors
from tidegate.serving.feature import FeatureExecutor, FeatureMerge, Source
from tidegate.serving.inline import InlineExecutor
from tidegate.serving.readiness import AnswersDiffer, CheckFailed, check_answers
from tidegate.serving.remote import RemoteExecutor, RunnerUnavailable

_log = logging.getLogger("tidegate.worker")

_RUNNER_START_S = 60.0
_RUNNER_RETURN_S = 2.0
"""How long a worker that replaces another waits for a runner: the other services wait for the worker."""
_FIRST_CHECK_S = 30.0
CHECK_S = 5.0
"""How long a version that has served before may take for its check inputs: others wait meanwhile."""

_MAX_LIMITS = 4096


class _Bounds(msgspec.Struct):
    """What is read of a manifest whose version is not loaded."""

    limits: Limits = Limits()


_decode_bounds = msgspec.json.Decoder(_Bounds).decode


class VersionLoader:
    """Loads versions for one worker."""

    def __init__(
        self, settings: WorkerSettings, loop: asyncio.AbstractEventLoop, *, unwell: dict[tuple[str, int], str]
    ) -> None:
        """Take settings.

        Args:
            settings: The worker's.
            loop: The event loop.
            unwell: Service and number of a version -> what is wrong with it; told of what was taken
                though its check inputs failed.
        """
        self._settings = settings
        self._loop = loop
        self._unwell = unwell
        self._clock = SystemClock()
        self._checks: WeakKeyDictionary[LoadedVersion, CheckInputs] = WeakKeyDictionary()
        self._limits: dict[str, Limits] = {}
        self._artifacts = LocalArtifactStore(settings.server.place.artifacts)

    async def load(self, number: int, digest: str, stage: Stage, *, is_new: bool = True) -> LoadedVersion:
        """Load, warm up and check a version; the loop goes on serving meanwhile.

        Args:
            number: The version's number.
            digest: Of its manifest.
            stage: What its trial found.
            is_new: Whether it has to show that it can serve. One that has served before is taken
                without its runner, if that is down, and unwell, if what it needs outside this worker
                is: until that is back the fallback answers, or an error.

        Raises:
            TidegateError: It cannot be loaded, or answers its check inputs otherwise than it should.
        """
        manifest = await self._loop.run_in_executor(None, self._manifest, digest)
        executor: Executor
        if stage.runner:
            if is_of_another_release(self._settings.sockets, digest):
                raise RunnerUnavailable(
                    f"The process that runs version {number} of service {manifest.service!r} is of another "
                    "release of Tidegate.",
                    hint="Stop the server and start it again: `tidegate restart` replaces no models.",
                )
            remote = RemoteExecutor(
                frames_path(self._settings.sockets, digest),
                loop=self._loop,
                service=manifest.service,
                version=number,
                duration=DurationModel(stage.call_us),
                max_batch_rows=stage.max_batch_rows if manifest.contract.batched else 1,
            )
            returns = self._settings.incarnation > 0 and not is_new
            try:
                await remote.connect(timeout_s=_RUNNER_RETURN_S if returns else _RUNNER_START_S)
            except RunnerUnavailable:
                if is_new:
                    raise
                remote.reconnect()
            executor = remote
        elif manifest.predictor.kind == "remote":
            executor = await open_upstream(manifest, self._loop)
        else:
            predictor = await self._loop.run_in_executor(None, self._build, manifest, manifest.predictor)
            executor = InlineExecutor(predictor, call_soon=self._loop.call_soon)
        fallbacks = [(one.name, self._build(manifest, one.spec)) for one in manifest.fallback]
        request, features = manifest.request, None
        if manifest.views:
            features = FeatureMerge(request, [view.plan for view in manifest.views])
            await self._features.warm_up()
            read_s = self._settings.server.feature_read_s
            executor = FeatureExecutor(executor, features, self._features, clock=self._clock, read_s=read_s)
        # a tensor of the model that callers send only a part of is none that they could be offered
        native = None if manifest.views else manifest.native_input
        version = LoadedVersion(
            manifest.service,
            number,
            request,
            executor=executor,
            fallbacks=fallbacks,
            limits=manifest.limits,
            journal=manifest.journal,
            tensors=Tensors(
                names=_offered(manifest),
                matrix=native.name if native else "",
                matrix_fields=native.fields if native else (),
                platform=manifest.predictor.kind,
            ),
            tolerances=tolerances(manifest.contract.output, manifest.objectives.tolerance),
            features=features,
            cache=manifest.cache,
            slicing=manifest.slicing,
        )
        checks = manifest.check_inputs
        if checks is not None and executor.is_there:
            # a model in this process needs nothing that could come back: it cannot serve with what is here
            may_return = not is_new and not isinstance(executor, InlineExecutor)
            timeout_s = CHECK_S if may_return else _FIRST_CHECK_S
            try:
                await check_answers(
                    version, checks.rows, checks.outputs, tolerance=checks.tolerance, timeout_s=timeout_s
                )
            except BaseException as error:
                if not may_return or not isinstance(error, CheckFailed) or isinstance(error, AnswersDiffer):
                    version.close()
                    raise
                self._unwell[version.service, number] = error.message
                _log.error("version.unwell service=%s version=%d: %s", version.service, number, error.message)
        if checks is not None:
            self._checks[version] = checks
        return version

    def limits(self, digest: str) -> Limits:
        """Return the bounds that a manifest declares, the usual ones where it cannot be read.

        The loop reads it itself: a small file, once for each version that is asked for.
        """
        found = self._limits.get(digest)
        if found is None:
            try:
                found = _decode_bounds(self._artifacts.read_bytes(Digest(digest))).limits
            except (TidegateError, OSError, msgspec.MsgspecError):
                return Limits()
            if len(self._limits) >= _MAX_LIMITS:
                self._limits.clear()
            self._limits[digest] = found
        return found

    async def check(self, version: LoadedVersion, *, timeout_s: float) -> None:
        """Put its check inputs to a loaded version once more; nothing happens if it has none.

        Raises:
            CheckFailed: It does not answer them as it should.
        """
        checks = self._checks.get(version)
        if checks is not None:
            await check_answers(
                version, checks.rows, checks.outputs, tolerance=checks.tolerance, timeout_s=timeout_s
            )

    @cached_property
    def _features(self) -> Source:
        server = self._settings.server
        return open_source(server.place, self._loop, clock=self._clock, read_s=server.feature_read_s)

    def _manifest(self, digest: str) -> Manifest:
        return Manifest.from_json(self._artifacts.read_bytes(Digest(digest)))

    def _build(self, manifest: Manifest, spec: Spec) -> Predictor:
        predictor = build(spec, BuildContext(manifest.contract, self._artifacts.open), BUILDERS)
        predictor.warm_up()
        return predictor


def _offered(manifest: Manifest) -> dict[str, str]:
    """Return the model's own names of the fields that callers send and get."""
    known = {*manifest.request.input.names, *manifest.contract.output.names}
    return {field: tensor for field, tensor in manifest.tensor_names.items() if field in known}


async def open_upstream(manifest: Manifest, loop: asyncio.AbstractEventLoop) -> Executor:
    """Return the executor of a model that another server runs, its addresses looked up.

    Raises:
        RemoteUnavailable: The server's name has no address.
        InvalidSetting: What is declared of it cannot be used.
    """
    from tidegate.predictor.remote import read_options
    from tidegate.serving.http.upstream import UpstreamExecutor

    options = read_options(manifest.predictor)
    upstream = UpstreamExecutor(manifest.contract, options, loop=loop, side_effects=manifest.side_effects)
    await upstream.resolve()
    return upstream
