"""What a route says, as plain data, and the arithmetic of shares: pure, without files or clocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import msgspec

from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting

PARTS = 1_000_000
"""Shares are whole millionths: end points are exact, so that arms neither overlap nor leave a gap."""

ALWAYS = "always"
ON_DEMAND = "on-demand"
STABLE = "stable"
CANDIDATE = "candidate"

Interval = tuple[int, int]


class Arm(msgspec.Struct, frozen=True):
    """A version and the part of all keys that it answers.

    Attributes:
        name: `stable`, `candidate` or a name of the release's own.
        version: Number of the version.
        intervals: Half-open ranges of buckets, in millionths, ascending and disjoint.
    """

    name: str
    version: int
    intervals: tuple[Interval, ...]

    @property
    def parts(self) -> int:
        """Share of the keys, in millionths."""
        return sum(high - low for low, high in self.intervals)

    @property
    def share(self) -> float:
        """Share of the keys, in [0, 1]."""
        return self.parts / PARTS


class Shadow(msgspec.Struct, frozen=True):
    """A version that gets copies of requests and answers nobody.

    Attributes:
        version: Number of the version.
        parts: Share of the keys whose requests are copied, in millionths.
    """

    version: int
    parts: int = PARTS


class Latch(msgspec.Struct, frozen=True):
    """A version that nothing automatic may send traffic to, until a person clears it.

    Attributes:
        version: Number of the version.
        reason: Why, in words.
        by: Name of the principal who set it.
        at_us: When, microseconds UTC.
    """

    version: int
    reason: str
    by: str
    at_us: int


class RolledBack(msgspec.Struct, frozen=True):
    """The last rollback of a service.

    Attributes:
        versions: What it took away.
        by: Name of the principal who rolled back.
        at_us: When, microseconds UTC.
        generation: The generation that it made; in a later one something else came after it.
    """

    versions: tuple[int, ...]
    by: str
    at_us: int
    generation: int


class Preparation(msgspec.Struct, frozen=True):
    """A switch in its first phase: workers load the version, no traffic goes to it.

    Attributes:
        version: Number of the version.
        by: Name of the principal who switches.
        until_us: Microseconds UTC after which whoever prepared it has given up or died.
        added: Whether this preparation put the version on standby, so that giving up takes it off.
        since_us: When it began, microseconds UTC: what failed before is tried once more.
    """

    version: int
    by: str
    until_us: int
    added: bool
    since_us: int = 0


class ServiceRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who answers the requests of one service.

    Attributes:
        service: Name of the service.
        generation: Grows with every change of this service; set by the store, 0 before the first.
        salt: Mixed into every key's bucket; kept through pause and resume, so that keys stay put.
        arms: Together they hold every key exactly once; empty where nothing was deployed.
        standby: Versions that workers keep ready without traffic.
        shadows: Versions that get copies.
        fallback: Names of the predictors that answer when a model cannot, in order.
        safe_mode: True sends every request to the fallback.
        latched: Versions that may not get traffic.
        manifests: Version -> digest of its manifest, for every version named here.
        history: Earlier stable versions, oldest first, without the present one.
        preparing: The switch that is in its first phase, if one is.
        placement: `always` keeps its versions loaded, `on-demand` loads them when they are asked for;
            "" leaves it to each server.
        releasing: The version that a release tries, until it is stable. While workers load it neither an arm
            nor a shadow names it, and that the history may name it does not make it a way back.
        rolled_back: The last rollback, so that two people who roll back at once go back once.
    """

    service: str
    generation: int = 0
    salt: str = ""
    arms: tuple[Arm, ...] = ()
    standby: tuple[int, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    fallback: tuple[str, ...] = ()
    safe_mode: bool = False
    latched: tuple[Latch, ...] = ()
    manifests: dict[int, Digest] = {}
    history: tuple[int, ...] = ()
    preparing: Preparation | None = None
    placement: str = ""
    releasing: int | None = None
    rolled_back: RolledBack | None = None

    def arm(self, name: str) -> Arm | None:
        """Return the arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def stable(self) -> int | None:
        """Version of the stable arm."""
        arm = self.arm(STABLE)
        return arm.version if arm else None

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that a worker keeps ready: those with traffic first, each once."""
        named = (
            *(arm.version for arm in self.arms),
            *(shadow.version for shadow in self.shadows),
            *self.standby,
        )
        return tuple(dict.fromkeys(named))

    def latch_of(self, version: int) -> Latch | None:
        """Return the latch that holds `version`, or None."""
        return next((latch for latch in self.latched if latch.version == version), None)


class Route(msgspec.Struct, frozen=True):
    """What the workers of one cell follow.

    Attributes:
        cell: The set of servers that follow it.
        sequence: Number of this state of the route; 0 is the empty route before the first file.
        token: Highest fencing token that a writer has shown.
        services: Name -> route of the service.
        written_us: When, microseconds UTC.
        format: Form of the file; a reader refuses a newer one.
    """

    cell: str
    sequence: int = 0
    token: int = 0
    services: dict[str, ServiceRoute] = {}
    written_us: int = 0
    format: int = 1


def _refuse(route: ServiceRoute, what: str, **context: Any) -> InvalidSetting:
    return InvalidSetting(f"The route of service {route.service!r} {what}.", service=route.service, **context)


def _check_intervals(route: ServiceRoute) -> None:
    spans = sorted(interval for arm in route.arms for interval in arm.intervals)
    if any(low >= high for low, high in spans):
        raise _refuse(route, "has an empty or reversed interval")
    edges = [0, *(edge for span in spans for edge in span), PARTS]
    for end, start in zip(edges[::2], edges[1::2], strict=True):
        if end != start:
            fault = "leaves keys without an arm" if end < start else "gives keys to two arms"
            raise _refuse(route, f"{fault} between {min(end, start)} and {max(end, start)} millionths")
    for arm in route.arms:
        if list(arm.intervals) != sorted(arm.intervals):
            raise _refuse(route, f"has intervals of arm {arm.name!r} out of order")


def check_route(route: ServiceRoute) -> ServiceRoute:
    """Return `route` if a worker can follow it.

    Raises:
        InvalidSetting: Arms overlap or leave a gap, two have one name, there is no stable arm, a
            latched version has traffic, or a version has no manifest.
    """
    names = [arm.name for arm in route.arms]
    if len(set(names)) != len(names):
        raise _refuse(route, "has two arms of one name", arms=names)
    if route.arms:
        if STABLE not in names:
            raise _refuse(route, "has arms but no stable one", arms=names)
        _check_intervals(route)
    for arm in route.arms:
        if arm.intervals and not route.safe_mode and route.latch_of(arm.version):
            raise _refuse(
                route, f"gives traffic to version {arm.version}, which is latched", version=arm.version
            )
    missing = [version for version in route.versions if version not in route.manifests]
    if missing:
        raise _refuse(route, f"names no manifest of version {missing[0]}", version=missing[0])
    if any(not 0 <= shadow.parts <= PARTS for shadow in route.shadows):
        raise _refuse(route, "has a shadow whose share is outside [0, 1]")
    if route.safe_mode and not route.fallback:
        raise _refuse(route, "is in safe mode without a fallback")
    return route


Choose = Callable[[float], Arm]


def compile_choice(route: ServiceRoute) -> Choose:
    """Return the function that maps a bucket in [0, 1) to its arm.

    Raises:
        InvalidSetting: The route has no arm.
    """
    spans = [(interval, arm) for arm in route.arms for interval in arm.intervals]
    spans.sort(key=lambda span: span[0])
    if not spans:
        raise _refuse(route, "has no arm with a share")
    if len({arm.name for _, arm in spans}) == 1:
        only = spans[0][1]
        return lambda _bucket: only
    cuts = [low / PARTS for (low, _), _ in spans[1:]]
    arms = [arm for _, arm in spans]
    return lambda bucket: arms[bisect_right(cuts, bucket)]


def compile_bucket(salt: str) -> Callable[[bytes], float]:
    """Return the function that maps a key to its bucket, a multiple of 2^-53 in [0, 1).

    Buckets of one key under two salts are independent.

    Source: METHODS 1.7 asks for a well-mixed hash of 60 bits; BLAKE2b (RFC 7693) gives 64, of
    which a double holds 53.
    """
    fresh = blake2b(salt.encode() + b"\0", digest_size=8).copy
    from_bytes = int.from_bytes
    step = 2.0**-53

    def bucket(key: bytes) -> float:
        state = fresh()
        state.update(key)
        return (from_bytes(state.digest(), "little") >> 11) * step

    return bucket


def bucket_of(key: bytes, salt: str) -> float:
    """Return the bucket of one key; `compile_bucket` is the quick form for many."""
    return compile_bucket(salt)(key)


def to_parts(share: float) -> int:
    """Return a share of [0, 1] in millionths.

    Raises:
        InvalidSetting: It is outside [0, 1], not a number, or above 0 but under a millionth.
    """
    if not 0 <= share <= 1:
        raise InvalidSetting(f"A share must lie in [0, 1]. Got {share!r}.", share=share)
    parts = round(share * PARTS)
    if share > 0 and parts == 0:
        raise InvalidSetting(
            f"The share {share!r} is too small.", hint="The smallest share is 0.000001.", share=share
        )
    return parts


def _split(intervals: Iterable[Interval], parts: int) -> tuple[list[Interval], list[Interval]]:
    """Cut ascending intervals into the lowest `parts` and the rest."""
    taken: list[Interval] = []
    left: list[Interval] = []
    for low, high in intervals:
        cut = min(high, low + parts)
        if cut > low:
            taken.append((low, cut))
        if high > cut:
            left.append((cut, high))
        parts -= cut - low
    return taken, left


def _join(*groups: Iterable[Interval]) -> tuple[Interval, ...]:
    """Merge disjoint intervals into the fewest ascending ones."""
    spans = sorted(span for group in groups for span in group)
    starts = [spans[0][0], *(b[0] for a, b in pairwise(spans) if a[1] != b[0])] if spans else []
    ends = [*(a[1] for a, b in pairwise(spans) if a[1] != b[0]), spans[-1][1]] if spans else []
    return tuple(zip(starts, ends, strict=True))


def resize(route: ServiceRoute, arm: str, *, share: float, version: int | None = None) -> ServiceRoute:
    """Return the route with `arm` at `share`, taken from or given back to the stable arm.

    Widening takes the lowest buckets that stable still has, and narrowing gives back the highest
    that the arm has: a key that an arm has got stays with it while the arm widens, and an arm
    that is paused and resumed gets the same keys again. No other arm changes.

    Args:
        route: The route before.
        arm: Name of the arm, not `stable`. An arm that does not exist begins with nothing.
        share: Share of all keys it shall have, in [0, 1], rounded to millionths.
        version: Version of an arm that does not exist yet.

    Raises:
        InvalidSetting: The arm is `stable` or unknown, or stable has not that much left.
    """
    stable, present = route.arm(STABLE), route.arm(arm)
    if arm == STABLE or stable is None:
        raise _refuse(route, "gives stable what the other arms leave; resize one of those", arm=arm)
    if present is None:
        if version is None:
            raise _refuse(route, f"has no arm {arm!r}", arm=arm, arms=[each.name for each in route.arms])
        present = Arm(arm, version, ())
    parts = to_parts(share)
    grows_by = parts - present.parts
    if grows_by > stable.parts:
        raise _refuse(
            route,
            f"cannot give arm {arm!r} a share of {share}: it has {present.share}, stable has {stable.share}",
            arm=arm,
        )
    if grows_by >= 0:
        taken, left = _split(stable.intervals, grows_by)
        mine, others = _join(present.intervals, taken), _join(left)
    else:
        kept, given = _split(present.intervals, parts)
        mine, others = _join(kept), _join(stable.intervals, given)
    changed = {arm: msgspec.structs.replace(present, intervals=mine)}
    changed[STABLE] = msgspec.structs.replace(stable, intervals=others)
    arms = [changed.pop(each.name, each) for each in route.arms]
    return msgspec.structs.replace(route, arms=(*arms, *changed.values()))


def widen(route: ServiceRoute, arm: str, *, share: float, version: int | None = None) -> ServiceRoute:
    """Return the route with a larger (or the same) share for `arm`; see `resize`.

    Raises:
        InvalidSetting: The arm has a larger share already, or as in `resize`.
    """
    present = route.arm(arm)
    if present is not None and to_parts(share) < present.parts:
        raise _refuse(route, f"has arm {arm!r} at {present.share}; {share} would narrow it", arm=arm)
    return resize(route, arm, share=share, version=version)
