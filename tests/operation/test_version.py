import pytest

from tests.child import PRINCIPAL, register_one
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.core.clock import SystemClock
from tidegate.core.decision import Decision
from tidegate.core.error import NotFound
from tidegate.operation.decide import record_decision
from tidegate.operation.version import list_decisions, list_services, list_versions, show_version


@pytest.fixture
def filled(unit, tmp_path):
    store = LocalArtifactStore(tmp_path / "artifacts")
    for service, key in (("flights", "a"), ("airbnb", "b"), ("flights", "c")):
        register_one(unit, store, service, key, changelog=f"made with {key}")
    return unit


def test_versions_are_listed_and_shown(filled):
    assert list_services(filled) == ["airbnb", "flights"]
    assert [version.label for version in list_versions(filled)] == ["airbnb@1", "flights@1", "flights@2"]
    assert [version.changelog for version in list_versions(filled, "flights")] == [
        "made with a",
        "made with c",
    ]
    assert list_versions(filled, "flights", after=("flights", 2)) == []
    assert show_version(filled, "flights").number == 2
    assert show_version(filled, "flights", number=1).changelog == "made with a"


def test_unknown_service_is_told_with_the_known_ones(filled):
    for look in (list_versions, show_version):
        with pytest.raises(NotFound, match="Registered services: airbnb, flights"):
            look(filled, "fligths")


def test_empty_registry_is_told_to_be_empty(unit):
    assert list_versions(unit) == []
    with pytest.raises(NotFound, match="Nothing is registered yet"):
        show_version(unit, "flights")


def test_decisions_are_listed(filled):
    for kind in ("gate", "switch"):
        decision = Decision(kind=kind, service="flights", outcome="hold", principal=PRINCIPAL, at_us=1)
        record_decision(filled, decision, key=kind, clock=SystemClock())

    assert [stored.decision.kind for stored in list_decisions(filled)] == ["gate", "switch"]
    assert [stored.decision.kind for stored in list_decisions(filled, "flights", kind="gate")] == ["gate"]
