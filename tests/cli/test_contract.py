"""Contracts are shown, compared and written from wherever they stand."""

from __future__ import annotations

import json

import pytest

SERVICE = """
import tidegate as tg

class Row(tg.Input):
    age: int = tg.field(ge=0, le={limit}, unit="year", doc="at the time of asking")
    colour: str = tg.category("red", "green")

class Answer(tg.Output):
    p: float = tg.field(ge=0, le=1)

service = tg.Service("{name}", input=Row, output=Answer)
"""


@pytest.fixture
def folder(tmp_path):
    def write(name="paint", limit=120):
        place = tmp_path / f"{name}-{limit}"
        place.mkdir()
        (place / "service.py").write_text(SERVICE.format(name=name, limit=limit))
        return place

    return write


def test_show_lists_fields_with_their_constraints(tidegate, folder):
    said = tidegate("contract", "show", folder())

    assert said.code == 0
    assert "age" in said.out
    assert "ge 0, le 120, unit year" in said.out
    assert "Fingerprint sha256:" in said.out


def test_written_python_is_the_same_contract(tidegate, folder, tmp_path):
    place = folder()

    assert tidegate("contract", "write", place, tmp_path / "c.py").code == 0
    said = tidegate("contract", "compare", place, tmp_path / "c.py")

    assert said.out == "Verdict: identical\n"


def test_written_json_is_the_same_contract(tidegate, folder, tmp_path):
    place = folder()

    assert tidegate("contract", "write", place, tmp_path / "c.json").code == 0
    said = tidegate("contract", "compare", tmp_path / "c.json", place)

    assert said.out == "Verdict: identical\n"


def test_a_narrowed_range_breaks_and_says_so_by_exit_status(tidegate, folder):
    said = tidegate("contract", "compare", folder(limit=120), folder(limit=99))

    assert said.code == 3
    assert "input age" in said.out
    assert "Verdict: breaking" in said.out


def test_a_widened_range_is_safe(tidegate, folder):
    said = tidegate("contract", "compare", folder(limit=99), folder(limit=120), "--json")

    assert said.code == 0
    assert json.loads(said.out)["verdict"] == "widening"


def test_what_a_person_may_have_edited_is_not_overwritten(tidegate, folder, tmp_path):
    (tmp_path / "c.py").write_text("mine")

    said = tidegate("contract", "write", folder(), tmp_path / "c.py")

    assert said.code == 1
    assert "exists already" in said.err
    assert (tmp_path / "c.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "declares no service"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("import no_such_package_at_all", "No module named 'no_such_package_at_all'"),
        ("import tidegate as tg\nclass A(tg.Input):\n    a: complex", "is no type of a field"),
    ],
)
def test_a_service_file_that_cannot_be_used_is_refused_in_words(tidegate, tmp_path, text, words):
    (tmp_path / "service.py").write_text(text)

    said = tidegate("contract", "show", tmp_path)

    assert said.code == 1
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_folder_with_two_services_asks_which(tidegate, tmp_path):
    (tmp_path / "service.py").write_text(
        SERVICE.format(name="one", limit=9) + 'other = tg.Service("two", input=Row, output=Answer)\n'
    )

    assert "Say which with --service" in tidegate("contract", "show", tmp_path).err
    assert tidegate("contract", "show", tmp_path, "--service", "two").code == 0
    assert "no service 'three'" in tidegate("contract", "show", tmp_path, "--service", "three").err
