"""Getting out of trouble by commands: rollback, safe mode, latches; no server and no name needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from tidegate.cli.main import cli
from tidegate.cli.option import REASON
from tidegate.core.decision import Decision
from tidegate.core.digest import digest_bytes
from tidegate.core.home import Home
from tidegate.core.principal import Principal
from tidegate.operation.release import Moved
from tidegate.operation.rollback import MovedBack
from tidegate.release import move
from tidegate.route.route import CANDIDATE, Shadow, resize
from tidegate.route.store import RouteStore

DIGEST = digest_bytes(b"manifest")


@pytest.fixture
def store(tmp_path):
    home = Home(tmp_path / ".tidegate")
    home.root.mkdir()
    return RouteStore(home.route("local"))


def deploy(store, service, *versions, fallback=("rates",)):
    """Make those versions stable one after the other, as if workers had followed."""

    def change(old):
        route = move.deploy_first(
            old, service, version=versions[0], manifest=DIGEST, salt="s", fallback=fallback
        )
        for version in versions[1:]:
            route = msgspec.structs.replace(route, manifests={**route.manifests, version: DIGEST})
            route = move.commit(route, version=version)
        return route

    store.change(service, change)


def route_of(store, service):
    return store.read().services[service]


def canary(store, service, version):
    def change(old):
        known = msgspec.structs.replace(old, manifests={**old.manifests, version: DIGEST})
        return resize(known, CANDIDATE, share=0.1, version=version)

    store.change(service, change)


def test_rollback_without_a_name_takes_the_only_service(tidegate, store):
    deploy(store, "flights", 1, 2)

    said = tidegate("rollback")

    assert (said.code, said.err) == (0, "")
    assert said.out == (
        "Version 1 of flights has all the traffic again. Version 2 was taken away and is latched.\n"
    )
    assert route_of(store, "flights").stable == 1


def test_words_that_are_no_utf_8_do_not_keep_a_rollback_from_being_made(tidegate, store):
    deploy(store, "flights", 1, 2)
    given = b"caf\xe9 \x1b[2Jis\r\nlate\x00".decode("utf-8", "surrogateescape")

    said = tidegate("rollback", "--reason", given)

    assert said.code == 0, said.err
    assert route_of(store, "flights").stable == 1
    assert route_of(store, "flights").latched[0].reason == "caf\\udce9 [2Jis  late"
    assert tidegate("safe-mode", "on", "--reason", given).code == 0
    decisions = json.loads(tidegate("decisions", "--json").out)
    assert {each["decision"]["reason"] for each in decisions} == {"caf\\udce9 [2Jis  late"}


def test_every_reason_is_read_in_the_same_way():
    def reasons(command, name=""):
        for parameter in command.params:
            if "--reason" in parameter.opts:
                yield f"{name} {parameter.type!r}", parameter.type is REASON
        for each in getattr(command, "list_commands", lambda _: ())(click.Context(command)):
            yield from reasons(command.get_command(click.Context(command), each), f"{name} {each}")

    found = dict(reasons(cli))

    assert len(found) >= 15
    assert [name for name, is_shared in found.items() if not is_shared] == []


def test_status_names_the_cells_that_serve_what_this_one_does_not(tidegate, tmp_path):
    for cell in ("north", "south"):
        deploy(RouteStore(Home(tmp_path / ".tidegate", cell=cell).route(cell), cell=cell), "flights", 1)

    elsewhere = tidegate("status", "flights")
    nowhere = tidegate("status", "nope")

    assert elsewhere.code == 1
    assert "Service 'flights' has no route in cell local. Served in: north, south." in elsewhere.err
    assert "TIDEGATE_CELL=north" in elsewhere.err
    assert "Service 'nope' has no route.\nRouted services: none." in nowhere.err


def test_rollback_without_a_name_takes_the_one_that_is_on_the_move(tidegate, store):
    for service in ("churn", "flights", "fraud"):
        deploy(store, service, 1, 2)
    canary(store, "fraud", 3)

    said = tidegate("rollback")

    assert "Version 2 of fraud" in said.out
    assert [route_of(store, each).stable for each in ("churn", "flights", "fraud")] == [2, 2, 2]
    assert [latch.version for latch in route_of(store, "fraud").latched] == [3]


@pytest.mark.parametrize(
    ("on_the_move", "words"),
    [
        ((), "Several services are served: churn, flights, fraud."),
        (("churn", "fraud"), "Several services are on the move: churn, fraud."),
    ],
)
def test_rollback_without_a_name_is_refused_where_several_could_be_meant(tidegate, store, on_the_move, words):
    for service in ("churn", "flights", "fraud"):
        deploy(store, service, 1, 2)
    for service in on_the_move:
        canary(store, service, 3)

    said = tidegate("rollback")

    assert said.code == 1
    assert words in said.err


def test_rollback_with_nothing_to_roll_back_to_is_refused_in_words(tidegate, store):
    deploy(store, "flights", 1, fallback=())

    said = tidegate("rollback")

    assert said.code == 1
    assert "No earlier version of service 'flights' can take over, and it has no fallback." in said.err


def test_rollback_asked_for_twice_at_once_goes_back_once_and_says_how_to_go_further(tidegate, store):
    deploy(store, "flights", 1, 2, 3)
    tidegate("rollback")

    again = tidegate("rollback")
    stable = route_of(store, "flights").stable
    further = tidegate("rollback", "--to", 1)

    assert (again.code, stable) == (0, 2)
    assert again.out.startswith("Nothing was changed for flights: version 3 was taken away by ")
    assert again.out.endswith(" and version 2 answers. To go further back, say so with --to 1.\n")
    assert "Version 1 of flights has all the traffic again." in further.out


def test_second_rollback_at_once_leaves_cells_alone_that_the_first_did_not_concern(tidegate, store):
    other = RouteStore(Home(Path(".tidegate").resolve()).route("west"), cell="west")
    for each in (store, other):
        deploy(each, "flights", 1, 2)
    canary(store, "flights", 3)
    first = tidegate("rollback")
    second = tidegate("rollback")

    assert "Version 2 of flights has all the traffic again in cell local." in first.out
    assert "Nothing was changed for flights in cell local: version 3 was taken away" in second.out
    assert [route_of(each, "flights").stable for each in (store, other)] == [2, 2]


def test_rollback_with_nothing_but_the_fallback_left_says_that_and_how_to_get_out(tidegate, store):
    deploy(store, "flights", 1)

    first = tidegate("rollback")
    again = tidegate("rollback")

    assert first.out == (
        "No version of flights could take over: every request goes to its fallback. "
        "Version 1 was taken away and is latched.\n"
    )
    assert again.out == (
        "Nothing was changed for flights: no version has traffic: the fallback answers every request. "
        "To get out: tidegate latch clear flights 1, then tidegate switch flights 1, "
        "or switch to another version.\n"
    )


def test_rollback_of_a_canary_in_safe_mode_says_that_the_fallback_still_answers(tidegate, store):
    deploy(store, "flights", 1, 2)
    canary(store, "flights", 3)
    tidegate("safe-mode", "on")

    said = tidegate("rollback", "--keep")

    assert said.out == (
        "Version 2 of flights is stable again, but safe mode stays on: the fallback answers every request "
        "until `tidegate safe-mode off flights`. Version 3 was taken away.\n"
    )


def test_rollback_of_a_shadow_leaves_stable(tidegate, store):
    deploy(store, "flights", 1, 2)
    store.change(
        "flights",
        lambda old: msgspec.structs.replace(
            old, shadows=(Shadow(3),), manifests={**old.manifests, 3: DIGEST}
        ),
    )

    said = tidegate("rollback", "--json")

    assert json.loads(said.out)["decision"]["version"] == 2
    assert route_of(store, "flights").shadows == ()


def test_rollback_works_without_a_database(tidegate, store):
    deploy(store, "flights", 1, 2)
    Path(".tidegate/metadata.db").write_bytes(b"this is no database" * 100)

    said = tidegate("rollback", "flights")

    assert said.code == 0
    assert "waits in a file" in said.err
    assert route_of(store, "flights").stable == 1


def test_safe_mode_is_switched_on_and_off(tidegate, store):
    deploy(store, "flights", 1)

    on = tidegate("safe-mode", "on", "--reason", "storm")
    during = route_of(store, "flights").safe_mode
    again = tidegate("safe-mode", "on")
    off = tidegate("safe-mode", "off", "flights", "--json")

    assert on.out == "flights is in safe mode: its fallback answers every request.\n"
    assert during
    assert again.out == "flights is already in safe mode: its fallback answers every request.\n"
    assert [each["decision"]["kind"] for each in json.loads(off.out)] == ["safe-mode-off"]
    assert not route_of(store, "flights").safe_mode
    decided = json.loads(tidegate("decisions", "--json").out)
    assert [each["decision"]["kind"] for each in decided] == ["safe-mode-on", "safe-mode-on", "safe-mode-off"]


def test_safe_mode_of_all_leaves_out_those_without_a_fallback(tidegate, store):
    deploy(store, "flights", 1)
    deploy(store, "fraud", 1)
    deploy(store, "churn", 1, fallback=())

    said = tidegate("safe-mode", "on", "--all", "--key", "k")

    assert said.code == 0
    assert [route_of(store, each).safe_mode for each in ("flights", "fraud", "churn")] == [True, True, False]


def test_safe_mode_without_a_fallback_is_refused_in_words(tidegate, store):
    deploy(store, "churn", 1, fallback=())

    said = tidegate("safe-mode", "on")

    assert said.code == 1
    assert "there is nobody who could answer in safe mode" in said.err


def test_a_latch_is_listed_and_cleared(tidegate, store):
    deploy(store, "flights", 1, 2)
    tidegate("rollback", "--reason", "late by an hour")

    listed = tidegate("latch", "list")
    cleared = tidegate("latch", "clear", "flights", 2)
    again = tidegate("latch", "clear", "flights", 2)

    assert "late by an hour" in listed.out
    assert cleared.out == "Version 2 of flights may be switched or released to again.\n"
    assert (again.code, "no version flights@2" in again.err) == (1, True)  # only the route knows of it
    assert tidegate("latch", "list").out == "No version is latched.\n"


def test_what_the_controller_did_is_told_and_not_done_again(tidegate, store):
    deploy(store, "flights", 1, 2)
    told = Decision("rollback", "flights", "committed", Principal("ana@laptop"), 0, version=7)
    answer = msgspec.json.encode(MovedBack("flights", {"local": Moved(told, 3)}, 1))

    said = tidegate("rollback", asked=answer)

    assert said.out == "Version 7 of flights has all the traffic again.\n"
    assert route_of(store, "flights").stable == 2


def test_what_a_controller_of_another_release_says_is_not_needed(tidegate, store):
    deploy(store, "flights", 1, 2)

    said = tidegate("rollback", asked=b'{"done":true}')

    assert said.out.startswith("Version 1 of flights has all the traffic again.")


def test_a_rollback_moves_traffic_before_any_engine_is_imported():
    heavy = ("numpy", "sqlalchemy", "polars", "rich", "sqlite3")
    needed = "tidegate.cli.rollback, tidegate.operation.meant, tidegate.operation.release"

    # what the command imports until the route has moved
    script = (
        f"import sys, tidegate.cli.main, {needed}, tidegate.bootstrap.local\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"
