"""A page of words and tables, written as Markdown or as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

_LONG = 40
"""Characters from which a first cell may break its line."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")
_STYLE = """
:root{--ink:#1c2024;--soft:#60646c;--line:#e2e4e8;--paper:#fff;--ground:#f4f5f7;--head:#f7f8fa;--blue:#2f6db5;
--good:#18794e;--good-bg:#e3f4ea;--bad:#b42318;--bad-bg:#fde8e6;--open:#8a5a00;--open-bg:#fdf1d8}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,sans-serif;margin:0;background:var(--ground);color:var(--ink)}
main{max-width:64rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 1.2rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:0 0 1.2rem;font-size:.9rem}
nav a{color:var(--blue);text-decoration:none}nav a:hover{text-decoration:underline}
section{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:1rem 1.25rem;
margin:0 0 1rem;break-inside:avoid-page}
h2{font-size:1.05rem;margin:0 0 .6rem}
p{margin:.4rem 0;max-width:75ch}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;white-space:nowrap}tbody tr:last-child td{border-bottom:0}
td{min-width:4.5rem}td:first-child{white-space:nowrap;padding-right:1.4rem}td.long{white-space:normal}
code{font:.85em ui-monospace,monospace;overflow-wrap:anywhere}
.mark{display:inline-block;border-radius:99px;padding:0 .6rem;font-size:.85rem;font-weight:600;
white-space:nowrap;background:var(--ground);color:var(--soft)}
.good{background:var(--good-bg);color:var(--good)}.bad{background:var(--bad-bg);color:var(--bad)}
.open{background:var(--open-bg);color:var(--open)}
.bar{display:inline-block;height:.6rem;border-radius:2px;background:var(--blue);margin-right:.6rem}
figure{margin:.6rem 0}svg{max-width:100%;height:auto}svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg .axis{stroke:var(--line)}svg .ideal{stroke:var(--soft);stroke-dasharray:4 4}
svg .range{stroke:var(--blue);stroke-width:2;opacity:.45}svg .dot{fill:var(--blue)}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9ba1a9;--line:#30353b;--paper:#1b1e22;--ground:#121416;
--head:#22262b;--blue:#7aaeea;--good:#6fd39b;--good-bg:#143524;--bad:#ff9a90;--bad-bg:#41201d;--open:#f0c36b;
--open-bg:#3a2d10}}
@media print{body{background:#fff}main{padding:0;max-width:none}nav{display:none}section{border:0;padding:0}}
"""


class Mark(NamedTuple):
    """A word that a reader looks for first, as a cell or a block.

    Attributes:
        text: The word.
        tone: `good`, `bad`, `open`, or empty.
    """

    text: str
    tone: str = ""

    def __str__(self) -> str:
        return self.text


class Bar(NamedTuple):
    """A figure with its size drawn, as a cell.

    Attributes:
        text: The figure.
        share: Of the largest, in [0, 1].
    """

    text: str
    share: float

    def __str__(self) -> str:
        return self.text


class Drawing(NamedTuple):
    """A picture; it shows what a table beside it says, and Markdown leaves it out.

    Attributes:
        svg: The picture, safe to be written as it is.
        alt: What it shows, in words.
    """

    svg: str
    alt: str


class Table(NamedTuple):
    """Rows under headings.

    Attributes:
        heads: One a column.
        rows: As many values each.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


Block = str | Table | Mark | Drawing


class Section(NamedTuple):
    """A part of a page under its own heading.

    Attributes:
        title: The heading.
        blocks: Paragraphs, tables and pictures, in order.
    """

    title: str
    blocks: Sequence[Block]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a page as Markdown (with the tables of GitHub's)."""
    lines = [f"# {_plain(title)}", ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        for block in section.blocks:
            if not isinstance(block, Drawing):
                lines += [*_markdown(block), ""]
    return "\n".join(lines)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return a page as one HTML file, without script or foreign files."""
    names = [(f"part-{number}", section) for number, section in enumerate(sections, 1)]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        "<nav>" + "".join(f'<a href="#{name}">{escape(one.title)}</a>' for name, one in names) + "</nav>",
    ]
    for name, section in names:
        parts.append(f'<section id="{name}"><h2>{escape(section.title)}</h2>')
        parts += [_html(block) for block in section.blocks]
        parts.append("</section>")
    return "\n".join([*parts, "</main></body></html>", ""])


def _markdown(block: str | Table | Mark) -> Iterator[str]:
    if not isinstance(block, Table):
        yield _plain(str(block))
        return
    yield "| " + " | ".join(map(_plain, block.heads)) + " |"
    yield "|" + "---|" * len(block.heads)
    for row in block.rows:
        yield "| " + " | ".join(_plain(str(value)) for value in row) + " |"


def _html(block: Block) -> str:
    if isinstance(block, Drawing):
        return f'<figure role="img" aria-label="{escape(block.alt)}">{block.svg}</figure>'
    if not isinstance(block, Table):
        return f"<p>{_cell(block)}</p>"
    head = ""
    if any(block.heads):
        head = "<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in block.heads) + "</tr></thead>"
    rows = "".join("<tr>" + "".join(_data(value) for value in row) + "</tr>" for row in block.rows)
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def _data(value: object) -> str:
    kind = ' class="long"' if len(str(value)) > _LONG else ""
    return f"<td{kind}>{_cell(value)}</td>"


def _cell(value: object) -> str:
    text = escape(str(value))
    if isinstance(value, Mark):
        return f'<span class="mark {escape(value.tone)}">{text}</span>'
    if isinstance(value, Bar):
        return f'<span class="bar" style="width:{6 * min(max(value.share, 0.0), 1.0):.2f}rem"></span>{text}'
    return f"<code>{text}</code>" if text.startswith("sha256:") else text


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return " ".join(_SPECIAL.sub(r"\\\1", text).split())
