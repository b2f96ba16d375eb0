"""A service as one worker serves it: its versions, loaded, and the arms that lead to them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec

from tidegate.contract.batch import Batch
from tidegate.contract.decode import RowDecoder
from tidegate.contract.encode import RowEncoder
from tidegate.contract.layout import journal_layout
from tidegate.contract.objective import Cache, Limits
from tidegate.contract.schema import Contract
from tidegate.contract.slicing import Slicing
from tidegate.contract.validate import Validator
from tidegate.core.error import NotFound
from tidegate.journal.record import JournalMode, RecordKind, Stream
from tidegate.predictor.protocol import Predictor
from tidegate.route.route import PARTS, STABLE, ServiceRoute, compile_bucket, compile_choice
from tidegate.serving.admission import Admission, Backlog
from tidegate.serving.breaker import Breaker
from tidegate.serving.cache import ResponseCache
from tidegate.serving.call import Call, Group, NotReady
from tidegate.serving.feature import FeatureMerge

PINNED = "pinned"
"""Arm of requests that name their version."""
SHADOW = "shadow"
"""Arm of copies: it answers nobody."""


class UnknownService(NotFound):
    """No service of that name is routed here."""

    code = "unknown_service"


class Executor(Protocol):
    """Where a version's model runs."""

    @property
    def is_there(self) -> bool:
        """Whether the model can be asked now."""
        ...

    @property
    def waiting_rows(self) -> int:
        """Rows handed over and not answered yet."""
        ...

    @property
    def wait_s(self) -> float:
        """How long a row that came now would wait for its answer, seconds, as learned so far."""
        ...

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Run the model on the group's inputs; call `done` in the loop with outputs or error set."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Tensors(msgspec.Struct, frozen=True):
    """How the model itself names what the contract names its own way.

    Attributes:
        names: Contract field -> the model's tensor, where they differ.
        matrix: Name of the model's one input matrix, if it takes one.
        matrix_fields: Contract fields that its columns are, in order.
        platform: What the Open Inference Protocol calls the kind of model.
    """

    names: Mapping[str, str] = {}
    matrix: str = ""
    matrix_fields: tuple[str, ...] = ()
    platform: str = "tidegate"


class _Compiled:
    """What a contract is compiled to: the same for all versions that have it, and there may be thousands."""

    def __init__(self, contract: Contract, max_rows: int) -> None:
        self.decoder = RowDecoder(contract.input, max_rows=max_rows)
        self.encoder = RowEncoder(contract.output)
        self.input_check = Validator(contract.input)
        self.output_check = Validator(contract.output)


_COMPILED: WeakValueDictionary[tuple[str, int], _Compiled] = WeakValueDictionary()


def _compiled(contract: Contract, max_rows: int) -> _Compiled:
    key = (contract.fingerprint, max_rows)
    found = _COMPILED.get(key)
    if found is None:
        found = _COMPILED[key] = _Compiled(contract, max_rows)
    return found


