from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings

import tidegate as tg
from tests.feature import oracle
from tidegate.core.error import InvalidSetting
from tidegate.feature.aggregate import rate
from tidegate.feature.offline import join
from tidegate.feature.transform import InvalidFeatureData, RowsMixed, prepare
from tidegate.feature.view import FeatureView


class Airport(tg.Input):
    origin: str


class Wind(tg.Input):
    wind: float


def weather(**options):
    return FeatureView(
        **{
            "name": "weather",
            "entity": Airport,
            "source": Wind,
            "event_time": "observed_at",
            "ttl": timedelta(hours=2),
            "features": Wind,
            **options,
        }
    )


def at(hour, minute=0):
    return datetime(2013, 1, 1, hour, minute, tzinfo=UTC)


OBSERVED = pl.DataFrame(
    {"origin": ["JFK", "JFK", "EWR"], "observed_at": [at(9), at(10), at(10)], "wind": [1.0, 2.0, 3.0]}
)


@settings(max_examples=25, deadline=None)
@given(oracle.events, oracle.asked)
def test_join_takes_the_latest_known_value_and_never_a_later_one(events, asked):
    joined = join(oracle.questions(asked), "at", views=[(oracle.value_view(), oracle.table(events))])

    for row, question in zip(joined.rows(), asked, strict=True):
        assert row[:3] == question
        assert oracle.same(row[3:], oracle.latest(events, question))


@settings(max_examples=25, deadline=None)
@given(oracle.events, oracle.asked)
def test_trailing_aggregates_count_what_was_known_in_the_window(events, asked):
    joined = join(oracle.questions(asked), "at", views=[(oracle.aggregate_view(), oracle.table(events))])

    for row, question in zip(joined.rows(), asked, strict=True):
        assert oracle.same(row[3:], oracle.trailing(events, question))


@settings(max_examples=5, deadline=None)
@given(oracle.events, oracle.asked)
def test_what_happens_or_becomes_known_later_changes_nothing(events, asked):
    views = [oracle.value_view(), oracle.aggregate_view()]
    whole = join(oracle.questions(asked), "at", views=[(view, oracle.table(events)) for view in views])

    for position, question in enumerate(asked):
        past = [row for row in events if row.event < question.at and oracle.created(row) < question.at]
        alone = join(oracle.questions([question]), "at", views=[(view, oracle.table(past)) for view in views])
        assert oracle.same(whole.row(position), alone.row(0))


def test_join_keeps_the_order_and_the_columns_of_the_rows():
    rows = pl.DataFrame({"row": [3, 1, 2], "origin": ["EWR", "JFK", "LGA"], "at": [at(11), at(10), at(11)]})

    joined = join(rows, "at", views=[(weather(), OBSERVED)])

    assert joined.select("row", "origin", "at").equals(rows)
    assert joined["wind"].fill_nan(None).to_list() == [3.0, 1.0, None]
    assert joined["weather__state"].to_list() == ["fresh", "fresh", "missing"]


def test_value_of_exactly_the_time_to_live_is_fresh_and_an_older_one_stale():
    rows = pl.DataFrame({"origin": ["JFK", "JFK"], "at": [at(12), at(12, 1)]})

    joined = join(rows, "at", views=[(weather(), OBSERVED)])

    assert joined["weather__state"].to_list() == ["fresh", "stale"]
    assert joined["wind"].fill_nan(None).to_list() == [2.0, None]
    assert joined["weather__age_us"].to_list() == [7_200_000_000, 7_260_000_000]


def test_late_value_counts_from_when_it_was_known():
    late = OBSERVED.with_columns(known_at=pl.Series([at(9), at(10, 30), at(10)]))
    rows = pl.DataFrame({"origin": ["JFK"] * 3, "at": [at(10, 15), at(10, 30), at(10, 31)]})

    joined = join(rows, "at", views=[(weather(created_time="known_at"), late)])

    assert joined["wind"].to_list() == [1.0, 1.0, 2.0]


def test_several_views_stand_side_by_side():
    delays = FeatureView(
        name="delays",
        entity=Airport,
        source=Wind,
        event_time="observed_at",
        ttl=timedelta(hours=9),
        transform={"squared": pl.col("wind") ** 2},
        features=_squared(),
    )
    rows = pl.DataFrame({"origin": ["JFK"], "at": [at(13)]})

    joined = join(rows, "at", views=[(weather(), OBSERVED), (delays, OBSERVED)])

    assert joined["squared"].to_list() == [4.0]
    assert joined["weather__state"].to_list() == ["stale"]
    assert joined["delays__state"].to_list() == ["fresh"]


def test_rows_without_a_key_have_no_features():
    rows = pl.DataFrame(
        {"origin": [None, "JFK"], "at": [at(11), at(11)]}, schema_overrides={"origin": pl.String}
    )

    joined = join(rows, "at", views=[(weather(), OBSERVED)])

    assert joined["weather__state"].to_list() == ["missing", "fresh"]


def test_dates_and_naive_times_are_utc():
    table = OBSERVED.with_columns(pl.col("observed_at").dt.replace_time_zone(None))
    rows = pl.DataFrame({"origin": ["JFK"], "at": [date(2013, 1, 2)]})

    joined = join(rows, "at", views=[(weather(ttl=timedelta(days=1)), table)])

    assert joined["weather__age_us"].to_list() == [14 * 3600 * 1_000_000]


