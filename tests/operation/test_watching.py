"""Today's traffic, by which the time of a release is foretold, and a release as its watcher sees it."""

from __future__ import annotations

from contextlib import closing

import msgspec
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tests.journal.test_pair import ANSWERS, COPIES, turn
from tests.release.fleet import ANA, SERVICE, manifest
from tidegate.core.error import NotFound
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Flag
from tidegate.journal.tailer import Tailer
from tidegate.operation.watching import LOOK_BACK_MINUTES, read_traffic, watch_release
from tidegate.registry.store import StoreUnavailable
from tidegate.release.book import StoredRelease
from tidegate.release.machine import Stage, State
from tidegate.release.plan import Plan


def count(folder, *turns):
    """Journal turns, count them, and give the ledger's path and a clock a minute later."""
    writer = new_writer(folder / "journal")
    for stream, made in turns:
        writer.append([writer.stream(stream).encode(made)])
    writer.close()
    clock = FakeClock(START_US + 60_000_000)
    with closing(Ledger(folder / "ledger.db")) as ledger:
        tailer = Tailer(folder / "journal", ledger, clock=clock)
        tailer.poll()
        tailer.close()
    return folder / "ledger.db", clock


def keys(*numbers):
    return [(b"%d" % number).ljust(16, b".") for number in numbers]


def test_traffic_counts_keys_where_there_are_some_and_rates_of_events(tmp_path):
    ids = new_ids(8)
    good = new_turn(ids[:6], key_hashes=keys(1, 1, 1, 2, 2, 3), service_time_us=100.0)
    bad = new_turn(
        ids[6:],
        key_hashes=keys(4, 4),
        errors=["output_violation"] * 2,
        flags=int(Flag.INVALID | Flag.FALLBACK),
        service_time_us=9_000.0,
    )
    path, clock = count(tmp_path, (new_stream(), good), (new_stream(), bad))

    found = read_traffic(path, "delay", clock=clock, latency_us=5_000.0)

    seconds = (clock.wall_us() - START_US // 60_000_000 * 60_000_000) / 1e6
    assert found.keys_per_s == pytest.approx(4 / seconds)
    assert found.rates == {"errors": 0.25, "contract": 0.25, "fallback": 0.25, "latency": 0.25}


def test_traffic_without_keys_counts_requests(tmp_path):
    path, clock = count(tmp_path, (new_stream(), new_turn(new_ids(6))))

    found = read_traffic(path, "delay", clock=clock)

    assert found.keys_per_s > 0
    assert found.rates["latency"] == 0.01


def test_traffic_of_long_ago_foretells_nothing(tmp_path):
    path, clock = count(tmp_path, (new_stream(), new_turn(new_ids(6))))
    clock.forward((LOOK_BACK_MINUTES + 1) * 60)

    assert read_traffic(path, "delay", clock=clock) is None
    assert read_traffic(tmp_path / "nowhere.db", "delay", clock=clock) is None


def keep(unit, **fields):
    state = State("r-1", "delay", 1, 2, manifest(2), Plan(), ANA, START_US, **fields)
    with unit.write() as transaction:
        transaction.releases.add(
            StoredRelease(state.id, state.service, state.is_open, state.revision, msgspec.json.encode(state))
        )
    return state


def test_a_shadow_is_shown_with_its_evidence_against_the_threshold(unit, tmp_path):
    ids = new_ids(30)
    answers = turn(ids, [0.1] * 30, key_hashes=keys(*range(30)))
    copies = turn(ids, [0.1] * 15 + [0.9] * 15, key_hashes=keys(*range(30)))
    path, clock = count(tmp_path, (ANSWERS, answers), (COPIES, copies))
    keep(unit, stage=Stage.SHADOW, rules=Plan().guardrails)

    view = watch_release(unit, path, "delay", clock=clock)

    assert (view.share, view.candidate) == (0.0, 30)
    assert {rule.rule for rule in view.rules} == {"shadow-failures", "shadow-latency", "disagreement"}
    assert all(rule.threshold > 4.6 for rule in view.rules)  # several rules share one in a hundred
    assert all(rule.proven == pytest.approx(0.15) for rule in view.rules if rule.verdict == "undecided")
    assert view.left_s > 0


def test_a_release_is_shown_before_anything_was_counted(unit, tmp_path):
    keep(unit)

    view = watch_release(unit, tmp_path / "ledger.db", "delay", clock=FakeClock())

    assert (view.state.candidate, view.rules, view.left_s) == (2, (), None)


def test_a_service_without_a_release_is_said_so(unit, tmp_path):
    with pytest.raises(NotFound, match="never had a release"):
        watch_release(unit, tmp_path / "ledger.db", SERVICE, clock=FakeClock())


def test_a_database_that_is_down_is_said_so(tmp_path):
    class Down:
        def read(self):
            raise StoreUnavailable("It is down.")

    with pytest.raises(StoreUnavailable):
        watch_release(Down(), tmp_path / "ledger.db", "delay", clock=FakeClock())
