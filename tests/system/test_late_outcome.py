"""Releases judged by outcomes that come late: on the way, and after everything was given."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
from onnx import helper

from tests.system.model import add_version, deploy, write_graph, write_sum
from tests.system.server import Client, Crowd, Server, running, wait_until
from tidegate.operation.experiment import results
from tidegate.operation.rollout import find_release
from tidegate.operation.version import list_decisions
from tidegate.operation.watching import watch_release
from tidegate.release.plan import Guardrail, Plan, PlanStep

pytestmark = pytest.mark.slow

SERVICE = "sum"
LATE_S = 0.3
"""After which a customer says what the sum truly was."""
PLAN = Plan(
    shadow=None,
    steps=(PlanStep(0.5, 1.0),),
    guardrails=(
        Guardrail("errors", allowance=0.2),
        Guardrail("wrong", outcome="sum", against="total", beyond=0.5, allowance=0.2),
    ),
    mature_s=2.5,
    limit_s=120.0,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("outcomes"), n_workers=1) as found:
        # the second answers a + b and a little more, the third is off by the sine of a
        for number, constant in enumerate((0.0, 0.1), start=1):
            add_version(found, SERVICE, write_sum(found.folder / f"{number}.onnx", constant))
        waves = [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sin", ["a"], ["wave"]),
            helper.make_node("Add", ["sum", "wave"], ["total"]),
        ]
        add_version(found, SERVICE, write_graph(found.folder / "waves.onnx", waves, {}))
        deploy(found, SERVICE, version=1)
        found.start()
        yield found


class Customers(Crowd):
    """Ask for sums, and say a moment later what they were."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(*(partial(self._ask, slot) for slot in range(2)))

    def _ask(self, slot: int) -> None:
        client, waiting, n = Client(self.port), deque(), slot
        while not self._stopping.wait(0.008):
            n += 1
            answer = client.post(f"/services/{SERVICE}/predict", {"rows": [{"a": n, "b": 1}]})
            if answer.status == 200:
                waiting.append((time.monotonic(), answer.json()["rows"][0]["prediction_id"], n + 1))
            due = []
            while waiting and waiting[0][0] < time.monotonic() - LATE_S:
                _, prediction, truth = waiting.popleft()
                due.append({"prediction_id": prediction, "name": "sum", "value": truth})
            if len(due) > 20 or (due and n % 40 < 2):
                client.post(f"/services/{SERVICE}/outcomes", {"outcomes": due})
        client.close()


def release(server: Server, version: int) -> tuple[object, list[dict[str, str]]]:
    """Release a version; return how it ended, and what its rules said at each look."""
    path = server.folder / "plan.json"
    path.write_bytes(msgspec.json.encode(PLAN))
    done = server.command("release", "start", SERVICE, version, "--plan", path, "--override", "a test")
    assert done.returncode == 0, done.stderr
    looks = []
    give_up_s = time.monotonic() + 180
    with server.local() as local:
        while (state := find_release(local.unit, SERVICE)).is_open and time.monotonic() < give_up_s:
            view = watch_release(local.unit, server.home.ledger, SERVICE, clock=local.clock)
            verdicts = {rule.rule: rule.verdict.value for rule in view.rules}
            looks.append({"stage": view.state.stage.value, **verdicts})
            time.sleep(0.1)
    return state, looks


def test_an_experiment_tells_which_of_several_versions_is_wrong_more_often(server):
    with Customers(server.port):
        begun = server.command(
            "experiment", "start", SERVICE, "b=2:30", "c=3:30", "--outcome", "sum", "--against", "total",
            "--within", "1s",
        )  # fmt: skip
        assert begun.returncode == 0, begun.stderr

        def look():
            with server.local() as local:
                route = local.routes.read().services[SERVICE]
                found = results(local.unit, server.home.ledger, route)
            return found if found is not None and found.arms[2].verdict != "undecided" else None

        found = wait_until(look, within_s=60, what="arm c is wrong more often")
        shown = server.command("experiment", "status", SERVICE)
        ended = server.command("experiment", "stop", SERVICE, "--json")

    assert [(arm.name, arm.verdict) for arm in found.arms] == [
        ("stable", ""),
        ("b", "undecided"),
        ("c", "more"),
    ]
    assert found.is_valid
    assert "sum unlike total" in shown.stdout
    (kept,) = [
        each
        for each in json.loads(ended.stdout)["decision"]["evidence"]
        if each["rule"] == "experiment-result"
    ]
    assert kept["reason"] == "b undecided; c more"


def test_a_candidate_that_outcomes_prove_wrong_is_taken_back_after_it_had_everything(server):
    with Customers(server.port):
        ended, looks = release(server, 3)

    assert ended.ending == "rolled-back", ended
    assert "outcome:wrong: more wrong" in ended.reason
    assert any(look.get("outcome:wrong") == "undecided" for look in looks)  # while none was old enough
    assert any(look["stage"] == "maturing" for look in looks)
    route = server.local().routes.read().services[SERVICE]
    assert (route.stable, [latch.version for latch in route.latched]) == (1, [3])
    with server.local() as local:
        (decided,) = [one for one in list_decisions(local.unit, SERVICE) if one.decision.kind == "rollback"]
    replayed = server.command("decisions", "replay", decided.id)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "outcome:wrong" in replayed.stdout


def test_a_good_candidate_is_promoted_once_outcomes_have_proven_it(server):
    with Customers(server.port):
        ended, looks = release(server, 2)

    assert (ended.ending, ended.reason) == ("promoted", "every guardrail is safe, outcomes too"), ended
    assert next(look["outcome:wrong"] for look in looks if "outcome:wrong" in look) == "undecided"
    with server.local() as local:
        promoted = [one for one in list_decisions(local.unit, SERVICE) if one.decision.outcome == "promoted"]
    verdicts = {each.rule: each.verdict for each in promoted[-1].decision.evidence}
    assert verdicts["outcome:wrong"] == "safe"
    assert server.command("decisions", "replay", promoted[-1].id).returncode == 0
