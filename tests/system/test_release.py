"""Releases of flight models, live: a good retrain gets all traffic unattended, bad ones are taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.system.flight import (
    BAD,
    CAUSES,
    SERVICE,
    Passengers,
    fit,
    halves,
    read_flights,
    register_model,
    start_release,
    wait_ended,
)
from tests.system.model import deploy
from tests.system.server import Server, running
from tidegate.operation.replay import replay_decision
from tidegate.operation.version import list_decisions

pytestmark = pytest.mark.slow

SHARES = [0.05, 0.25, 0.5, 1.0]


@pytest.fixture(scope="module")
def flights():
    return read_flights()


@pytest.fixture(scope="module")
def server(tmp_path_factory, flights) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("flights"), n_workers=1) as found:
        register_model(found, "first", fit(halves(flights)[0]))
        deploy(found, SERVICE, version=1)
        found.start()
        yield found


def shares_given(server, version):
    """Return the shares that a version was given, in order, as decisions say."""
    with server.local() as local:
        decided = [one for one in list_decisions(local.unit, SERVICE) if one.decision.version == version]
    given = []
    for one in decided:
        for evidence in one.decision.evidence:
            if evidence.rule == "route-changed":
                arms = evidence.observed["to"]["arms"].values()
                given += [arm["share"] for arm in arms if arm["version"] == version and arm["share"]]
    return given, decided


@pytest.mark.parametrize("how", ["answers NaN for one airline"])  # the others: python -m benchmarks release
def test_a_bad_candidate_answers_nobody_and_the_evidence_names_the_cause(server, flights, how):
    bad = register_model(server, how, fit(halves(flights)[1]), BAD[how])
    with Passengers(server.port, flights) as passengers:
        start_release(server, bad.number)
        ended = wait_ended(server, bad.number, within_s=60)

    assert (ended.ending, passengers.broken) == ("rolled-back", [])
    assert any(cause in ended.reason for cause in CAUSES[how])
    assert set(passengers.statuses) == {200}
    assert bad.number not in passengers.versions
    route = server.local().routes.read().services[SERVICE]
    assert (route.stable, [latch.version for latch in route.latched][-1]) == (1, bad.number)
    again = server.command("release", "start", SERVICE, bad.number, "--override", "again")
    assert again.returncode == 1
    assert "was rolled back" in again.stderr


def test_an_equally_good_retrain_gets_all_traffic_unattended(server, flights):
    good = register_model(server, "second", fit(halves(flights)[1]))
    with Passengers(server.port, flights) as passengers:
        start_release(server, good.number)
        second = server.command("release", "start", SERVICE, good.number, "--override", "me too")
        said = json.loads(server.command("release", "status", "--json").stdout)
        ended = wait_ended(server, good.number, within_s=120)

    assert (ended.ending, ended.reason) == ("promoted", ended.reason), ended
    assert second.returncode == 1
    assert "under way" in second.stderr
    assert said["state"]["candidate"] == good.number
    assert set(passengers.statuses) == {200}
    assert passengers.broken == []
    given, decided = shares_given(server, good.number)
    assert [each for each in SHARES if each in given] == SHARES
    with server.local() as local:
        assert all(replay_decision(local.unit, one.id).is_same for one in decided)
    assert server.local().routes.read().services[SERVICE].stable == good.number
