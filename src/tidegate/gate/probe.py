"""The port through which a gate measures servers that really run."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from tidegate.core.error import TidegateError

Side = Literal["candidate", "champion"]


class ProbeFailed(TidegateError):
    """A version could not be served on this machine, or did not answer under load."""

    code = "probe_failed"


class Burst(msgspec.Struct, frozen=True):
    """What a number of requests in a row to one server came to.

    Attributes:
        latency_us: From sending to the whole answer, as a client sees it, one a request, microseconds.
        model_us: Mean time that the model itself took for a request, microseconds; None where the server
            does not say.
        n_failed: Requests that were not answered with a prediction of the model's own.
        waited_us: How long client and server were ready to run and had no processor, microseconds: what
            else the machine did. None where the system does not say.
    """

    latency_us: list[float]
    model_us: float | None = None
    n_failed: int = 0
    waited_us: float | None = None


class CheckedInputs(msgspec.Struct, frozen=True):
    """Check inputs, asked of the running server.

    Attributes:
        n_rows: How many were asked.
        wrong: What was answered otherwise than when the version was registered, in words.
    """

    n_rows: int
    wrong: tuple[str, ...] = ()


class Probe(Protocol):
    """Servers of the candidate and, if there is one, of the champion, both running now."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Which of them run."""
        ...

    def load(self, side: Side, n_requests: int) -> Burst:
        """Send requests with real rows, several at a time.

        Raises:
            ProbeFailed: The server does not answer any more.
        """
        ...

    def memory_bytes(self, side: Side) -> int:
        """Return the memory of the processes that serve the version, as it is now."""
        ...

    def check(self) -> CheckedInputs | None:
        """Ask the candidate its check inputs; None if it has none."""
        ...
