"""Rows that stand twice are found exactly; texts that nearly do, by what they share."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.data.duplicate import exact_duplicates, near_duplicates

SHARED = Path(__file__).parents[3] / "shared" / "data"


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, None]), st.sampled_from(["a", None])), max_size=30),
)
@settings(max_examples=60)
def test_a_duplicate_is_a_row_that_stood_before(rows):
    table = pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String}, orient="row")

    found = exact_duplicates(table)

    expected = [(row, rows.index(value)) for row, value in enumerate(rows) if rows.index(value) < row]
    assert list(zip(found.rows, found.first, strict=True)) == expected


def test_some_columns_may_decide():
    table = pl.DataFrame({"key": [1, 2, 1], "value": [5, 6, 7]})

    assert exact_duplicates(table).rows.tolist() == []
    assert exact_duplicates(table, ["key"]).rows.tolist() == [2]
    with pytest.raises(InvalidSetting):
        exact_duplicates(table, ["other"])


BASE = "the quick brown fox jumps over the lazy dog while seven wizards quietly brew a potion of sleep"
OTHER = "please send the signed invoice for the second quarter to the accounting office before friday noon"


def test_texts_that_differ_by_a_word_are_paired_and_others_are_not():
    texts = pl.Series(
        "t", [BASE, OTHER, None, BASE.replace("seven", "eight"), BASE.upper() + "!", "short", ""]
    )

    found = near_duplicates(texts)

    assert [(pair.first, pair.second) for pair in found] == [(0, 3), (0, 4), (3, 4)]
    assert found[1].similarity == 1.0
    assert 0.8 < found[0].similarity < 1.0


def test_a_higher_bar_pairs_less():
    texts = pl.Series("t", [BASE, BASE.replace("seven", "eight")])

    assert near_duplicates(texts, at_least=0.95) == []


def test_a_text_that_repeats_is_no_near_pair():
    assert near_duplicates(pl.Series("t", [BASE, BASE])) == []
    assert near_duplicates(pl.Series("t", [], dtype=pl.String)) == []


@pytest.mark.parametrize(
    ("texts", "at_least"), [(pl.Series([1, 2]), 0.8), (pl.Series(["a"]), 0.6), (pl.Series(["a"]), 1.2)]
)
def test_what_cannot_be_compared_is_refused(texts, at_least):
    with pytest.raises(InvalidSetting):
        near_duplicates(texts, at_least=at_least)


def test_many_texts_of_one_template_are_each_found_without_comparing_all_pairs():
    texts = pl.Series("t", [f"{BASE} and then number {number} came" for number in range(400)])

    found = near_duplicates(texts)

    assert {pair.second for pair in found} == set(range(1, 400))
    assert len(found) < 400 * 399 / 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data are not here")
def test_repeats_of_hotel_bookings_are_counted_as_documented():
    bookings = pl.read_parquet(SHARED / "hotel_bookings.parquet")

    assert len(exact_duplicates(bookings).rows) == 31_994
