"""`tidegate data split|leaks|duplicates|labels|label` and the guard, from the shell."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

HOTEL = Path(__file__).parents[3] / "shared" / "data" / "hotel_bookings.parquet"


def rows(seed=0, n=600, rate=0.3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    late = (x + rng.normal(size=n) * 0.3 > np.quantile(x, 1 - rate)).astype(int)
    start = datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "x": x,
            "who": [f"n{at % 40}" for at in range(n)],
            "at": [start + timedelta(hours=at) for at in range(n)],
            "late": late,
        }
    )


def test_a_split_becomes_two_snapshots_that_name_their_parent(tidegate):
    rows().write_parquet("rows.parquet")
    taken = json.loads(tidegate("data", "snapshot", "rows", "rows.parquet", "--json").out)["snapshot"]

    said = tidegate("data", "split", "rows", "--time", "at", "--gap", "24h", "--to", "parts", "--json")
    found = json.loads(said.out)
    train, test = found["snapshots"]
    shown = json.loads(tidegate("data", "show", "parts.test", "--json").out)["snapshot"]

    assert found["splits"] == [{"train": 456, "test": 120, "gap": 24}]
    assert (train["name"], train["n_rows"], test["name"], test["n_rows"]) == (
        "parts.train",
        456,
        "parts.test",
        120,
    )
    assert shown["parents"] == [taken["digest"]]


def test_folds_move_forward_and_groups_stay_together(tidegate):
    rows().write_parquet("rows.parquet")

    folds = json.loads(
        tidegate("data", "split", "rows.parquet", "--time", "at", "--folds", 3, "--test", "2d", "--json").out
    )
    grouped = tidegate("data", "split", "rows.parquet", "--group", "who")
    nothing = tidegate("data", "split", "rows.parquet")

    assert [each["test"] for each in folds["splits"]] == [48, 48, 48]
    assert [each["train"] for each in folds["splits"]] == [456, 504, 552]
    assert "600 rows of rows.parquet" in grouped.out
    assert nothing.code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--time", "host", "--gap", "30d"), "host is Int64, not a time"),
        (("--time", "host", "--folds", 2, "--test", "2d"), "host is Int64, not a time"),
        (("--stratify", "late", "--gap", "30d"), "A --gap goes with --time"),
        (("--group", "who", "--gap", "1d"), "A --gap goes with --time"),
    ],
)
def test_a_length_of_time_needs_a_time(tidegate, arguments, said):
    rows().with_columns(host=pl.int_range(pl.len())).write_parquet("rows.parquet")

    refused = tidegate("data", "split", "rows.parquet", *arguments)
    ordered = tidegate("data", "split", "rows.parquet", "--time", "host")

    assert refused.code in (1, 2)
    assert said in refused.err
    assert ordered.code == 0


def test_leaks_are_named_and_end_with_status_three(tidegate):
    table = rows().with_columns(answer=pl.col("late") * 2 + 1)
    table.write_parquet("rows.parquet")

    found = tidegate("data", "leaks", "rows.parquet", "--label", "late", "--feature", "answer", "--feature",
                     "who", "--time", "at", "--key", "who", "--json")  # fmt: skip
    clean = tidegate("data", "leaks", "rows.parquet", "--label", "late", "--feature", "who")

    assert found.code == 3
    assert [(each["kind"], each["column"]) for each in json.loads(found.out)] == [
        ("answer", "answer"),
        ("shared-key", "who"),
    ]
    assert clean.code == 0
    assert "alone knows 'late'" in clean.out


def test_too_few_rows_to_tell_of_leaks_are_said_to_be(tidegate):
    rows(n=40).write_parquet("rows.parquet")

    said = tidegate("data", "leaks", "rows.parquet", "--label", "late")
    as_json = tidegate("data", "leaks", "rows.parquet", "--label", "late", "--json")

    assert said.code == as_json.code == 0
    assert "too few to tell" in said.out
    assert "alone knows" not in said.out
    assert json.loads(as_json.out) == []
    assert "too few to tell" in as_json.err


@pytest.mark.skipif(not HOTEL.exists(), reason="the shared data folder is not here")
def test_the_status_of_a_hotel_booking_is_caught_from_the_shell(tidegate):
    said = tidegate("data", "leaks", HOTEL, "--label", "is_canceled", "--json")

    assert said.code == 3
    assert [each["column"] for each in json.loads(said.out)] == ["reservation_status"]


def test_duplicates_and_near_texts_are_counted(tidegate):
    texts = ["free prize, call now to claim it", "FREE prize! Call now to claim it.", "see you at noon"]
    pl.DataFrame({"id": [1, 1, 2], "text": texts}).write_parquet("rows.parquet")

    found = json.loads(
        tidegate("data", "duplicates", "rows.parquet", "--column", "id", "--text", "text", "--json").out
    )
    shown = tidegate("data", "duplicates", "rows.parquet", "--text", "text")

    assert (found["n_exact"], found["exact"], found["n_near"]) == (1, [[1, 0]], 1)
    assert found["near"][0][:2] == [0, 1]
    assert "0 of 3 rows repeat" in shown.out
    assert "1 pairs of texts" in shown.out


def test_wrong_labels_are_shown_with_what_is_likelier(tidegate):
    table = rows(rate=0.5)
    wrong = int(table["x"].arg_max())
    table = table.with_columns(
        late=pl.when(pl.int_range(pl.len()) == wrong).then(1 - pl.col("late")).otherwise("late")
    )
    table.write_parquet("rows.parquet")

    said = tidegate("data", "labels", "rows.parquet", "--label", "late", "--feature", "x", "--learner",
                    "linear", "--json")  # fmt: skip
    shown = tidegate(
        "data", "labels", "rows.parquet", "--label", "late", "--feature", "x", "--learner", "linear"
    )
    found = json.loads(said.out)

    assert said.code == 0
    assert found["mislabelled"]["rows"][0]["row"] == wrong
    assert "suspects by a linear model" in shown.out


def test_a_constant_label_ends_with_status_three(tidegate):
    rows().with_columns(late=pl.lit(1)).write_parquet("rows.parquet")

    said = tidegate("data", "labels", "rows.parquet", "--label", "late")

    assert said.code == 3
    assert "constant: Every label is the same" in said.out
    assert "Errors were not sought" in said.out


def test_rules_label_rows_into_a_snapshot(tidegate, tmp_path):
    rows().write_parquet("rows.parquet")
    (tmp_path / "rules.json").write_text(
        json.dumps(
            [
                {"name": "high", "when": "x > 1", "label": 1},
                {"name": "low", "when": "x < 0", "label": 0},
                {"name": "very low", "when": "x < -1", "label": 0},
            ]
        )
    )

    said = tidegate("data", "label", "rows.parquet", "rules.json", "--hand", "late", "--to", "labelled")
    shown = json.loads(tidegate("data", "show", "labelled", "--json").out)["snapshot"]

    assert said.code == 0, said.err
    assert "conflict" in said.out
    assert "Snapshot labelled@1: 600 rows" in said.out
    assert {"label", "label_probability", "label_by"} <= {column["name"] for column in shown["columns"]}


def held_batch(tidegate):
    for seed in range(4):
        rows(seed).write_parquet(f"{seed}.parquet")
        assert tidegate("data", "snapshot", "rows", f"{seed}.parquet").code == 0
    rows(9, rate=0.8).write_parquet("poisoned.parquet")
    return tidegate("data", "snapshot", "rows", "poisoned.parquet", "--guard", "--label", "late")


def test_a_poisoned_batch_waits_until_a_person_releases_it(tidegate):
    said = held_batch(tidegate)
    (waiting,) = json.loads(tidegate("data", "held", "--json").out)
    digits = waiting["digest"].removeprefix("sha256:")[:12]
    numbers = len(json.loads(tidegate("data", "list", "rows", "--json").out))

    released = tidegate("data", "release", digits, "--reason", "a new branch opened")
    audit = tidegate("audit", "verify")

    assert said.code == 3
    assert f"Held as {digits}" in said.out
    assert "late = 1 in" in said.out
    assert numbers == 4  # while it is held it is no snapshot of the data set
    assert "Snapshot rows@5: 600 rows" in released.out
    assert "No batch is held." in tidegate("data", "held").out
    assert "a new branch opened" in tidegate("data", "held", "--all").out
    assert tidegate("data", "release", digits, "--reason", "again").code == 1
    assert audit.code == 0


def test_a_refused_batch_never_becomes_a_snapshot(tidegate):
    held_batch(tidegate)
    (waiting,) = json.loads(tidegate("data", "held", "rows", "--json").out)
    digits = waiting["digest"].removeprefix("sha256:")[:12]

    refused = tidegate("data", "refuse", digits, "--reason", "labels were flipped")
    then = tidegate("data", "release", digits, "--reason", "after all")

    assert refused.code == 0
    assert then.code == 1
    assert "was refused before" in then.err
    assert len(json.loads(tidegate("data", "list", "rows", "--json").out)) == 4
    decisions = json.loads(tidegate("decisions", "--kind", "batch", "--json").out)
    assert [each["decision"]["outcome"] for each in decisions] == ["held", "refused"]


def test_a_usual_batch_passes_the_guard_and_too_little_history_does_not(tidegate):
    rows(0).write_parquet("first.parquet")
    early = tidegate("data", "snapshot", "fresh", "first.parquet", "--guard")
    held_batch(tidegate)
    rows(10).write_parquet("usual.parquet")
    usual = tidegate("data", "snapshot", "rows", "usual.parquet", "--guard", "--label", "late")

    assert early.code == 3
    assert "0 earlier batches; 3 are needed" in early.out
    assert usual.code == 0, usual.out
    assert "Snapshot rows@5" in usual.out
