"""Whatever a card says stays words, in Markdown and in HTML."""

from __future__ import annotations

from tidegate.registry.page import Bar, Drawing, Mark, Section, Table, to_html, to_markdown

ROWS = [Section("A | B", ["<script>alert(1)</script>", Table(("x_y", "z"), [("a|b", "*c*\nd")])])]


def test_html_shows_markup_as_text():
    page = to_html("T", ROWS)

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<td>a|b</td>" in page


def test_a_table_of_markdown_keeps_its_columns():
    page = to_markdown("T", ROWS)

    assert r"| a\|b | \*c\* d |" in page
    assert r"## A \| B" in page
    assert r"\<script\>" in page


def test_marks_bars_and_drawings_are_words_in_markdown():
    marked = Table(("gate", "size"), [(Mark("<safe>", "good"), Bar("0.3", 7.0))])
    sections = [Section("S", [Drawing("<svg></svg>", "a curve"), marked, Mark("not written", "open")])]

    page, plain = to_html("T", sections), to_markdown("T", sections)

    assert '<span class="mark good">&lt;safe&gt;</span>' in page
    assert 'style="width:6.00rem"' in page, "a share above 1 is drawn as 1"
    assert 'aria-label="a curve"><svg></svg>' in page
    assert r"| \<safe\> | 0.3 |" in plain
    assert "svg" not in plain
