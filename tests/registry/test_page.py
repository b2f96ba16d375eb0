"""Whatever a card says stays words, in Markdown and in HTML."""

from __future__ import annotations

from tidegate.registry.page import Section, Table, to_html, to_markdown

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
