"""What is read online is what the offline join says, to the bit and to the last event."""

import contextlib
import math
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import groupby

import flight_data
import flight_view
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from tests.adapter.online.store import KINDS, new_store
from tests.feature import oracle
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.core.error import TidegateError
from tidegate.feature.block import Blocks
from tidegate.feature.materialise import events_of, materialise, push
from tidegate.feature.offline import join
from tidegate.feature.online import read
from tidegate.feature.skew import measure_skew
from tidegate.feature.transform import InvalidFeatureData
from tidegate.feature.view import Policy, State

PLAN = oracle.aggregate_view().plan
STATES = [state.name.lower() for state in State]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, request, tmp_path):
    with new_store(kind, request, tmp_path) as opened:
        yield opened


def answers(found):
    """Return the rows of what was read as the offline join writes them."""
    columns = [column.tolist() for column in found.columns.values()]
    states = [STATES[state] for state in found.states]
    ages = [None if age < 0 else age for age in found.ages_us.tolist()]
    return list(zip(*columns, states, ages, strict=True))


@settings(max_examples=15)
@given(events=oracle.events, asked=oracle.asked)
def test_reading_equals_the_oracle_whenever_it_is_asked(kind, request, tmp_path, events, asked):
    views = [(oracle.value_view(), oracle.latest), (oracle.aggregate_view(), oracle.trailing)]
    with new_store(kind, request, tmp_path) as store:
        for view, expect in views:
            materialise(view, oracle.table(events), store)

            for question in asked:
                key = view.plan.key_of(question[:2])
                found = answers(read(view.plan, store, [key], at_us=question.at))
                assert oracle.same(found[0], expect(events, question))


@settings(max_examples=4)
@given(events=oracle.events, asked=oracle.asked)
def test_pushed_events_are_seen_by_the_next_read(kind, request, tmp_path, events, asked):
    view = oracle.aggregate_view()
    with new_store(kind, request, tmp_path) as store:
        pushed = []
        for row in sorted(events, key=oracle.created):
            assert push(view, row._asdict(), store)
            assert not push(view, row._asdict(), store)
            pushed.append(row)
            for question in asked:
                found = read(view.plan, store, [view.plan.key_of(question[:2])], at_us=question.at)
                assert oracle.same(answers(found)[0], oracle.trailing(pushed, question))


@settings(max_examples=15)
@given(events=oracle.events, asked=oracle.asked, extra=oracle.asked)
def test_blocks_of_events_read_before_give_the_same_whoever_puts_in_between(tmp_path, events, asked, extra):
    view = oracle.aggregate_view()
    with new_store("sqlite", None, tmp_path) as reader:
        writer = SqliteOnlineStore(reader._path)
        blocks = Blocks(reader, reader)
        pushed = []
        for position, row in enumerate([None, *events]):
            if row is not None:
                push(view, row._asdict(), writer if position % 2 else reader)
                pushed.append(row)
            for question in (*asked, *extra, *asked):
                blocks.refresh()
                key = view.plan.key_of(question[:2])
                found = read(PLAN, reader, [key], at_us=question.at, blocks=blocks)
                assert oracle.same(answers(found)[0], oracle.trailing(pushed, question))
        writer.close()


def test_blocks_spare_the_store_until_it_changes(tmp_path):
    view = oracle.aggregate_view()
    plan, key = view.plan, view.plan.key_of(("a", 0))
    with new_store("sqlite", None, tmp_path) as store:
        materialise(view, oracle.table(ROWS), store)
        asked = []
        within = store.within
        store.within = lambda *args, **named: asked.append(named) or within(*args, **named)
        blocks = Blocks(store, store)

        for at in (13, 13, 13):
            blocks.refresh()
            read(plan, store, [key, key], at_us=at, blocks=blocks)
        assert len(asked) == 1
        push(view, oracle.Row("b", 1, 3, None, 9, 1.0, True)._asdict(), store)
        blocks.refresh()
        read(plan, store, [key], at_us=13, blocks=blocks)
        assert len(asked) == 2


@pytest.mark.slow
def test_10_000_replayed_flights_read_what_the_offline_join_says(store):
    archive, weather = flight_data.read_flights(), flight_data.read_weather()
    rows = archive.filter(pl.col("month") == 10).sort("sched_dep_at", maintain_order=True).head(10_000)
    start, end = rows["sched_dep_at"][0] - timedelta(days=2), rows["sched_dep_at"][-1]
    tables = flight_view.tables(archive, weather)
    views = [
        (view, tables[view.name].filter(pl.col(view.event_time).is_between(start, end)))
        for view in flight_view.VIEWS
    ]
    expected = join(rows.select("origin", "carrier", "sched_dep_at"), "sched_dep_at", views=views)

    n_compared = 0
    for view, table in views:
        plan = view.plan
        coming = sorted(events_of(view, table), key=lambda item: item[1].created_us)
        created = [event.created_us for _, event in coming]
        n_put, served = 0, []
        key = [field.name for field in plan.entity]
        asked = rows.select(pl.col("sched_dep_at").dt.timestamp("us"), *key).rows()
        for at_us, group in groupby(asked, key=lambda row: row[0]):
            n_due = bisect_left(created, at_us)
            store.put(plan.name, coming[n_put:n_due])
            n_put = n_due
            keys = [plan.key_of(row[1:]) for row in group]
            served += answers(read(plan, store, keys, at_us=at_us))
        names = [field.name for field in plan.features] + [f"{plan.name}__state", f"{plan.name}__age_us"]
        assert len(served) == 10_000
        for ours, theirs in zip(served, expected.select(names).rows(), strict=True):
            assert oracle.same(ours, theirs)
            n_compared += len(plan.features)
    assert n_compared == 50_000


