"""Bad data, of every kind: a report names rule, column, count and rows, and nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"
HOTEL = SHARED / "hotel_bookings.parquet"
COMPAS = SHARED / "compas_two_years.parquet"

CONTRACT = """
import tidegate as tg


class Row(tg.Input):
    id: int
    city: str = tg.category("EWR", "JFK", "LGA")
    distance: float = tg.field(ge=0)
    note: str | None


class Answer(tg.Output):
    p: float
"""

RULES = [
    {"rule": "unique", "columns": ["id"]},
    {"rule": "typical", "column": "distance", "times": 5},
]


def good(n=200):
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "id": range(n),
            "city": rng.choice(["EWR", "JFK", "LGA"], n),
            "distance": rng.uniform(200, 2500, n).round(1),
            "note": ["as usual"] * n,
        }
    )


def wrong_types(path):
    table = good().with_columns(pl.col("distance").cast(pl.String))
    table.with_columns(
        pl.when(pl.col("id") == 7).then(pl.lit("far")).otherwise("distance").alias("distance")
    ).write_csv(path)


def missing_column(path):
    good().drop("city").write_csv(path)


def duplicated_keys(path):
    pl.concat([good(), good()[5:8]]).write_csv(path)


def all_null(path):
    good().with_columns(distance=pl.lit(None, pl.Float64)).write_csv(path)


def empty(path):
    path.write_text("")


def header_alone(path):
    good().clear().write_csv(path)


def mixed_encodings(path):
    good().write_csv(path)
    lines = path.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"as usual", "Zürich".encode("latin-1"))
    lines[9] = lines[9].replace(b"as usual", "Zürich".encode())
    path.write_bytes(b"\n".join(lines))


def ten_times_too_large(path):
    good().with_columns(
        pl.when(pl.col("id").is_in([11, 12])).then(pl.lit(25_000.0)).otherwise("distance").alias("distance")
    ).write_csv(path)


BAD = [
    (wrong_types, "type", "distance", 1, [7]),
    (missing_column, "column", "city", 200, []),
    (duplicated_keys, "unique", "id", 6, [5, 6, 7, 200, 201]),
    (all_null, "filled", "distance", 200, []),
    (empty, "rows", "", 0, []),
    (header_alone, "rows", "", 0, []),
    (mixed_encodings, "encoding", "note", 1, [3]),
    (ten_times_too_large, "typical", "distance", 2, [11, 12]),
]


@pytest.fixture
def told(tidegate, tmp_path):
    (tmp_path / "contract.py").write_text(CONTRACT)
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    return tidegate


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[0].__name__)
def test_bad_data_are_reported_and_leave_nothing_behind(told, tmp_path, case):
    spoil, rule, column, count, rows = case
    spoil(tmp_path / "rows.csv")
    arguments = ("rows.csv", "--contract", "contract.py", "--rules", "rules.json")

    checked = told("data", "check", *arguments, "--json")
    shown = told("data", "check", *arguments)
    taken = told("data", "snapshot", "rows", *arguments)
    found = {(each["rule"], each.get("column", "")): each for each in json.loads(checked.out)["findings"]}

    assert (checked.code, shown.code, taken.code) == (3, 3, 3)
    assert (rule, column) in found, found
    finding = found[rule, column]
    assert finding["count"] == count
    assert list(finding.get("row_numbers", []))[: len(rows)] == rows
    assert len(finding.get("rows", [])) == len(finding.get("row_numbers", []))
    assert rule in shown.out
    assert json.loads(told("data", "list", "--json").out) == []
    assert not [path for path in (tmp_path / ".tidegate" / "artifacts").rglob("*") if path.is_file()]


def test_good_data_pass(told, tmp_path):
    good().write_csv(tmp_path / "rows.csv")

    said = told("data", "snapshot", "rows", "rows.csv", "--contract", "contract.py", "--rules", "rules.json")

    assert said.code == 0, said.out


@pytest.mark.skipif(not HOTEL.exists(), reason="the shared data folder is not here")
def test_hotel_bookings_are_validated_and_their_dirt_is_put_aside(tidegate, tmp_path):
    columns = pl.read_parquet_schema(HOTEL)
    rules = [
        {"rule": "unique", "columns": list(columns), "keep_first": True, "policy": "quarantine"},
        {"rule": "range", "column": "adr", "low": 0, "policy": "quarantine"},
        {"rule": "nulls", "column": "children", "policy": "quarantine"},
        {"rule": "nulls", "column": "country", "at_most": 0.01, "policy": "warn"},
        {"rule": "nulls", "column": "company", "at_most": 0.5, "policy": "warn"},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(rules))

    said = tidegate("data", "snapshot", "hotel", HOTEL, "--rules", "rules.json", "--json")
    found = json.loads(said.out)
    aside = json.loads(tidegate("data", "show", "hotel.quarantine", "--json").out)["snapshot"]

    assert said.code == 0, said.out
    counts = {(each["rule"], each["column"]): each["count"] for each in found["report"]["findings"]}
    assert counts["range", "adr"] == 1
    assert counts["nulls", "children"] == 4
    assert counts["nulls", "company"] == 112_593
    assert ("nulls", "country") not in counts
    duplicated = next(count for (rule, _), count in counts.items() if rule == "unique")
    assert duplicated == 31_994
    assert found["snapshot"]["n_rows"] + found["quarantine"]["n_rows"] == 119_390
    assert found["quarantine"]["n_rows"] in range(31_994, 32_000)
    assert "quarantined_for" in {column["name"] for column in aside["columns"]}


COMPAS_CONTRACT = """
import tidegate as tg


class Defendant(tg.Input):
    age: int = tg.field(ge=18, le=120)
    race: str = tg.category(
        "African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other"
    )
    sex: str = tg.category("Female", "Male")
    priors_count: int = tg.field(ge=0)
    decile_score: int = tg.field(ge=1, le=10)
    score_text: str = tg.category("Low", "Medium", "High")
    c_charge_degree: str = tg.category("F", "M")
    is_recid: int = tg.field(ge=0, le=1)
    days_b_screening_arrest: int = tg.field(ge=-30, le=30)


class Answer(tg.Output):
    p: float
"""


@pytest.mark.skipif(not COMPAS.exists(), reason="the shared data folder is not here")
def test_compas_rows_that_propublica_left_out_are_put_aside(tidegate, tmp_path):
    (tmp_path / "compas.py").write_text(COMPAS_CONTRACT)
    (tmp_path / "rules.json").write_text('[{"rule": "unique", "columns": ["id"]}]')

    said = tidegate("data", "snapshot", "compas", COMPAS, "--contract", "compas.py", "--rules", "rules.json",
                    "--on-breach", "quarantine", "--json")  # fmt: skip
    found = json.loads(said.out)

    assert said.code == 0, said.out
    assert found["snapshot"]["n_rows"] == 6_172  # as ProPublica's own filter leaves
    assert found["quarantine"]["n_rows"] == 7_214 - 6_172