class LoadedVersion:
    """One version, compiled from its manifest: everything that a request needs on its way."""

    def __init__(
        self,
        service: str,
        number: int,
        contract: Contract,
        *,
        executor: Executor,
        fallbacks: Sequence[tuple[str, Predictor]] = (),
        limits: Limits | None = None,
        journal: JournalMode = JournalMode.AVAILABLE,
        tensors: Tensors | None = None,
        tolerances: Mapping[str, float] | None = None,
        features: FeatureMerge | None = None,
        cache: Cache | None = None,
        slicing: Slicing | None = None,
    ) -> None:
        """Compile the contract's decoder, encoder and checks.

        Args:
            service: Name of the service.
            number: The version's number.
            contract: What callers send and are answered.
            executor: Where its model runs.
            fallbacks: Name and predictor of those who answer in its place, in order.
            limits: Bounds on requests.
            journal: Journal mode.
            tensors: The model's own names.
            tolerances: Output field -> difference to another version's answer that means nothing.
            features: What its model is given beside the request's fields; its executor reads them.
            cache: How long its answers are kept; None: they are not.
            slicing: By what its records are counted apart.
        """
        self.service = service
        self.number = number
        self.contract = contract
        self.executor = executor
        self.fallbacks = tuple(fallbacks)
        self.limits = limits or Limits()
        self.journal = journal
        self.tensors = tensors or Tensors()
        compiled = self._compiled = _compiled(contract, self.limits.max_rows)
        self.decoder = compiled.decoder
        self.encoder = compiled.encoder
        self.input_check = compiled.input_check
        self.output_check = compiled.output_check
        self.features = features
        self.layout = journal_layout(contract) if features is None else features.layout
        self.slicing = slicing or Slicing()
        self.tolerances = tuple(sorted((tolerances or {}).items()))
        self.key_name = contract.key.name if contract.key is not None else ""
        self.deadline_s = self.limits.deadline_ms / 1000
        # a model that runs in the loop has a queue only where a request is too large for one turn
        self.is_on_demand = False  # loaded when it was asked for; set by whoever loaded it
        self.n_asked = 0  # requests that were answered, for who has to decide what stays loaded
        self.backlog: Backlog | None = getattr(executor, "backlog", None)
        self.admission = None if self.backlog is None else Admission(self.backlog, self.limits)
        self.cache = None if cache is None else ResponseCache(cache, contract, version=number)
        self.breaker = Breaker(draw=random.random)
        self.answered_s = 0.0  # when it last answered, monotonic clock; kept where it runs elsewhere
        self.is_elsewhere = self.backlog is not None and not getattr(executor, "in_loop", False)

    def adopt(self, inputs: list[Any] | Batch, face: LoadedVersion) -> list[Any] | Batch:
        """Return the rows of a request to `face` as this version takes them.

        Args:
            inputs: Rows or columns of the face's contract.
            face: The version whose contract callers see; this one's may be wider.

        Raises:
            ContractViolation: This version's contract does not take them.
        """
        if self.contract.fingerprint == face.contract.fingerprint:
            return inputs
        batch = inputs if isinstance(inputs, Batch) else face.decoder.gather(inputs)
        names = self.contract.input.names
        return self.input_check.coerce({name: batch[name] for name in names if name in batch.columns})

    def close(self) -> None:
        """Give back what its predictors hold."""
        self.executor.close()
        for _, predictor in self.fallbacks:
            predictor.close()


class Arm:
    """A part of the route and the version it leads to."""

    __slots__ = (
        "_bucket",
        "name",
        "safe_mode",
        "service",
        "shadows",
        "share",
        "stand_in",
        "stream",
        "version",
    )

    def __init__(
        self,
        name: str,
        version: LoadedVersion,
        *,
        share: float = 1.0,
        safe_mode: bool = False,
        shadows: Sequence[Arm] = (),
        kind: RecordKind = RecordKind.PREDICTION,
        bucket: Callable[[bytes], float] | None = None,
        salt: str = "",
    ) -> None:
        """Name a part of the route.

        Args:
            name: Of the arm.
            version: Who answers.
            share: Part of the keys, in [0, 1]; of a shadow, the part that is copied.
            safe_mode: Whether the fallback chain answers in the version's place.
            shadows: Who gets copies of its requests.
            kind: What its records tell of.
            bucket: Maps a key to its bucket.
            salt: Of that map.
        """
        self.name = name
        self.service = version.service
        self.version = version
        self.share = share
        self.stand_in: LoadedVersion | None = None  # who is asked first where the version cannot answer
        self.safe_mode = safe_mode  # the model is not asked, the fallback chain answers
        # a version tells nothing by being compared with itself
        self.shadows = tuple(shadow for shadow in shadows if shadow.version is not version)
        self._bucket = bucket
        self.stream = Stream(
            service=version.service,
            version=version.number,
            contract=(version.features or version).contract.fingerprint,
            layout=version.layout,
            arm=name,
            share=share,
            kind=kind,
            shadows=tuple(shadow.version.number for shadow in self.shadows),
            tolerances=version.tolerances if kind is RecordKind.SHADOW else (),
            salt=salt,
            slicing=version.slicing,
        )

    def buckets_of(self, call: Call) -> list[float]:
        """Return the bucket of each row's own key.

        A request goes whole to the arm of its first row's key, since one version answers it. By their
        own buckets the rows that were only carried along can be told from those that were drawn.
        """
        if call.n_rows == 1 or call.key_hashes is None or self._bucket is None:
            return [call.bucket] * call.n_rows
        return [self._bucket(key) for key in call.key_hashes]