ROWS = [
    oracle.Row("a", 0, 10, 12, 1, 2.5, True),
    oracle.Row("a", 0, 11, None, 2, 3.5, False),
    oracle.Row("b", 0, 10, None, 3, None, None),
]


def test_many_keys_come_with_their_freshness(store):
    view = oracle.value_view(missing=Policy.REJECT, stale=Policy.FALLBACK)
    materialise(view, oracle.table([*ROWS, oracle.Row("b", 1, 3, None, 4, 1.0, True)]), store)
    keys = [view.plan.key_of(key) for key in [("c", 0), ("a", 0), ("b", 0), ("b", 1)]]

    found = read(view.plan, store, keys, at_us=13)

    assert found.states.tolist() == [State.MISSING, State.FRESH, State.FRESH, State.STALE]
    assert found.ages_us.tolist() == [-1, 2, 3, 10]
    np.testing.assert_array_equal(found.columns["value"], [math.nan, 3.5, math.nan, math.nan])
    assert found.columns["label"].tolist() == ["none", "no", "no", "none"]
    assert found.rows_with(view.plan, Policy.REJECT).tolist() == [0]
    assert found.rows_with(view.plan, Policy.FALLBACK).tolist() == [3]
    assert found.rows_with(view.plan, Policy.DEFAULT).tolist() == []


def test_materialising_again_and_backfilling_add_what_is_new_only(store):
    view = oracle.value_view()
    bound = datetime(1970, 1, 1, 0, 0, 0, 11, tzinfo=UTC)

    recent = materialise(view, oracle.table(ROWS), store, since=bound)
    older = materialise(view, oracle.table(ROWS), store, until=bound)
    again = materialise(view, oracle.table(ROWS), store)

    assert (recent.n_events, recent.n_new) == (1, 1)
    assert (older.n_events, older.n_new) == (2, 2)
    assert (again.n_events, again.n_new) == (3, 0)


def test_correction_replaces_what_it_corrects_from_when_it_is_known(store):
    view = oracle.aggregate_view()
    wrong = oracle.Row("a", 0, 10, 10, 1, 100.0, True)
    right = wrong._replace(created=12, value=1.0)
    materialise(view, oracle.table([wrong, right]), store)
    key = view.plan.key_of(("a", 0))

    means = [read(view.plan, store, [key], at_us=at).columns["mean_short"][0] for at in (11, 12, 13)]

    assert means == [100.0, 100.0, 1.0]


def test_event_that_does_not_fit_its_view_is_refused_and_not_put(store):
    view = oracle.value_view()

    with pytest.raises(InvalidFeatureData, match="'latest'"):
        push(view, {**ROWS[0]._asdict(), "value": "much"}, store)
    with pytest.raises(InvalidFeatureData, match="'key'"):
        push(view, {**ROWS[0]._asdict(), "key": None}, store)

    assert store.within("latest", [view.plan.key_of(("a", 0))], since_us=0, at_us=99) == [[]]


def test_served_features_are_those_recomputed_and_a_wrong_one_is_counted(store):
    view = oracle.aggregate_view()
    materialise(view, oracle.table(ROWS), store)
    asked = [oracle.Asked("a", 0, at) for at in range(8, 28)]
    served = [
        read(view.plan, store, [view.plan.key_of(question[:2])], at_us=question.at).columns
        for question in asked
    ]
    log = oracle.questions(asked).with_columns(
        pl.Series(name, [row[name][0] for row in served]) for name in served[0]
    )
    wrong = log.with_columns(
        n_long=pl.when(pl.col("at") == 13).then(99).otherwise("n_long"),
        rate_long=pl.col("rate_long").fill_nan(0.0),
    )

    clean = measure_skew(log, "at", views=[(view, oracle.table(ROWS))])
    found = {one.feature: one for one in measure_skew(wrong, "at", views=[(view, oracle.table(ROWS))])}

    assert [one.n_mismatches for one in clean] == [0] * 5
    assert clean[0].interval.low == 0
    assert clean[0].interval.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert (found["n_long"].n_mismatches, found["n_long"].rate, found["n_long"].first_row) == (1, 0.05, 5)
    assert found["rate_long"].n_mismatches == sum(math.isnan(row["rate_long"][0]) for row in served) > 0
    assert found["mean_long"].n_mismatches == 0


def test_log_without_a_feature_cannot_be_checked():
    log = oracle.questions([oracle.Asked("a", 0, 5)])

    with pytest.raises(InvalidFeatureData, match="'n_short'"):
        measure_skew(log, "at", views=[(oracle.aggregate_view(), oracle.table(ROWS))])


@pytest.mark.parametrize(
    "value", [None, 1e30, 2**70, True, "\ud800", "\0", [1], {"a": 1}, "soon", "2026-01-01"]
)
@pytest.mark.parametrize("name", ["key", "part", "event", "created", "event_id", "value", "yes"])
def test_pushing_what_anybody_may_send_is_done_or_refused_in_words(tmp_path, name, value):
    with new_store("sqlite", None, tmp_path) as store:
        for view in (oracle.value_view(), oracle.aggregate_view()):
            with contextlib.suppress(TidegateError):
                push(view, {**ROWS[0]._asdict(), name: value}, store)


def test_time_may_come_as_text_with_any_offset(store):
    view = oracle.value_view()
    times = {"event": "1970-01-01T02:00:00.000010+02:00", "created": "1969-12-31T23:00:00.000012-01:00"}

    assert push(view, ROWS[0]._asdict(), store)
    assert not push(view, {**ROWS[0]._asdict(), **times}, store)
