"""A view survives being written down, and a Python function in it is refused before it is stored."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings

from tests.feature import oracle
from tidegate.core.digest import canonical_json
from tidegate.core.error import InvalidSetting
from tidegate.feature.aggregate import count
from tidegate.feature.definition import ViewDefinition, stored_form
from tidegate.feature.expression import define, view_of
from tidegate.feature.offline import join

VIEWS = [oracle.value_view, oracle.aggregate_view]


def with_doubled(expression):
    view = oracle.value_view()
    return msgspec.structs.replace(view, transform={**view.transform, "doubled": expression})


def written(view):
    return msgspec.json.decode(canonical_json(define(view)), type=ViewDefinition)


@pytest.mark.parametrize("make", VIEWS)
@settings(max_examples=10)
@given(events=oracle.events, asked=oracle.asked)
def test_view_that_was_written_down_joins_as_before(make, events, asked):
    view, table, rows = make(), oracle.table(events), oracle.questions(asked)

    again = view_of(written(view))

    assert join(rows, "at", views=[(again, table)]).equals(join(rows, "at", views=[(view, table)]))


@pytest.mark.parametrize("make", VIEWS)
def test_writing_down_twice_gives_the_same(make):
    assert written(view_of(written(make()))) == written(make()) == define(make())


def test_python_function_in_a_transform_is_refused():
    opaque = pl.col("value").map_elements(hash, return_dtype=pl.Float64)
    view = with_doubled(opaque)

    with pytest.raises(InvalidSetting, match=r"'doubled'.*Python function"):
        define(view)


def test_stored_python_function_is_not_even_read():
    definition = define(oracle.value_view())
    opaque = pl.col("value").map_elements(lambda value: value, return_dtype=pl.Float64)
    text = opaque.meta.serialize(format="json")
    forged = msgspec.structs.replace(definition, transform={"doubled": text})

    with pytest.raises(InvalidSetting, match="Python function"):
        view_of(forged)


@pytest.mark.parametrize("text", ["", "{}", '{"NoSuchNode": 1}', "nonsense"])
def test_transform_of_another_polars_is_refused_in_words(text):
    forged = msgspec.structs.replace(define(oracle.value_view()), transform={"doubled": text})

    with pytest.raises(InvalidSetting, match="another version of polars"):
        view_of(forged)


def test_windows_and_policies_may_change_and_what_is_stored_may_not():
    view = oracle.aggregate_view()
    aggregates = {**view.aggregates, "n_more": count(timedelta(hours=9))}
    longer = msgspec.structs.replace(view, aggregates=aggregates, features=None)
    other = with_doubled(pl.col("value") * 3)

    assert stored_form(define(longer)) == stored_form(define(view))
    assert stored_form(define(other)) != stored_form(define(oracle.value_view()))
