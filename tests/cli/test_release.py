"""Releases by commands: wrong use is refused in words, and what is under way is shown and steered."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import msgspec
import pytest

import tidegate as tg
from tests.system.model import deploy_in
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import Origin, publish
from tidegate.bootstrap.setting import Settings
from tidegate.contract.declare import contract_of
from tidegate.journal.ledger import Ledger
from tidegate.route.route import Latch, resize

SERVICE = "sum"
FREE = ("--override", "there is no data to gate it by")


class Pair(tg.Input):
    a: float
    b: float


class Narrow(tg.Input):
    a: float
    b: float = tg.field(ge=0, le=1)


class Total(tg.Output):
    total: float


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home in which service `sum` serves version 1, and versions 2 (like it) and 3 (narrower) wait."""
    folder = tmp_path_factory.mktemp("template")
    local = Local(Settings(home=str(folder / "home")))
    model = folder / "model.py"
    model.write_text("def predict(columns):\n    return {'total': columns['a'] + columns['b']}\n")
    for contract in (contract_of(Pair, Total), contract_of(Pair, Total), contract_of(Narrow, Total)):
        publish(
            local,
            SERVICE,
            model,
            contract=contract,
            sample={"a": [1.0], "b": [0.5]},
            origin=Origin(changelog=str(contract.fingerprint)),
        )
    deploy_in(local, SERVICE, version=1)
    local.close()
    return folder / "home"


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    """A copy of it, where commands look for one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template, tmp_path / ".tidegate")
    with Local(Settings(home=str(tmp_path / ".tidegate"))) as local:
        yield local


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((9, *FREE), "There is no version sum@9"),
        ((3, *FREE), "Version 3 of service 'sum' breaks the contract that callers have: input b"),
        (
            (2, "--steps", "1,150", *FREE),
            "A share is a number of percent above 0 and at most 100. Got '150'.",
        ),
        ((2, "--steps", "50,5", *FREE), "ascending shares between 0% and 100%. Got 50%, 5%."),
        ((2, "--approve", "7", *FREE), "waits for approval before a share of 7%"),
        ((1, *FREE), "Version 1 of service 'sum' has all the traffic already"),
        ((2,), "tidegate gate"),
    ],
)
def test_a_release_with_no_good_end_is_refused_in_words(tidegate, home, arguments, words):
    said = tidegate("release", "start", SERVICE, *arguments)

    assert said.code == 1
    assert words in said.err


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"aprove": [1.0]}', "There is no field 'aprove' in a plan."),
        ('{"shadow": {"shear": 1}}', "There is no field 'shear' in a plan's shadow."),
        ('{"steps": [{"share": 0.5, "least": 60}]}', "There is no field 'least' in a plan's step."),
        (
            '{"guardrails": [{"name": "errors", "alowance": 0.1}]}',
            "no field 'alowance' in a plan's",
        ),
        ('{"stepz": []}', "There is no field 'stepz' in a plan."),
        ("{", "plan.json cannot be used: This is no plan:"),
        ("[]", "This is no plan:"),
        ('{"steps": [{"share": "half"}]}', "Fields of a plan's step: share, least_s."),
        ('{"steps": [{"least_s": 60}]}', "Fields of a plan's step: share, least_s."),
        ('{"shadow": {"shear": 1}}', "Fields of a plan's shadow: share, least_s, least_pairs"),
        ('{"shadow": {"share": 0}}', "A shadow has a share above 0 and at most 1. Got 0.0."),
        ('{"shadow": {"share": 1.5}}', "A shadow has a share above 0 and at most 1. Got 1.5."),
        ('{"shadow": {"least_pairs": -1}}', "least_pairs is 0 or more. Got -1."),
        ('{"shadow": {"least_s": -1}}', "lasts 0 seconds or more. Got -1.0."),
        ('{"steps": [{"share": 0.5, "least_s": -60}]}', "lasts 0 seconds or more. Got -60.0."),
        ('{"mature_s": -1}', "lasts 0 seconds or more. Got -1.0."),
        ('{"max_dropped": -0.1}', "max_dropped is a part of the records, 0 or more. Got -0.1."),
        (
            '{"guardrails": [{"name": "wrong", "outcome": "real", "against": "totl"}], "mature_s": 60}',
            "Guardrail 'wrong' compares outcomes with 'totl', which is no output.",
        ),
    ],
)
def test_a_plan_file_that_says_something_else_than_it_seems_is_refused(
    tidegate, home, tmp_path, written, words
):
    plan = tmp_path / "plan.json"
    plan.write_text(written)

    said = tidegate("release", "start", SERVICE, 2, "--plan", plan, *FREE)

    assert said.code == 1
    assert words in said.err
    assert tidegate("release", "list").out == "There never was a release here.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("decisions", "list"),
        ("release", "list"),
        ("runs", "list"),
        ("audit", "list", "--service"),
        ("signals", "list"),
        ("latch", "list"),
        ("journal", "show"),
        ("journal", "count"),
        ("journal", "slices"),
        ("journal", "export", "parquet"),
        ("data", "list"),
        ("data", "held"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nothing_is_said_of_a_name_that_nobody_knows(tidegate, home, arguments, more):
    Ledger(home.home.ledger).close()

    said = tidegate(*arguments, "nobody", *more)

    assert (said.code, said.out) == (1, "")
    assert "Error (not_found): " in said.err
    assert "'nobody'" in said.err


def test_that_nothing_was_decided_is_said_only_where_nothing_was(tidegate, home):
    assert tidegate("decisions", "list", "--kind", "foo").out == "No decision matches.\n"
    assert tidegate("decisions", "list", SERVICE, "--kind", "rollback").out == "No decision matches.\n"
    assert tidegate("latch", "list", SERVICE).out == "No version is latched.\n"


def test_a_plan_file_is_followed(tidegate, home, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_bytes(
        b'{"shadow": null, "steps": [{"share": 0.5, "least_s": 0}], "approve": [1.0],'
        b' "guardrails": [{"name": "errors", "allowance": 0.1}], "max_dropped": 0}'
    )

    said = tidegate("release", "start", SERVICE, 2, "--plan", plan, "--json", *FREE)

    kept = json.loads(said.out)["state"]["plan"]
    assert (kept["shadow"], kept["steps"], kept["approve"]) == (None, [{"share": 0.5, "least_s": 0.0}], [1.0])


def test_a_second_release_of_one_service_is_refused(tidegate, home):
    first = tidegate("release", "start", SERVICE, 2, *FREE)
    second = tidegate("release", "start", SERVICE, 2, *FREE)

    assert first.code == 0, first.err
    assert second.code == 1
    assert "under way" in second.err


def test_a_rolled_back_version_is_not_released(tidegate, home):
    home.routes.change(
        SERVICE, lambda old: msgspec.structs.replace(old, latched=(Latch(2, "slow", "ana", 0),))
    )

    said = tidegate("release", "start", SERVICE, 2, *FREE)

    assert said.code == 1
    assert "was rolled back by ana: slow" in said.err


def test_a_release_is_started_shown_steered_and_called_off(tidegate, home):
    started = tidegate("release", "start", SERVICE, 2, "--steps", "5,50", "--approve", "100", *FREE)
    status = tidegate("release", "status", "--json")
    paused = tidegate("release", "pause", "--reason", "holiday")
    shown = tidegate("release", "status")
    again = tidegate("release", "pause")
    resumed = tidegate("release", "resume")
    unreasoned = tidegate("release", "promote")
    aborted = tidegate("release", "abort", SERVICE)
    nothing = tidegate("release", "abort", SERVICE)
    late = tidegate("release", "pause", SERVICE)
    watched = tidegate("release", "watch")

    assert "has started: version 2 of sum beside version 1" in started.out
    assert "Steps: 5%, 50%, then everything." in started.out
    assert "no traffic was counted lately" in started.out
    state = json.loads(status.out)["state"]
    assert [step["share"] for step in state["plan"]["steps"]] == [0.05, 0.5]
    assert state["plan"]["approve"] == [1.0]
    assert paused.out == "The release of sum holds at 0.0%.\n"
    assert "paused" in shown.out
    assert again.code == 1
    assert resumed.code == 0
    assert unreasoned.code == 1
    assert aborted.out == "The release of sum is over: version 1 has its traffic.\n"
    assert nothing.out == "No release of sum goes on: version 1 has its traffic.\n"
    assert (late.code, "No release of service 'sum' is under way." in late.err) == (1, True)
    assert (watched.code, "sum 1 -> 2   ended: aborted" in watched.out) == (3, True)
    listed = json.loads(tidegate("release", "list", "--json").out)
    assert [each["ending"] for each in listed] == ["aborted"]
    kinds = [each["decision"]["outcome"] for each in json.loads(tidegate("decisions", "--json").out)]
    assert {"started", "paused", "resumed", "aborted"} <= set(kinds)


def test_calling_off_says_what_is_not_there_and_what_nobody_knows(tidegate, home, monkeypatch):
    nowhere = tidegate("release", "abort", "nope")
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", "postgresql://ana@localhost:1/tidegate")
    unknown = tidegate("release", "abort", SERVICE)
    unknown_nowhere = tidegate("release", "abort", "nope")

    assert nowhere.code == 1
    assert "Error (not_found): No version of a service 'nope' is registered." in nowhere.err
    assert (unknown.code, unknown.out) == (1, "")
    assert "could not be reached: a release of service 'sum' may go on." in unknown.err
    assert unknown_nowhere.code == 1
    assert "Error (not_found): Service 'nope' has no route, so that no release of it" in unknown_nowhere.err


def test_a_decision_is_shown_and_replayed(tidegate, home):
    tidegate("release", "start", SERVICE, 2, *FREE)
    number = json.loads(tidegate("decisions", SERVICE, "--kind", "release", "--json").out)[-1]["id"]

    shown = tidegate("decisions", "show", number)
    replayed = tidegate("decisions", "replay", number)

    assert f"{number}: release of sum version 2: started" in shown.out
    assert (replayed.code, "Every verdict is the same." in replayed.out) == (0, True)
    assert tidegate("decisions", "show", 999).code == 1


@pytest.mark.parametrize("number", [0, -1, 2**31, 10**23, "9" * 5000, "two"])
@pytest.mark.parametrize(
    "words",
    [
        ("latch", "clear", SERVICE),
        ("switch", SERVICE),
        ("release", "start", SERVICE),
        ("decisions", "show"),
        ("decisions", "replay"),
        ("decisions", "list", "--version"),
    ],
)
def test_a_number_that_no_version_can_have_is_refused_before_anything_is_done(tidegate, home, words, number):
    said = tidegate(*words, "--", number) if words[-1] != "--version" else tidegate(*words, number)

    assert said.code == 2
    assert "is no whole number from 1 to 2147483647" in said.err


def test_only_the_latch_of_a_version_that_exists_is_cleared(tidegate, home):
    mistyped = tidegate("latch", "clear", SERVICE, 9)
    unlatched = tidegate("latch", "clear", SERVICE, 2)

    assert (mistyped.code, "There is no version sum@9" in mistyped.err) == (1, True)
    assert (unlatched.code, unlatched.out) == (3, "Version 2 of sum was not latched.\n")
    assert [each["decision"]["version"] for each in json.loads(tidegate("decisions", "--json").out)][-1] == 2


def test_without_a_release_it_is_said_so(tidegate, home):
    said = tidegate("release", "status")

    assert said.code == 1
    assert "There never was a release here." in said.err


def test_an_experiment_is_refused_in_words_where_it_has_no_good_end(tidegate, home):
    wrong = tidegate("experiment", "start", SERVICE, "b=2")
    unknown = tidegate("experiment", "start", SERVICE, "b=9:10")
    too_much = tidegate("experiment", "start", SERVICE, "b=2:150")
    stopped = tidegate("experiment", "stop")
    shown = tidegate("experiment", "status")

    assert "'b=2' is no arm" in wrong.err
    assert "There is no version sum@9" in unknown.err
    assert "'b=2:150' is no arm" in too_much.err
    assert stopped.out == "There was no experiment on sum.\n"
    assert shown.out == "No experiment on sum goes on.\n"


def test_what_was_understood_of_an_experiment_is_said_in_percent(tidegate, home, monkeypatch):
    committed = SimpleNamespace(decision=SimpleNamespace(outcome="committed"))
    monkeypatch.setattr("tidegate.operation.experiment.start", lambda *_, **__: committed)

    said = tidegate("experiment", "start", SERVICE, "b=2:0.2", "c=2:20%")

    assert "b is version 2 with 0.2%, c is version 2 with 20% of the keys" in said.out


def test_an_experiment_without_workers_is_refused(tidegate, home):
    said = tidegate("experiment", "start", SERVICE, "b=2:20")

    assert said.code == 1
    assert "No worker is running" in said.err


def test_an_experiment_is_shown_holds_up_a_release_and_ends(tidegate, home):
    def begin(old):
        known = msgspec.structs.replace(old, manifests={**old.manifests, 2: old.manifests[1]})
        return resize(known, "b", share=0.2, version=2)

    home.routes.change(SERVICE, begin)
    shown = json.loads(tidegate("experiment", "status", "--json").out)
    released = tidegate("release", "start", SERVICE, 2, *FREE)
    stopped = tidegate("experiment", "stop", "--reason", "seen enough")

    assert [(each["name"], each["version"], each["share"]) for each in shown["arms"]] == [
        ("stable", 1, 0.8),
        ("b", 2, 0.2),
    ]
    assert "End that experiment or release first" in released.err
    assert stopped.out == "Version 1 of sum has all the traffic again.\n"
