"""Arms and shares: accurate, sticky, monotone, disjoint and exhaustive."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.route.route import (
    CANDIDATE,
    PARTS,
    STABLE,
    Arm,
    Latch,
    ServiceRoute,
    Shadow,
    bucket_of,
    check_route,
    compile_bucket,
    compile_choice,
    resize,
    widen,
)

DIGEST = digest_bytes(b"manifest")
PART = 1 / PARTS


def route_of(*versions: int, **fields) -> ServiceRoute:
    first, *others = versions
    arms = (Arm(STABLE, first, ((0, PARTS),)),)
    return ServiceRoute(
        "flights",
        arms=arms,
        salt="pepper",
        manifests=dict.fromkeys((first, *others), DIGEST),
        **fields,
    )


def owners(route: ServiceRoute, buckets: np.ndarray) -> list[str]:
    choose = compile_choice(route)
    return [choose(float(bucket)).name for bucket in buckets]


shares = st.integers(0, PARTS).map(lambda parts: parts / PARTS)
steps = st.lists(st.tuples(st.sampled_from([CANDIDATE, "b", "c"]), shares), max_size=12)


def walk(moves: list[tuple[str, float]]) -> list[ServiceRoute]:
    """Apply those moves that stable has room for, and return the route after each."""
    route, seen = route_of(1, 2), []
    for arm, share in moves:
        try:
            route = resize(route, arm, share=share, version=2)
        except InvalidSetting:
            continue
        seen.append(route)
    return seen


@given(moves=steps)
def test_resize_keeps_arms_disjoint_and_exhaustive(moves):
    for route in walk(moves):
        check_route(route)

        assert sum(arm.parts for arm in route.arms) == PARTS


@given(moves=steps)
def test_resize_gives_exactly_the_share_asked_for(moves):
    wanted: dict[str, float] = {}
    route = route_of(1, 2)
    for arm, share in moves:
        try:
            route = resize(route, arm, share=share, version=2)
        except InvalidSetting:
            assert round(share * PARTS) > round(wanted.get(arm, 0) * PARTS) + route.arm(STABLE).parts
            continue
        wanted[arm] = share

    assert {arm.name: arm.share for arm in route.arms if arm.name != STABLE} == wanted


@given(moves=steps, buckets=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_widening_never_moves_a_key_back(moves, buckets):
    before = route_of(1, 2)
    for arm, share in moves:
        try:
            after = widen(before, arm, share=share, version=2)
        except InvalidSetting:
            continue
        for bucket in buckets:
            was, now = compile_choice(before)(bucket).name, compile_choice(after)(bucket).name
            assert now == was or (was == STABLE and now == arm)
        before = after


@given(
    first=shares, paused=shares, buckets=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30)
)
def test_pause_and_resume_gives_an_arm_the_same_keys(first, paused, buckets):
    before = resize(route_of(1, 2), CANDIDATE, share=max(first, paused), version=2)

    after = resize(resize(before, CANDIDATE, share=min(first, paused)), CANDIDATE, share=max(first, paused))

    assert owners(after, np.array(buckets)) == owners(before, np.array(buckets))


@given(moves=steps)
def test_choice_agrees_with_the_intervals_at_every_edge(moves):
    for route in walk(moves)[-1:]:
        choose = compile_choice(route)
        for arm in route.arms:
            for low, high in arm.intervals:
                assert choose(low / PARTS) == arm
                assert choose(np.nextafter(high / PARTS, 0)) == arm


@pytest.mark.parametrize("share", [0.000001, 0.01, 0.05, 0.3, 0.5, 1.0])
def test_share_of_keys_follows_share_of_the_arm(share):
    bucket = compile_bucket("pepper")
    choose = compile_choice(resize(route_of(1, 2), CANDIDATE, share=share, version=2))
    n_keys = 40_000

    hits = sum(choose(bucket(b"key-%d" % number)).name == CANDIDATE for number in range(n_keys))

    spread = (n_keys * share * (1 - share)) ** 0.5
    assert abs(hits - n_keys * share) <= 5 * spread + 1


@settings(max_examples=5, deadline=None)
@given(salt=st.text(max_size=20), start=st.integers(0, 10**12))
def test_one_percent_of_a_hundred_thousand_keys_is_one_percent_to_a_third_of_a_point(salt, start):
    route = resize(msgspec.structs.replace(route_of(1, 2), salt=salt), CANDIDATE, share=0.01, version=2)
    bucket, choose = compile_bucket(salt), compile_choice(route)

    hits = sum(choose(bucket(b"%d" % key)).name == CANDIDATE for key in range(start, start + 100_000))

    assert abs(hits / 100_000 - 0.01) <= 0.003


@settings(max_examples=20)
@given(
    salt=st.text(max_size=20),
    keys=st.lists(st.binary(max_size=40), min_size=1, max_size=200),
    shares=st.lists(st.floats(0.001, 1), min_size=2, max_size=6).map(sorted),
)
def test_a_key_that_has_the_candidate_keeps_it_as_the_release_widens_also_after_a_pause(salt, keys, shares):
    route = msgspec.structs.replace(route_of(1, 2), salt=salt)
    bucket = compile_bucket(salt)
    had: set[bytes] = set()
    for share in shares:
        route = widen(route, CANDIDATE, share=share, version=2)
        paused = resize(route, CANDIDATE, share=0.0)
        route = resize(paused, CANDIDATE, share=share)
        choose = compile_choice(route)
        has = {key for key in keys if choose(bucket(key)).name == CANDIDATE}
        assert had <= has
        had = has


def test_buckets_are_uniform_and_fit_the_unit_interval():
    bucket = compile_bucket("pepper")
    buckets = np.array([bucket(b"N%dUA" % number) for number in range(50_000)])

    counts, _ = np.histogram(buckets, bins=50, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()

    assert buckets.min() >= 0
    assert buckets.max() < 1
    assert chi_square < 49 + 6 * (2 * 49) ** 0.5


def test_buckets_under_two_salts_are_uncorrelated():
    one, other = compile_bucket("a"), compile_bucket("b")
    keys = [b"%d" % number for number in range(20_000)]

    correlation = np.corrcoef([one(key) for key in keys], [other(key) for key in keys])[0, 1]

    assert abs(correlation) < 5 / len(keys) ** 0.5


@given(key=st.binary(max_size=80), salt=st.text(max_size=20))
def test_bucket_of_one_key_never_changes(key, salt):
    assert bucket_of(key, salt) == compile_bucket(salt)(key)


def test_bucket_is_pinned_across_releases():
    # Journalled buckets and sticky users both depend on it: a change here moves every key.
    assert bucket_of(b"N14228", "pepper") == PINNED


PINNED = 0.5590019921281395


def test_parts_left_by_a_full_candidate_choose_it_always():
    route = resize(route_of(1, 2), CANDIDATE, share=1.0, version=2)

    assert set(owners(route, np.linspace(0, 1, 100, endpoint=False))) == {CANDIDATE}
    assert route.stable == 1


def test_choice_without_an_arm_is_refused():
    with pytest.raises(InvalidSetting, match="no arm"):
        compile_choice(ServiceRoute("flights"))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf"), 1e-8])
def test_resize_refuses_a_share_that_is_none(share):
    with pytest.raises(InvalidSetting, match="share"):
        resize(route_of(1, 2), CANDIDATE, share=share, version=2)


@pytest.mark.parametrize("arm", [STABLE, "unheard-of"])
def test_resize_refuses_an_arm_it_cannot_size(arm):
    with pytest.raises(InvalidSetting, match=r"arm|stable"):
        resize(route_of(1), arm, share=0.1)


def test_resize_refuses_more_than_stable_has():
    route = resize(route_of(1, 2), "b", share=0.7, version=2)

    with pytest.raises(InvalidSetting, match=r"stable has 0\.3"):
        resize(route, CANDIDATE, share=0.31, version=2)


def test_widen_refuses_to_narrow():
    route = resize(route_of(1, 2), CANDIDATE, share=0.2, version=2)

    with pytest.raises(InvalidSetting, match="narrow"):
        widen(route, CANDIDATE, share=0.1)


def arms(*spans: tuple[str, tuple[tuple[int, int], ...]]) -> tuple[Arm, ...]:
    return tuple(Arm(name, 1, intervals) for name, intervals in spans)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": arms((STABLE, ((0, 10),)))}, "without an arm between 10 and 1000000"),
        ({"arms": arms((STABLE, ((0, 600_000),)), ("b", ((500_000, PARTS),)))}, "keys to two arms"),
        ({"arms": arms((STABLE, ((0, 5), (5, 5), (5, PARTS))))}, "empty or reversed"),
        ({"arms": arms((STABLE, ((5, PARTS), (0, 5))))}, "out of order"),
        ({"arms": arms((STABLE, ((0, PARTS),)), (STABLE, ()))}, "two arms of one name"),
        ({"arms": arms(("b", ((0, PARTS),)))}, "no stable one"),
        ({"standby": (9,)}, "no manifest of version 9"),
        ({"shadows": (Shadow(1, PARTS + 1),)}, "shadow"),
        ({"safe_mode": True}, "safe mode without a fallback"),
        ({"latched": (Latch(1, "slow", "ana", 0),)}, "latched"),
    ],
)
def test_check_refuses_a_route_nobody_can_follow(change, words):
    with pytest.raises(InvalidSetting, match=words):
        check_route(msgspec.structs.replace(route_of(1), **change))


def test_versions_lists_each_once_with_traffic_first():
    route = msgspec.structs.replace(route_of(2, 1, 3), standby=(1, 2), shadows=(Shadow(3),))

    assert route.versions == (2, 3, 1)
