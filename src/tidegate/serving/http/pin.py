"""Headers by which a caller names the version or the arm that is to answer, where the service allows it."""

from __future__ import annotations

from tidegate.core.error import NotFound, TidegateError
from tidegate.serving.endpoint import Arm, Endpoint
from tidegate.serving.http.exchange import Exchange, HttpError

VERSION_HEADER = b"tidegate-version"
ARM_HEADER = b"tidegate-arm"


class PinningOff(TidegateError):
    """The service does not let callers choose who answers them."""

    code = "pinning_off"


class UnknownArm(NotFound):
    """No arm or version of that name takes requests here."""

    code = "unknown_version"


def pinned_arm(exchange: Exchange, endpoint: Endpoint) -> Arm | None:
    """Return the arm that the request's headers name, or None if they leave it to the route.

    Such a request has no share of the route, and its records are no evidence for or against an arm.

    Raises:
        PinningOff: The service does not allow it.
        HttpError: The version is no number, or both headers are there.
        NotReady: The route has the version, but it is not loaded.
        UnknownArm: The route has no such version or arm, or it is latched.
    """
    headers = exchange.headers
    version, name = headers.get(VERSION_HEADER), headers.get(ARM_HEADER)
    if version is None and name is None:
        return None
    if not endpoint.stable.limits.pinning:
        raise PinningOff(
            f"Service {endpoint.service!r} does not let callers choose the version.",
            hint="Leave the headers tidegate-version and tidegate-arm out, or declare "
            "tg.Limits(pinning=True) with the service.",
            service=endpoint.service,
        )
    if version is not None and name is not None:
        raise HttpError("A request names a version or an arm, this one names both.", hint="Send one header.")
    if version is not None:
        return endpoint.pin(_number(version, endpoint))
    assert name is not None
    text = name[:60].decode("ascii", errors="replace")
    arm = next((each for each in endpoint.arms if each.name == text), None)
    if arm is None or arm.version.number not in endpoint.pinnable:
        known = ", ".join(each.name for each in endpoint.arms)
        raise UnknownArm(
            f"Service {endpoint.service!r} has no arm {text!r}.",
            hint=f"It has now: {known}.",
            service=endpoint.service,
        )
    return endpoint.pin(arm.version.number)


def _number(version: bytes, endpoint: Endpoint) -> int:
    if not version.isdigit() or len(version) > 9:
        raise HttpError(
            f"The header tidegate-version is {version[:40].decode(errors='replace')!r}.",
            hint="Send the version's number.",
        )
    number = int(version)
    if number in endpoint.awaited:
        raise endpoint.not_loaded(number)
    if number not in endpoint.pinnable:
        known = ", ".join(map(str, sorted(endpoint.pinnable)))
        raise UnknownArm(
            f"Service {endpoint.service!r} has no version {number} ready.",
            hint=f"Ready now: {known}.",
            service=endpoint.service,
            version=number,
        )
    return number
