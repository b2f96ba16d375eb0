"""A service as one worker serves it: its versions, loaded, and the arms that lead to them."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tidegate.contract.decode import RowDecoder, RowEncoder
from tidegate.contract.layout import journal_layout
from tidegate.contract.objective import Limits
from tidegate.contract.schema import Contract
from tidegate.contract.validate import Validator
from tidegate.core.error import NotFound
from tidegate.journal.record import JournalMode, Stream
from tidegate.predictor.protocol import Predictor
from tidegate.serving.call import Group, NotReady, Overloaded


class UnknownService(NotFound):
    """No service of that name is routed here."""

    code = "unknown_service"


class Executor(Protocol):
    """Where a version's model runs."""

    @property
    def waiting_rows(self) -> int:
        """Rows handed over and not answered yet."""
        ...

    @property
    def wait_s(self) -> float:
        """How long a row that came now would wait for its answer, seconds, as learned."""
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
    ) -> None:
        """Compile the contract's decoder, encoder and checks.

        Args:
            service: Name of the service.
            number: The version's number.
            contract: What it takes and gives.
            executor: Where its model runs.
            fallbacks: Name and predictor of those who answer in its place, in order.
            limits: Bounds on requests.
            journal: Journal mode.
            tensors: The model's own names.
        """
        self.service = service
        self.number = number
        self.contract = contract
        self.executor = executor
        self.fallbacks = tuple(fallbacks)
        self.limits = limits or Limits()
        self.journal = journal
        self.tensors = tensors or Tensors()
        self.decoder = RowDecoder(contract.input, max_rows=self.limits.max_rows)
        self.encoder = RowEncoder(contract.output)
        self.input_check = Validator(contract.input)
        self.output_check = Validator(contract.output)
        self.layout = journal_layout(contract)
        self.key_name = contract.key.name if contract.key is not None else ""
        self.deadline_s = self.limits.deadline_ms / 1000

    def close(self) -> None:
        """Give back what its predictors hold."""
        self.executor.close()
        for _, predictor in self.fallbacks:
            predictor.close()


class Arm:
    """A part of the route and the version it leads to."""

    __slots__ = ("name", "service", "share", "stream", "version")

    def __init__(self, name: str, version: LoadedVersion, *, share: float = 1.0) -> None:
        self.name = name
        self.service = version.service
        self.version = version
        self.share = share
        self.stream = Stream(
            service=version.service,
            version=version.number,
            contract=version.contract.fingerprint,
            layout=version.layout,
            arm=name,
            share=share,
        )


class Endpoint:
    """A routed service: arms by interval of the key's bucket, one face."""

    def __init__(
        self,
        service: str,
        arms: Sequence[Arm],
        *,
        bounds: Sequence[float] = (),
        order: Sequence[int] = (),
        salt: str = "",
        generation: int = 0,
        secret: bytes = b"",
        standby: Mapping[int, LoadedVersion] | None = None,
    ) -> None:
        """Compile one generation of a service's route.

        Args:
            service: Its name.
            arms: The stable arm first; its contract is the face.
            bounds: Inner edges of the unit interval's pieces, ascending; empty with one arm.
            order: Index into `arms` for each piece, one more than there are edges.
            salt: Stirred into the bucket, so that services do not divide keys alike.
            generation: The route's generation for this service.
            secret: Key of the keyed hash of identifiers.
            standby: Versions that are loaded but have no traffic, by number.
        """
        self.service = service
        self.arms = tuple(arms)
        self.generation = generation
        self.standby = dict(standby or {})
        self._bounds = list(bounds)
        self._order = list(order)
        self._salt = salt.encode()[:64]
        self._secret = secret

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

    @property
    def versions(self) -> dict[int, LoadedVersion]:
        """All versions that are loaded here, by number."""
        return {**self.standby, **{arm.version.number: arm.version for arm in self.arms}}

    def admit(self) -> None:
        """Refuse, on the headers alone, what could not be answered in time.

        Raises:
            NotReady: No version is loaded.
            Overloaded: As many rows wait as may, or the learned wait exceeds the deadline.
        """
        version = self.stable
        executor = version.executor
        waiting = executor.waiting_rows
        if waiting == 0:
            return
        wait_s = executor.wait_s
        if waiting >= version.limits.max_waiting_rows or wait_s > version.deadline_s:
            raise Overloaded(
                f"Service {self.service!r} is overloaded: {waiting} rows wait.",
                hint="Try again after the time in Retry-After.",
                service=self.service,
                retry_after_s=max(0.05, round(wait_s, 3)),
            )

    def hash_key(self, key: object) -> bytes:
        """Return the keyed hash of an identifier, 16 bytes: what the journal knows it by."""
        text = key if isinstance(key, str) else str(key)
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._secret).digest()

    def pick(self, identity: bytes) -> tuple[Arm, float]:
        """Return the arm that `identity` (a key's hash or a request id) sticks to, and its bucket.

        With one arm the bucket is not computed, and is -1.

        Raises:
            NotReady: No version is loaded.
        """
        if not self._bounds:
            if not self.arms:
                _ = self.stable
            return self.arms[0], -1.0
        drawn = hashlib.blake2b(identity, digest_size=8, key=self._salt).digest()
        bucket = (int.from_bytes(drawn, "big") >> 4) / 0xFFFFFFFFFFFFFFF
        return self.arms[self._order[bisect_right(self._bounds, bucket)]], bucket

    def keys_of(self, rows: Any) -> list[bytes] | None:
        """Return the keyed hash of each decoded row's key; None without a key in the contract."""
        name = self.stable.key_name
        if not name:
            return None
        return [self.hash_key(getattr(row, name)) for row in rows]
