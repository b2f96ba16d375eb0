"""Every command has help with an example; errors are words and an exit status."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from tests.system.model import write_sum
from tidegate.cli.group import LazyGroup
from tidegate.cli.main import COMMANDS, cli


def commands_below(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands_below(command, (*path, name))


ALL = list(commands_below(cli))


def test_the_list_of_commands_is_not_empty():
    assert len(ALL) > len(COMMANDS) > 10


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_of_the_list_is_the_command_s_own(name):
    command = cli.get_command(click.Context(cli), name)

    assert COMMANDS[name].summary == command.get_short_help_str(limit=200)


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_help_of_every_command_says_what_it_does_and_shows_an_example(path, command):
    text = click.Context(command, info_name=" ".join(path)).get_help()

    assert command.help
    assert command.help.rstrip().endswith((".", "?", ")"))
    if not isinstance(command, click.Group):
        assert "Example" in text, "give the command an epilog with an example"
        assert f"tidegate {' '.join(path)}" in text


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_option_of_every_command_is_explained(path, command):
    unexplained = [
        option.name for option in command.params if isinstance(option, click.Option) and not option.help
    ]

    assert not unexplained


def test_help_loads_no_command_and_no_engine():
    code = (
        "import sys\n"
        "from tidegate.cli.main import main\n"
        "sys.argv = ['tidegate', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'rich', 'numpy', 'sqlalchemy', 'polars', 'onnxruntime', 'starlette', 'msgspec'}\n"
        "loaded = sorted(heavy & sys.modules.keys())\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "Take a trained model to production" in done.stdout


def test_a_fault_is_told_in_words_with_status_1(tidegate):
    said = tidegate("status")

    assert said.code == 1
    assert said.err.startswith("Error (not_found): There is no Tidegate home at ")
    assert "--home" in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


def test_what_the_system_refuses_is_told_in_words(tidegate, tmp_path):
    (tmp_path / "file").write_text("no folder")
    write_sum(tmp_path / "m.onnx", 1.0)

    said = tidegate("register", "m", "m.onnx", "--home", "file/home")

    assert said.code == 1
    assert said.err.startswith("Error (system_refused): Not a directory: ")
    assert "name another folder" in said.err


def test_a_look_leaves_no_home_behind(tidegate, tmp_path):
    tidegate("versions")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["switch", "flights"], ["status", "--no-such-flag"]]
)
def test_a_command_line_that_cannot_be_understood_has_status_2(tidegate, arguments):
    said = tidegate(*arguments)

    assert said.code == 2
    assert "Usage: tidegate" in said.err


def test_a_bug_is_not_dressed_up_as_a_user_s_fault(tidegate, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("bug")

    monkeypatch.setattr(LazyGroup, "invoke", fail)

    with pytest.raises(RuntimeError, match="bug"):
        cli.main(["status"], standalone_mode=False)
