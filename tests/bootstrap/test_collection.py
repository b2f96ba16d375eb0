"""A folder of model files becomes one service a file, in few transactions and one change of the route."""

from __future__ import annotations

import msgspec
import pytest

from tests.system.model import write_ratio, write_sum
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.start import prepare_folder
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.operation.bulk import First, deploy_all
from tidegate.operation.version import list_decisions, list_versions
from tidegate.route.store import RouteStore


@pytest.fixture
def local(tmp_path):
    with Local(Settings(home=str(tmp_path / "home"))) as opened:
        yield opened


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(5):
        write_sum(folder / f"sum-{number}.onnx", float(number))
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "notes.txt").write_text("no model either")
    return folder


def test_every_file_is_a_service_with_its_version_decision_and_route(local, models):
    prepared = prepare_folder(local, models)

    assert sorted(prepared.services) == [f"sum-{number}" for number in range(5)]
    assert "First deployment of 5 services." in prepared.notes
    assert any("broken.onnx is left out" in note for note in prepared.notes)
    route = local.routes.read()
    assert route.sequence == 1
    for name, service in route.services.items():
        (version,) = list_versions(local.unit, name)
        assert service.manifests == {1: version.manifest}
        (decision,) = list_decisions(local.unit, name)
        assert (decision.decision.kind, decision.decision.version) == ("first-deployment", 1)
    with local.unit.read() as transaction:
        entries = list(transaction.audit.page(after=0, limit=100))
    assert len(entries) == 10
    assert all(len(entry.detail["records"]) == 1 for entry in entries), "each entry names its own record"


def test_again_nothing_changes_and_a_changed_file_is_a_version_without_traffic(local, models):
    prepare_folder(local, models)

    prepare_folder(local, models)
    assert local.routes.read().sequence == 1
    write_ratio(models / "sum-1.onnx")
    prepared = prepare_folder(local, models)

    assert local.routes.read().services["sum-1"].stable == 1
    assert [version.number for version in list_versions(local.unit, "sum-1")] == [1, 2]
    assert any("sum-1.onnx has changed: version 2" in note for note in prepared.notes)


def test_two_files_of_one_name_are_refused(local, models):
    write_sum(models / "Sum_0.onnx", 1.0)
    write_sum(models / "sum_0.onnx", 2.0)

    with pytest.raises(InvalidSetting, match="would both be service 'sum_0'"):
        prepare_folder(local, models)


def test_a_bulk_deployment_changes_nothing_if_one_service_is_deployed_already(local, models):
    prepare_folder(local, models)
    manifest = local.routes.read().services["sum-0"].manifests[1]
    firsts = {"fresh": First(1, manifest), "sum-0": First(1, manifest)}

    with pytest.raises(Conflict, match="serves version 1 already"):
        deploy_all(local.unit, local.cell, firsts, principal=local.principal, clock=local.clock)

    assert "fresh" not in local.routes.read().services


def test_many_routes_change_by_one_file_and_yield_to_whoever_came_first(local, models):
    prepare_folder(local, models)
    store, other = local.routes, RouteStore(local.home.route("local"))
    names = sorted(store.read().services)

    def keep(old):
        assert old is not None
        return old

    def keep_late(old):
        if store.highest() == 2:
            other.change(names[1], lambda route: msgspec.structs.replace(route, salt="x"))
        return keep(old)

    after = store.change_all(dict.fromkeys(names, keep))
    assert after.sequence == 2
    assert {service.generation for service in after.services.values()} == {2}
    with pytest.raises(Conflict, match=names[1]):
        store.change_all({names[0]: keep_late, names[1]: keep})
