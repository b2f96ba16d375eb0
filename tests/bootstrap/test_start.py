"""A home is made ready to be served."""

from __future__ import annotations

import pytest

from tests.system.model import write_sum
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import publish
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.start import prepare_folder, prepare_home
from tidegate.core.digest import digest_bytes
from tidegate.core.error import NotFound
from tidegate.operation.register import register as register_version
from tidegate.registry.store import StoreUnavailable
from tidegate.route.store import RouteStore

NOBODY = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"


def settings(tmp_path, **others):
    return Settings(home=str(tmp_path / "home"), **others)


def register(tmp_path, *names):
    model = tmp_path / "sum.onnx"
    write_sum(model, 1.0)
    with Local(settings(tmp_path)) as local:
        for name in names:
            publish(local, name, model)


def test_everything_that_is_registered_is_served(tmp_path):
    register(tmp_path, "one", "two")
    with Local(settings(tmp_path)) as local:
        first = prepare_home(local)
    register(tmp_path, "three", "one")

    with Local(settings(tmp_path)) as local:
        prepared = prepare_home(local)

    assert first.services == {"one": 1, "two": 1}
    assert prepared.services == {"one": 1, "two": 1, "three": 1}, "a later version gets no traffic by itself"
    assert [note.split(":")[0] for note in prepared.notes] == ["First deployment of three"]


def test_a_service_that_cannot_be_read_is_named_and_keeps_no_other_from_being_served(tmp_path):
    register(tmp_path, "one")
    with Local(settings(tmp_path)) as local:
        register_version(
            local.unit,
            local.artifacts,
            service="two",
            manifest=b"{}",
            artifacts=(),
            contract=digest_bytes(b""),
            principal=local.principal,
            key="two",
            clock=local.clock,
        )

        prepared = prepare_home(local)

    assert prepared.services == {"one": 1}
    assert [note for note in prepared.notes if "two is not served" in note and "not a manifest" in note]


def test_an_empty_home_is_refused(tmp_path):
    with Local(settings(tmp_path)) as local, pytest.raises(NotFound, match="Nothing is registered"):
        prepare_home(local)


SERVICE = """
import tidegate as tg

class Asked(tg.Input):
    x: float

class Told(tg.Output):
    p: float

service = tg.Service("untrained", input=Asked, output=Told)
"""


@pytest.mark.parametrize(("home", "flag"), [("service/.tidegate", ""), ("home2", " --home {}/home2")])
def test_the_way_out_of_an_untrained_service_names_a_home_elsewhere(tmp_path, home, flag):
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "service.py").write_text(SERVICE)

    with Local(Settings(home=str(tmp_path / home))) as local, pytest.raises(NotFound) as refused:
        prepare_folder(local, folder)

    assert refused.value.hint == f"Train one first: tidegate train {folder}{flag.format(tmp_path)}"


def test_what_has_a_route_is_served_without_the_database(tmp_path):
    register(tmp_path, "one")
    with Local(settings(tmp_path, database_url=NOBODY)) as local, pytest.raises(StoreUnavailable):
        prepare_home(local)
    with Local(settings(tmp_path)) as local:
        prepare_home(local)

    with Local(settings(tmp_path, database_url=NOBODY)) as local:
        prepared = prepare_home(local)

    assert prepared.services == {"one": 1}
    assert "is not known" in prepared.notes[0]


def test_routes_are_not_read_anew_for_each_service(tmp_path, monkeypatch):
    """With thousands of services each read takes a tenth of a second, and so took minutes in all."""
    register(tmp_path, "one", "two", "three", "four")
    with Local(settings(tmp_path)) as local:
        prepare_home(local)
    reads = []
    read = RouteStore.read
    monkeypatch.setattr(RouteStore, "read", lambda store: reads.append(1) or read(store))

    with Local(settings(tmp_path)) as local:
        prepare_home(local)

    assert len(reads) <= 3
