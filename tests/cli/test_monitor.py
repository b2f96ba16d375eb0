"""`tidegate monitor`, `report`, `signals` and `watch` over a home whose journal is real."""

import json
from datetime import timedelta

import pytest

from tests.monitoring.home import BREAK, OVER, REFERENCE, fill
from tests.monitoring.stream import FIRST
from tidegate.core.home import Home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    fill(home)
    return home.root


def examined(tidegate, filled, *options):
    return tidegate(
        "monitor", "run", "loans", "--over", OVER, "--reference", REFERENCE, "--home", filled, *options
    )


def test_a_broken_unit_is_found_kept_and_dealt_with(tidegate, filled):
    ran = examined(tidegate, filled, "--keep", "--json")
    result = json.loads(ran.out)
    assert ran.code == 3
    assert sum(day["n_rows"] for day in result["days"]) == 20 * 60
    # labels come from the ledger; a day's are used once the next day is over
    assert sum(day.get("n_labelled", 0) for day in result["days"][1:]) == 19 * 60

    listed = json.loads(tidegate("signals", "list", "loans", "--json", "--home", filled).out)
    signal = next(each for each in listed if each["kind"] == "input")
    assert signal["first_on"] == (FIRST + timedelta(days=BREAK)).isoformat()
    assert signal["subjects"][0] == "amount"

    again = examined(tidegate, filled, "--keep")
    assert "Inputs moved: amount" in again.out
    assert len(json.loads(tidegate("signals", "list", "--json", "--home", filled).out)) == len(listed)

    name = signal["id"]
    assert "acknowledged" in tidegate("signals", "ack", name[:6], "--home", filled).out
    assert "muted until" in tidegate("signals", "mute", name[:6], "--for", "2d", "--home", filled).out
    shown = tidegate("signals", "show", name[:6], "--home", filled)
    assert "check the unit" in shown.out
    assert "tidegate monitor run loans --over" in shown.out
    too_long = tidegate("signals", "mute", name, "--for", "99999999999d", "--home", filled)
    assert too_long.code == 2
    assert "longer than ten years" in too_long.err
    shown = json.loads(tidegate("signals", "show", name, "--json", "--home", filled).out)
    assert shown["muted_until_us"] < 4e15
    ended = tidegate("signals", "resolve", name[:6], "--reason", "fixed upstream", "--home", filled)
    assert "resolved" in ended.out
    assert name not in tidegate("signals", "list", "--home", filled).out
    assert "muted" not in tidegate("signals", "list", "--all", "--home", filled).out  # though it would last
    past = tidegate("signals", "list", "--all", "--json", "--home", filled)
    assert next(each for each in json.loads(past.out) if each["id"] == name)["resolution"] == "fixed upstream"
    refused = tidegate("signals", "ack", name, "--home", filled)
    assert refused.code == 1
    assert "was resolved" in refused.err


def test_report_is_one_page(tidegate, filled, tmp_path):
    made = tidegate("report", "loans", "--over", OVER, "--reference", REFERENCE, "--home", filled)

    (page,) = tmp_path.glob("loans-*.html")
    assert page.name in made.out
    assert "Inputs moved: amount" in page.read_text()


@pytest.mark.parametrize("since", ["99999999999d", "900000d", "²d", "9" * 5000 + "m", "²", "yesterday"])
def test_a_time_that_is_no_time_is_refused(tidegate, filled, since):
    refused = tidegate("journal", "show", "--since", since, "--home", filled)

    assert refused.code == 2
    assert "is no time" in refused.err


def test_a_day_that_is_no_day_is_refused(tidegate, filled):
    assert tidegate("report", "loans", "--over", "yesterday", "--home", filled).code == 2
    assert tidegate("report", "loans", "--over", "2026-02-02..2026-01-01", "--home", filled).code == 2


def test_an_unknown_service_and_signal_are_told(tidegate, filled):
    assert "No version of 'nothing'" in tidegate("monitor", "run", "nothing", "--home", filled).err
    assert "0 signals have an id" in tidegate("signals", "show", "zzz", "--home", filled).err


def test_watch_shows_traffic_and_signals_at_one_glance(tidegate, filled):
    glance = tidegate("watch", "--once", "--home", filled)
    now = json.loads(tidegate("watch", "--json", "--home", filled).out)

    assert glance.code == 0
    assert "0 bytes not counted yet" in glance.out
    assert now["behind_bytes"] == 0
    assert now["services"] == []  # nothing was asked in the last half hour


def test_profiles_are_shown_by_hour_and_day_and_the_broken_day_is_seen(tidegate, filled):
    days = f"{FIRST + timedelta(days=BREAK - 1)}..{FIRST + timedelta(days=BREAK)}"
    given = ("monitor", "profile", "loans", "--over", days, "--reference", REFERENCE, "--home", filled)

    before, after = json.loads(tidegate(*given, "--by", "day", "--json").out)
    hours = tidegate(*given).out
    refused = tidegate(*given, "--slice", "channel")

    assert (before["n_rows"], after["n_rows"], after["n_reference"]) == (60, 60, 30 * 60)
    assert after["moved"][0]["field"] == "input.amount"
    assert after["moved"][0]["beyond"] > 10 * before["moved"][0]["beyond"]
    assert f"{FIRST + timedelta(days=BREAK)} 08:00" in hours
    assert "not profiled by 'channel'" in refused.err


def test_a_kpi_is_read_from_the_outcomes_of_its_name(tidegate, tmp_path):
    home = Home(tmp_path / "home")
    fill(home, revenue=lambda day: 20.0 + day % 3 if day < BREAK - 5 else 9.0)

    ran = tidegate(
        "monitor", "run", "loans", "--over", OVER, "--reference", REFERENCE, "--home", home.root, "--json"
    )

    result = json.loads(ran.out)
    assert {day["kpis"]["revenue"] for day in result["days"] if "kpis" in day} == {20.0, 21.0, 22.0, 9.0}
    assert "kpi" in {signal["kind"] for signal in result["signals"]}
