"""Splits are disjoint and exhaustive; what belongs together stays together; time never runs back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidegate.core.error import InvalidSetting
from tidegate.data.split import (
    group_split,
    rolling_splits,
    shared_keys,
    stratified_split,
    temporal_split,
)

moments = st.lists(st.integers(0, 100), min_size=2, max_size=60)
shares = st.floats(0.05, 0.95)
few = settings(max_examples=60)


def whole(split, n_rows):
    """Tell whether each row stands in exactly one part, and every part in order."""
    assert all((np.diff(part) > 0).all() for part in split if len(part))
    return sorted([*split.train, *split.test, *split.gap]) == list(range(n_rows))


@given(at=moments, share=shares, gap=st.integers(0, 20))
@few
def test_a_temporal_split_is_whole_and_keeps_its_gap(at, share, gap):
    table = pl.DataFrame({"at": at})
    try:
        split = temporal_split(table, "at", test_share=share, gap_us=gap)
    except InvalidSetting:
        assume(False)

    times = np.array(at)
    assert whole(split, len(at))
    assert times[split.train].max() < times[split.test].min() - gap
    assert all(times[split.test].min() - gap <= time < times[split.test].min() for time in times[split.gap])
    assert len(split.test) >= round(share * len(at))


@given(at=moments, n_folds=st.integers(1, 4), length=st.integers(1, 30), gap=st.integers(0, 10))
@few
def test_rolling_folds_are_whole_and_never_look_ahead(at, n_folds, length, gap):
    table = pl.DataFrame({"at": at})
    try:
        folds = list(rolling_splits(table, "at", n_folds=n_folds, test_us=length, gap_us=gap))
    except InvalidSetting:
        assume(False)

    times = np.array(at)
    tested = np.concatenate([fold.test for fold in folds])
    assert len(set(tested)) == len(tested)
    assert set(np.flatnonzero(times == times.max())) <= set(folds[-1].test)
    for fold in folds:
        assert whole(fold, len(at))
        assert times[fold.train].max() < times[fold.test].min() - gap


@given(
    keys=st.lists(st.sampled_from([*"abcdefgh", None]), max_size=80), share=shares, salt=st.text(max_size=3)
)
@few
def test_a_group_is_never_parted(keys, share, salt):
    table = pl.DataFrame({"key": keys}, schema={"key": pl.String})

    split = group_split(table, ["key"], test_share=share, salt=salt)

    assert whole(split, len(keys))
    assert shared_keys(table, split, ["key"]).is_empty()
    longer = group_split(pl.concat([table, table]), ["key"], test_share=share, salt=salt)
    assert longer.test[: len(split.test)].tolist() == split.test.tolist()


@given(
    labels=st.lists(st.sampled_from([True, False, None]), max_size=80), share=shares, seed=st.integers(0, 9)
)
@few
def test_each_stratum_has_its_share_within_a_row(labels, share, seed):
    table = pl.DataFrame({"y": labels}, schema={"y": pl.Boolean})

    split = stratified_split(table, ["y"], test_share=share, seed=seed)

    assert whole(split, len(labels))
    for value in set(labels):
        in_test = sum(1 for row in split.test if labels[row] is value)
        assert abs(in_test - share * labels.count(value)) < 1


def test_shared_keys_are_named():
    table = pl.DataFrame({"key": ["a", "b", "a", None, "c", None], "at": range(6)})

    split = temporal_split(table, "at", test_share=0.34)

    assert shared_keys(table, split, ["key"])["key"].to_list() == [None]
    assert shared_keys(table, temporal_split(table, "at", test_share=0.67), ["key"])["key"].to_list() == ["a"]


def test_times_of_any_kind_are_times():
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(days=day) for day in range(10)]

    for at in (times, [time.date() for time in times]):
        split = temporal_split(pl.DataFrame({"at": at}), "at", gap_us=2 * 86_400_000_000)
        assert (split.train.tolist(), split.test.tolist()) == ([0, 1, 2, 3, 4, 5], [8, 9])


@pytest.mark.parametrize(
    "split",
    [
        lambda: temporal_split(pl.DataFrame({"at": [1, None]}), "at"),
        lambda: temporal_split(pl.DataFrame({"at": ["a", "b"]}), "at"),
        lambda: temporal_split(pl.DataFrame({"at": [1, 1]}), "at"),
        lambda: temporal_split(pl.DataFrame({"at": [1, 2]}), "at", gap_us=5),
        lambda: temporal_split(pl.DataFrame({"at": [1, 2]}), "at", gap_us=-1),
        lambda: temporal_split(pl.DataFrame({"at": []}, schema={"at": pl.Int64}), "at"),
        lambda: temporal_split(pl.DataFrame({"at": [1, 2]}), "when"),
        lambda: group_split(pl.DataFrame({"key": [1]}), ["key"], test_share=1.0),
        lambda: stratified_split(pl.DataFrame({"key": [1]}), []),
    ],
)
def test_a_split_that_cannot_be_is_refused(split):
    with pytest.raises(InvalidSetting):
        split()
