"""What the documentation shows works, and what the code has is documented."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from docs import generate
from tidegate.cli.main import cli
from tidegate.data.labelling import read_labelling_rules
from tidegate.data.rule import read_rules
from tidegate.release.plan import Guardrail, Plan, PlanStep, ShadowStep, read_plan

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def blocks(language):
    return [
        (page.name, number, match[2])
        for page in PAGES
        for number, match in enumerate(_BLOCK.finditer(page.read_text()))
        if match[1] == language
    ]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("name", generate.pages())
def test_a_generated_page_is_current(name):
    written = (generate.FOLDER / name).read_text()

    assert written == generate.pages()[name], "run `make docs`"


def test_every_error_code_has_a_meaning():
    assert all(meaning for meaning in generate.error_codes().values())


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=name_of)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGATE_HOME", raising=False)
    names = {"__name__": "__main__"}

    for match in _BLOCK.finditer(page.read_text()):
        if match[1] == "python":
            exec(compile(match[2], str(page), "exec"), names)


def test_there_are_commands_to_check():
    assert len(blocks("sh")) > 3


@pytest.mark.parametrize(("page", "number", "text"), blocks("sh"))
def test_commands_of_a_page_exist_as_they_are_written(page, number, text, monkeypatch):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["tidegate"]:
            parse(words[1:], monkeypatch)
        elif words[:1] == ["make"]:
            assert set(words[1:]) <= targets


def parse(words, monkeypatch):
    """Let click read a command line, without running it; files named there need not exist."""
    command, path = cli, ["tidegate"]
    context = click.Context(cli, info_name="tidegate")
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
        path.append(name)
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            monkeypatch.setattr(parameter, "type", click.STRING)
    command.make_context(" ".join(path), words, resilient_parsing=False)


@pytest.mark.parametrize(("page", "number", "text"), blocks("json"))
def test_json_of_a_page_is_json(page, number, text):
    json.loads(text)


def test_the_plan_of_a_page_is_a_plan_and_names_every_field():
    (text,) = [text for page, _, text in blocks("json") if page == "releases.md"]
    written = json.loads(text)
    guardrails = {name for each in written["guardrails"] for name in each}

    read_plan(text.encode()).checked()
    assert set(written) == set(Plan.__struct_fields__)
    assert set(written["shadow"]) == set(ShadowStep.__struct_fields__)
    assert set(written["steps"][0]) == set(PlanStep.__struct_fields__)
    assert guardrails == set(Guardrail.__struct_fields__)


def test_the_rules_of_a_page_are_read():
    checked, labelling = [text for page, _, text in blocks("json") if page == "data.md"]

    assert len({type(rule) for rule in read_rules(checked.encode())}) == 8
    assert read_labelling_rules(labelling.encode())


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))], ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    for target in _LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_decision_is_listed_once():
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\)", (folder / "README.md").read_text(), re.MULTILINE)
    files = sorted(path.name for path in folder.glob("[0-9]*.md"))

    assert [name for _, name in listed] == files
    assert [number for number, _ in listed] == [name[:4] for name in files]
