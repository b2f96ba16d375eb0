"""What a command asks of the running controller before it imports anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tidegate
from tidegate.cli.rollback import rollback
from tidegate.cli.start import plain_home, plain_rollback

WORD = st.text(min_size=1) | st.sampled_from(
    ["--to", "--keep", "--reason", "--home", "--json", "3", "--to=3"]
)


def read(arguments):
    """Return what the command line says, as the request for it would."""
    said = rollback.make_context("rollback", list(arguments)).params
    kept = {name: said[name] for name in ("service", "to", "reason") if said[name]}
    kept |= {"keep": True} if said["keep"] else {}
    return kept | ({"home": str(said["home"])} if said["home"] else {})


def plain(arguments):
    said = plain_rollback(list(arguments))
    if said is None:
        return None
    home = {"home": said.pop("home")} if "home" in said else {}
    return {name: json.loads(value) for name, value in said.items()} | home


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["flights"],
        ["flights", "--to", "3"],
        ["--to=3", "flights", "--keep"],
        ["--reason", 'it\'s "slow" \\o/ – véry', "--home", "/a b/c"],
        ["--reason=a=b", "flights"],
    ],
)
def test_plain_forms_are_understood_as_the_command_line_understands_them(arguments):
    assert plain(arguments) == read(arguments)


@given(st.lists(WORD, max_size=5))
def test_what_is_understood_at_all_is_understood_alike(arguments):
    said = plain(arguments)

    if said is not None:
        try:
            assert said == read(arguments)
        except click.UsageError as error:
            pytest.fail(f"{arguments} cannot be understood ({error}), but was taken for {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"],
        ["--key", "k"],
        ["-h"],
        ["flights", "other"],
        ["--to", "0"],
        ["--to", "-1"],
        ["--to", "three"],
        ["--to"],
        ["--to", "3", "--to", "2"],
        ["--reason", "two\nlines"],
        ["--reason", "no \udcff text"],
        ["--reason", "--keep"],
        ["--home="],
        ["--", "flights"],
    ],
)
def test_all_else_is_left_to_the_command_line(arguments):
    assert plain_rollback(arguments) is None


def test_asking_imports_next_to_nothing():
    heavy = {"asyncio", "click", "json", "msgspec", "pathlib", "re", "socket", "typing"}
    script = f"import sys; sys.path.insert(0, {str(Path(tidegate.__file__).parents[1])!r})\n"
    script += f"import tidegate.cli.start; print(sorted({heavy!r} & sys.modules.keys()))"

    # -S: what a site has hooked into every start is not ours
    said = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("variables", "home"),
    [
        ({}, ".tidegate"),
        ({"TIDEGATE_HOME": "/a/b"}, "/a/b"),
        ({"TIDEGATE_HOME": ""}, None),
        ({"TIDEGATE_CELL": "east"}, None),
        ({"TIDEGATE_CONFIG": "c.toml", "TIDEGATE_HOME": "/a/b"}, None),
    ],
)
def test_the_home_is_the_one_that_the_settings_name(variables, home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("TIDEGATE_HOME", "TIDEGATE_CELL", "TIDEGATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert plain_home() == home
    (tmp_path / "tidegate.toml").touch()
    assert plain_home() is None