@pytest.mark.parametrize(
    "expression",
    [
        pl.col("wind").shift(1),
        pl.col("wind") - pl.col("wind").mean(),
        pl.when(pl.col("wind") > 1).then(0.0).otherwise(pl.col("wind").max()),
    ],
)
def test_transform_that_looks_at_other_rows_is_refused(expression):
    view = weather(transform={"wind": expression})

    with pytest.raises(RowsMixed, match="'weather'"):
        join(pl.DataFrame({"origin": ["JFK"], "at": [at(11)]}), "at", views=[(view, OBSERVED)])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (OBSERVED.drop("wind"), "no column 'wind'"),
        (OBSERVED.with_columns(origin=pl.lit(None, pl.String)), "'origin' .* null in 3 of 3"),
        (OBSERVED.with_columns(wind=pl.lit("calm")), "does not fit its schema"),
        (OBSERVED.with_columns(observed_at=pl.lit("noon")), "must hold times"),
        (pl.concat([OBSERVED, OBSERVED.with_columns(wind=pl.lit(9.0))]), "other values"),
    ],
)
def test_table_that_cannot_be_the_source_is_refused_by_name(table, message):
    with pytest.raises(InvalidFeatureData, match=message):
        join(pl.DataFrame({"origin": ["JFK"], "at": [at(11)]}), "at", views=[(weather(), table)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"at": [at(11)]}, "no column 'origin'"),
        ({"origin": [1], "at": [at(11)]}, "'origin' .* must be string"),
        ({"origin": ["JFK"]}, "its time in a column 'at'"),
        ({"origin": ["JFK"], "at": [None]}, "its time in a column 'at'"),
        ({"origin": ["JFK"], "at": ["noon"]}, "must hold times"),
    ],
)
def test_rows_that_cannot_be_asked_about_are_refused_by_name(rows, message):
    with pytest.raises(InvalidFeatureData, match=message):
        join(pl.DataFrame(rows), "at", views=[(weather(), OBSERVED)])


def test_transform_that_cannot_be_computed_is_refused_by_name():
    view = weather(transform={"wind": pl.col("absent")})

    with pytest.raises(InvalidFeatureData, match="'weather' cannot be computed"):
        join(pl.DataFrame({"origin": ["JFK"], "at": [at(11)]}), "at", views=[(view, OBSERVED)])


def test_rate_of_what_is_no_truth_value_is_refused():
    view = weather(
        ttl=None,
        features=None,
        event_id="observed_at",
        aggregates={"windy": rate("wind", timedelta(hours=1))},
    )

    with pytest.raises(InvalidFeatureData, match=r"'windy' .* must be a truth value"):
        join(pl.DataFrame({"origin": ["JFK"], "at": [at(11)]}), "at", views=[(view, OBSERVED)])


class Flight(tg.Input):
    number: int


class Delay(tg.Input):
    minutes: float


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_a_gap_is_a_gap_before_the_transform_too(gap):
    view = FeatureView(
        name="punctual",
        entity=Flight,
        source=Delay,
        event_time="at",
        event_id="id",
        transform={"late": pl.col("minutes") >= 15},
        aggregates={"late_rate": rate("late", timedelta(hours=1))},
    )
    table = pl.DataFrame({"number": [1, 1], "minutes": [gap, 0.0], "at": [10, 11], "id": [1, 2]})

    assert (
        join(pl.DataFrame({"number": [1], "at": [1000]}), "at", views=[(view, table)])["late_rate"].item()
        == 0
    )


def test_fractions_are_no_whole_numbers():
    view = FeatureView(
        name="delay",
        entity=Flight,
        source=Delay,
        event_time="at",
        ttl=timedelta(hours=1),
        features=type("Known", (tg.Output,), {"__annotations__": {"minutes": float}}),
    )
    table = pl.DataFrame({"number": [2.0, 1.7], "minutes": [5.0, 6.0], "at": [10, 11]})

    with pytest.raises(InvalidFeatureData, match=r"'number' of view 'delay' must be int64.*fractions: 1.7"):
        prepare(view, table)
    assert prepare(view, table.head(1))["number"].to_list() == [2]


def test_exact_repetitions_of_a_row_are_one():
    rows = pl.DataFrame({"origin": ["JFK"], "at": [at(11)]})

    joined = join(rows, "at", views=[(weather(), pl.concat([OBSERVED, OBSERVED]))])

    assert joined["wind"].to_list() == [2.0]


def test_features_named_like_a_column_of_the_rows_are_refused():
    rows = pl.DataFrame({"origin": ["JFK"], "at": [at(11)], "wind": [0.0]})

    with pytest.raises(InvalidSetting, match="wind"):
        join(rows, "at", views=[(weather(), OBSERVED)])


def test_empty_tables_and_no_rows_are_joined():
    rows = pl.DataFrame({"origin": ["JFK"], "at": [at(11)]})

    assert join(rows, "at", views=[(weather(), OBSERVED.clear())])["weather__state"].to_list() == ["missing"]
    assert join(rows.clear(), "at", views=[(weather(), OBSERVED)]).height == 0


def _squared():
    class Squared(tg.Output):
        squared: float

    return Squared
