"""Whether a candidate may take over from the version that answers: callers must not notice."""

from __future__ import annotations

from tidegate.contract.compare import Compatibility, compare
from tidegate.contract.schema import Contract
from tidegate.core.error import TidegateError


class BreakingContract(TidegateError):
    """The candidate's contract breaks those who were built for stable's."""

    code = "breaking_contract"


def check_takes_over(service: str, stable: Contract, candidate: Contract, *, version: int) -> None:
    """Pass if whoever calls stable can be answered by the candidate.

    Args:
        service: Name of the service.
        stable: The contract that callers see.
        candidate: The candidate's.
        version: Number of the candidate.

    Raises:
        BreakingContract: They cannot; the message names each field.
    """
    breaking = [
        change for change in compare(stable, candidate).changes if change.verdict is Compatibility.BREAKING
    ]
    if breaking:
        raise BreakingContract(
            f"Version {version} of service {service!r} breaks the contract that callers have: "
            f"{'; '.join(map(str, breaking))}.",
            hint="Register it under another service name, or make the change a widening one.",
            service=service,
            version=version,
        )
