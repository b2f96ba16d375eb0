"""Outcomes of a running server's predictions: each is joined exactly once, however it is delivered."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tidegate as tg
from tests.system.model import add_constant, deploy
from tests.system.server import Server, wait_until
from tidegate.contract.declare import contract_of
from tidegate.core.error import NotFound
from tidegate.journal.ledger import JoinedOutcome, OutcomeCounts
from tidegate.operation.journal import SliceView, slices

pytestmark = pytest.mark.slow

DAY = datetime(2026, 11, 20, tzinfo=UTC)
UNKNOWN = "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"


class Flight(tg.Input):
    tail: str = tg.field(key=True)
    leaves_at: datetime = tg.timestamp(role="timestamp")


class Seat(tg.Input):
    cabin: str = tg.category("economy", "business", role="protected")


class Delay(tg.Output):
    p_late: float


@pytest.fixture(scope="module")
def server(shared) -> Server:
    for name in ("joined", "keyed", "other"):
        add_constant(shared, name, contract_of(Flight, Delay), {"p_late": 0.25})
        deploy(shared, name)
    add_constant(shared, "sliced", contract_of(Seat, Delay), {"p_late": 0.25})
    deploy(shared, "sliced")
    shared.wait_ready()
    return shared


class Desk:
    """What a caller does with one service, and what the ledger says of it."""

    def __init__(self, server: Server, service: str) -> None:
        self.server = server
        self.service = service

    def predict(self, *flights: tuple[str, datetime]) -> list[str]:
        """Return the prediction ids of some flights, asked in one request."""
        rows = [{"tail": tail, "leaves_at": leaves_at.isoformat()} for tail, leaves_at in flights]
        with self.server.client() as client:
            answer = client.post(f"/services/{self.service}/predict", {"rows": rows})
        assert answer.status == 200, answer.body
        return [row["prediction_id"] for row in answer.json()["rows"]]

    def report(self, *outcomes: dict[str, Any]) -> None:
        """Report outcomes in one request."""
        with self.server.client() as client:
            answer = client.post(f"/services/{self.service}/outcomes", {"outcomes": outcomes})
        assert (answer.status, answer.json()) == (202, {"accepted": len(outcomes)})

    def joined(self) -> dict[str, JoinedOutcome]:
        """Return the latest outcome called `late` of each prediction."""
        with contextlib.closing(self.server.ledger()) as ledger:
            found = list(ledger.joined(self.service, name="late"))
        assert len({each.prediction_id for each in found}) == len(found)
        return {each.prediction_id: each for each in found}

    def values(self) -> dict[str, Any]:
        return {prediction_id: one.value for prediction_id, one in self.joined().items()}

    def wait_counted(self, n_delivered: int, *, n_pending: int = 0) -> OutcomeCounts:
        """Wait until so many outcomes were taken in, and all but some of them settled."""

        def look() -> OutcomeCounts | None:
            try:
                ledger = self.server.ledger()
            except NotFound:  # the controller has not begun yet
                return None
            with contextlib.closing(ledger):
                found = ledger.outcome_counts(self.service)
            return found if (found.delivered, found.pending) == (n_delivered, n_pending) else None

        found: OutcomeCounts = wait_until(look, what=f"{n_delivered} outcomes, {n_pending} of them pending")
        return found


def of(prediction_id: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"prediction_id": prediction_id, "value": value, **more}


def late(prediction_id: str, value: Any, **more: Any) -> dict[str, Any]:
    return of(prediction_id, value, name="late", **more)


def test_each_outcome_is_joined_once_across_repetitions_corrections_and_restarts(server):
    desk = Desk(server, "joined")
    first, second, third, fourth = desk.predict(*[(f"N{number}", DAY) for number in range(4)])
    (control,) = wait_until(lambda: server.child("tidegate.control"))
    control.suspend()  # what follows is all in the journal before the tailer sees any of it
    (fifth,) = desk.predict(("N4", DAY))
    desk.report(late(first, True), late(second, False, id="r-2"), late(fifth, 1))
    desk.report(late(first, True), late(first, True))  # said again
    desk.report(
        late(second, False, id="r-2"), late(second, True, id="r-2")
    )  # again; and another under its id
    control.kill()
    desk.wait_counted(7)

    desk.report(late(first, False), late(third, {"minutes": 17}), late(UNKNOWN, True))
    desk.report({"key": "N3", "event_time": DAY.isoformat(), "value": 3, "name": "late"})
    desk.report(of(first, 12.5, name="minutes"))
    desk.wait_counted(12, n_pending=1)
    server.stop()
    server.start()
    desk.report(late(first, False), late(third, {"minutes": 17}), late(fifth, 2))

    found = desk.wait_counted(15, n_pending=1)

    values = {prediction_id: (one.value, one.revision) for prediction_id, one in desk.joined().items()}
    assert values == {
        first: (False, 2),
        second: (False, 1),
        third: ({"minutes": 17}, 1),
        fourth: (3, 1),
        fifth: (2, 2),
    }
    assert (found.joined, found.corrected, found.conflicting, found.repeated) == (6, 2, 1, 5)
    tally = server.tally("joined")
    assert (tally.rows, tally.joined, tally.corrected) == (5, 6, 2)


def test_an_outcome_by_key_and_time_is_that_of_the_latest_prediction_before(server):
    desk = Desk(server, "keyed")
    early, middle, later = desk.predict(*[("N1", DAY + timedelta(hours=hour)) for hour in (6, 9, 12)])
    (another,) = desk.predict(("N2", DAY + timedelta(hours=8)))

    def by_key(key: str, hour: float, value: int) -> dict[str, Any]:
        at = DAY + timedelta(hours=hour)
        return {"key": key, "event_time": at.isoformat(), "value": value, "name": "late"}

    desk.report(by_key("N1", 9.5, 1), by_key("N1", 23, 2), by_key("N2", 9, 3))
    desk.report(by_key("N1", 5, 4), by_key("N9", 9, 5))  # before the first; of nobody
    in_us = int((DAY + timedelta(hours=6)).timestamp() * 1e6)
    desk.report({"key": "N1", "event_time": in_us, "value": 6, "name": "late"})

    desk.wait_counted(6, n_pending=2)

    assert desk.values() == {middle: 1, later: 2, another: 3, early: 6}

    assert "N1" not in repr([one for one in server.records(service="keyed") if one.kind == "outcome"])


def test_the_id_of_another_service_s_prediction_is_unknown_to_this_one(server):
    desk = Desk(server, "other")
    (known,) = Desk(server, "joined").predict(("N1", DAY))
    (own,) = desk.predict(("N1", DAY))
    desk.report(late(known, True), late(own, False))

    desk.wait_counted(2, n_pending=1)

    assert desk.values() == {own: False}
    shown = server.command("journal", "count", "other", "--json")
    assert json.loads(shown.stdout)["outcomes"]["joined"] == 1, shown.stderr


def test_a_protected_field_is_counted_apart_with_what_came_true(server):
    with server.client() as client:
        rows = [{"cabin": cabin} for cabin in ("economy", "business", "business")]
        answer = client.post("/services/sliced/predict", {"rows": rows}).json()
    ids = [row["prediction_id"] for row in answer["rows"]]
    Desk(server, "sliced").report(of(ids[0], False), of(ids[1], True))

    def look() -> list[SliceView] | None:
        found = slices(server.home.ledger, "sliced")
        return found if sum(each.joined for each in found) == 2 else None

    found = wait_until(look, what="two outcomes by slice")

    assert [(each.field, each.value, each.rows, each.mean_loss) for each in found] == [
        ("cabin", "business", 2, 0.5625),
        ("cabin", "economy", 1, 0.0625),
    ]
