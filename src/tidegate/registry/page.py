"""A page of words and tables, written as Markdown or as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.5rem 0}
th,td{border:1px solid #ddd;padding:.25rem .6rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}th{background:#f5f5f5}p.note{color:#666}
@media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}th{background:#222}th,td,h2{border-color:#444}}
"""


class Table(NamedTuple):
    """Rows under headings.

    Attributes:
        heads: One a column.
        rows: As many values each.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


class Section(NamedTuple):
    """A part of a page under its own heading.

    Attributes:
        title: The heading.
        blocks: Paragraphs and tables, in order.
    """

    title: str
    blocks: Sequence[str | Table]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a page as Markdown (with the tables of GitHub's)."""
    lines = [f"# {_plain(title)}", ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown(block), ""]
    return "\n".join(lines)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return a page as one HTML file, without script or foreign files."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [_html(block) for block in section.blocks]
    return "\n".join([*parts, "</body></html>", ""])


def _markdown(block: str | Table) -> Iterator[str]:
    if isinstance(block, str):
        yield _plain(block)
        return
    yield "| " + " | ".join(map(_plain, block.heads)) + " |"
    yield "|" + "---|" * len(block.heads)
    for row in block.rows:
        yield "| " + " | ".join(_plain(str(value)) for value in row) + " |"


def _html(block: str | Table) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in block.heads)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in block.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return " ".join(_SPECIAL.sub(r"\\\1", text).split())