class Endpoint:
    """One generation of a service's route, over the versions that are loaded here."""

    def __init__(self, route: ServiceRoute, versions: Mapping[int, LoadedVersion], *, secret: bytes) -> None:
        """Compile a route.

        Args:
            route: The service's route.
            versions: Loaded versions by number. If the stable one is not among them, the endpoint
                is not ready; a lack of any other arm's sends its keys to stable.
            secret: Key of the keyed hash of identifiers, at most 64 bytes.
        """
        self.service = route.service
        self.generation = route.generation
        self.versions = dict(versions)
        # what a caller may name: a version that is only still loaded will be closed, a latched one is bad
        allowed = set(route.versions) - {latch.version for latch in route.latched}
        self.pinnable = {number: version for number, version in versions.items() if number in allowed}
        self.awaited = frozenset(allowed - versions.keys())  # what could be named if it were loaded
        self._secret = secret
        self.safe_mode = route.safe_mode
        stable = route.arm(STABLE)
        self.arms: tuple[Arm, ...] = ()
        self._shadows: tuple[Arm, ...] = ()
        self._bucket = compile_bucket(route.salt)
        if stable is not None and stable.version in versions:
            loaded = [arm for arm in route.arms if arm.version in versions]
            # stable first: its contract is the face
            loaded.sort(key=lambda arm: arm.name != STABLE)
            self._shadows = () if route.safe_mode else _shadows_of(route, versions)
            self.arms = tuple(
                Arm(
                    arm.name,
                    versions[arm.version],
                    share=arm.share,
                    safe_mode=route.safe_mode,
                    shadows=self._shadows,
                    bucket=self._bucket,
                    salt=route.salt,
                )
                for arm in loaded
            )
        for arm in self.arms[1:]:
            arm.stand_in = self.arms[0].version
        self._by_name = {arm.name: arm for arm in self.arms}
        self._pinned: dict[int, Arm] = {}
        self._only = self.arms[0] if len(self.arms) == 1 and not self._shadows else None
        self._choose = compile_choice(route) if len(self.arms) > 1 else None

    @property
    def stable(self) -> LoadedVersion:
        """The version whose contract callers see.

        Raises:
            NotReady: None is loaded.
        """
        if not self.arms:
            raise NotReady(
                f"Service {self.service!r} has no version ready in this worker.",
                hint="Try again in a moment; `tidegate status` shows what it waits for.",
                service=self.service,
            )
        return self.arms[0].version

    def hash_key(self, key: object) -> bytes:
        """Return the keyed hash of an identifier, 16 bytes: what the journal knows it by."""
        text = key if isinstance(key, str) else str(key)
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._secret).digest()

    def pick(self, identity: bytes) -> tuple[Arm, float]:
        """Return the arm that `identity` (a key's hash or a request id) sticks to, and its bucket.

        With one arm and no shadow the bucket is not computed, and is -1.

        Raises:
            NotReady: No version is loaded.
        """
        if self._only is not None:
            return self._only, -1.0
        if not self.arms:
            _ = self.stable  # says what is missing
        bucket = self._bucket(identity)
        if self._choose is None:
            return self.arms[0], bucket
        return self._by_name.get(self._choose(bucket).name, self.arms[0]), bucket

    def not_loaded(self, number: int) -> NotReady:
        """Return the error for a request that names a version which is awaited here."""
        return NotReady(
            f"Version {number} of service {self.service!r} is not loaded in this worker.",
            hint="Try again in a moment; `tidegate status` shows what it waits for.",
            service=self.service,
            version=number,
        )

    def pin(self, number: int) -> Arm:
        """Return the arm of requests that name a version themselves: no share of the route is theirs.

        What they tell of a version is no evidence for or against an arm that keys were drawn into.

        Args:
            number: One of `pinnable`.
        """
        arm = self._pinned.get(number)
        if arm is None:
            arm = self._pinned[number] = Arm(
                PINNED, self.pinnable[number], share=0.0, safe_mode=self.safe_mode
            )
        return arm

    @property
    def every_arm(self) -> tuple[Arm, ...]:
        """All arms that requests may have gone by, the pinned ones and the shadows too."""
        return (*self.arms, *self._pinned.values(), *self._shadows)

    def keys_of(self, rows: Any) -> list[bytes] | None:
        """Return the keyed hash of each decoded row's key; None without a key in the contract."""
        name = self.stable.key_name
        if not name:
            return None
        return [self.hash_key(getattr(row, name)) for row in rows]


def _shadows_of(route: ServiceRoute, versions: Mapping[int, LoadedVersion]) -> tuple[Arm, ...]:
    """Return the arms of the shadows that are loaded; the others get their copies once they are."""
    return tuple(
        Arm(SHADOW, versions[shadow.version], share=shadow.parts / PARTS, kind=RecordKind.SHADOW)
        for shadow in route.shadows
        if shadow.version in versions and shadow.parts
    )
