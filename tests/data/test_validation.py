"""Bad data gives a report that names rule, column, count and rows; nothing else comes of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tidegate.contract.declare import Input, Output, category, contract_of, field
from tidegate.contract.decode import ContractViolation, RowDecoder
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.data.report import Policy
from tidegate.data.rule import (
    Fresh,
    Monotone,
    Nulls,
    Range,
    Referential,
    Stable,
    Typical,
    Unique,
    read_rules,
)
from tidegate.data.source import file_source, frame_source
from tidegate.data.summary import summarise
from tidegate.data.validation import HIDDEN, REASONS, validate

NOW = datetime(2024, 3, 1, tzinfo=UTC)


class Row(Input):
    id: int = field(ge=1)
    distance: float = field(gt=0, le=5000, unit="mile")
    origin: str = category("EWR", "JFK", "LGA")
    name: str = field(max_length=5, pattern="^[a-z]+$", sensitive=True)


class Answer(Output):
    p: float


SCHEMA = contract_of(Row, Answer).input
GOOD = pl.DataFrame(
    {
        "id": range(1, 101),
        "distance": [float(100 + number) for number in range(100)],
        "origin": ["EWR", "JFK"] * 50,
        "name": ["ana"] * 100,
    }
)


class Known:
    """Snapshots by label, in memory."""

    def __init__(self, **frames):
        self.frames = frames

    def values(self, label, column):
        if label not in self.frames or column not in self.frames[label].columns:
            raise NotFound(f"no {label}")
        return self.frames[label][column]

    def summary(self, label, column):
        return summarise(self.values(label, column))


def check(data, *rules, schema=None, references=None, policy=Policy.REJECT):
    source = frame_source(data) if isinstance(data, pl.DataFrame) else file_source(data)
    return validate(
        source,
        rules=rules,
        schema=schema,
        references=references or Known(),
        now_us=int(NOW.timestamp() * 1e6),
        policy=policy,
    )


def found(validated):
    return [(one.rule, one.column, one.count) for one in validated.report.findings]


def test_good_data_pass_with_nothing_to_say():
    validated = check(GOOD, Unique(columns=("id",)), Monotone(column="id", strict=True), schema=SCHEMA)

    assert validated.report.findings == ()
    assert validated.accepted.frame.collect().equals(GOOD)
    assert validated.quarantined is None


def change(column, values):
    rows = {3 + 10 * place: value for place, value in enumerate(values)}
    old = GOOD[column].to_list()
    return GOOD.with_columns(pl.Series(column, [rows.get(row, value) for row, value in enumerate(old)]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (change("distance", [-1.0, 9000.0, float("inf")]), ("range", "distance", 3)),
        (change("distance", [None, float("nan")]), ("missing", "distance", 2)),
        (change("origin", ["SFO"]), ("category", "origin", 1)),
        (change("name", ["Ana", "toolong", ""]), ("text", "name", 3)),
        (change("id", [0]), ("range", "id", 1)),
        (GOOD.drop("origin"), ("column", "origin", 100)),
        (GOOD.with_columns(pl.col("id").cast(pl.Float64) + 0.5), ("type", "id", 100)),
        (GOOD.with_columns(origin=pl.lit(1)), ("type", "origin", 100)),
        (GOOD.clear(), ("rows", "", 0)),
    ],
)
def test_a_break_of_the_contract_is_named_and_counted(data, expected):
    validated = check(data, schema=SCHEMA)

    assert expected in found(validated)
    assert not validated.report.accepted
    assert validated.accepted is None


def test_offending_rows_are_shown_without_what_is_sensitive():
    report = check(change("distance", [-1.0, -2.0]), schema=SCHEMA).report

    assert report.findings[0].row_numbers == (3, 13)
    assert report.findings[0].rows[0] == {"id": 4, "distance": -1.0, "origin": "JFK", "name": HIDDEN}


def test_text_in_a_column_of_numbers_is_found_in_a_file(tmp_path):
    (tmp_path / "t.csv").write_text("id,distance,origin,name\n1,5.5,EWR,a\n2,far,EWR,b\nx,7,JFK,c\n")

    report = check(tmp_path / "t.csv", schema=SCHEMA).report

    assert [(one.rule, one.column, one.row_numbers) for one in report.findings] == [
        ("type", "id", (2,)),
        ("type", "distance", (1,)),
    ]
    assert report.findings[1].rows[0]["distance"] == "far"


def test_a_column_without_any_value_is_found_even_beyond_the_contract():
    data = GOOD.with_columns(extra=pl.lit(None, dtype=pl.Float64), distance=pl.lit(None, dtype=pl.Float64))
    report = check(data, schema=SCHEMA).report

    policies = {one.column: one.policy for one in report.findings if one.rule == "filled"}
    assert policies == {"distance": Policy.REJECT, "extra": Policy.WARN}


def test_mixed_encodings_are_found_row_by_row(tmp_path):
    lines = [b"id,name", "1,café".encode(), "2,café".encode("latin-1"), b"3,plain"]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))

    validated = check(tmp_path / "t.csv")

    assert found(validated) == [("encoding", "name", 1)]
    assert validated.report.findings[0].row_numbers == (1,)
    assert validated.accepted is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("t.csv", "", ("rows", "", 0)),
        ("t.csv", "a,b\n", ("rows", "", 0)),
        ("t.csv", "a,b\n1,2\n1,2,3\n1,2\n4,5,6\n", ("readable", "", 2)),
        ("t.jsonl", "", ("rows", "", 0)),
        ("t.jsonl", '{"a": 1}\n{"a": \n', ("readable", "", 1)),
    ],
)
def test_files_that_hold_no_table_give_a_report(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)

    validated = check(tmp_path / name)

    assert expected in found(validated)
    assert validated.accepted is None


TIMES = pl.DataFrame(
    {
        "at": [NOW - timedelta(hours=hours) for hours in (9, 8, 10, 3, 4)],
        "who": ["a", "b", "a", "a", "b"],
        "x": [1.0, None, 3.0, float("nan"), 5.0],
    }
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Monotone(column="at"), [("monotone", "at", 2)]),
        (Monotone(column="at", by=("who",)), [("monotone", "at", 1)]),
        (Fresh(column="at", within_s=4 * 3600), []),
        (Fresh(column="at", within_s=2 * 3600), [("fresh", "at", 5)]),
        (Fresh(column="gone", within_s=1), [("fresh", "gone", 5)]),
        (Monotone(column="x", by=("who",)), []),
        (Monotone(column="x"), []),
        (Nulls(column="x"), [("nulls", "x", 2)]),
        (Nulls(column="x", at_most=0.4), []),
        (Range(column="x", low=2, high=4), [("range", "x", 2)]),
        (Unique(columns=("who",)), [("unique", "who", 5)]),
        (Unique(columns=("who",), keep_first=True), [("unique", "who", 3)]),
        (Unique(columns=("who", "at")), []),
        (Referential(column="who", to="people", to_column="name"), [("referential", "who", 2)]),
        (Nulls(column="gone"), [("nulls", "gone", 5)]),
    ],
)
def test_a_rule_counts_its_offenders(rule, expected):
    assert found(check(TIMES, rule, references=Known(people=pl.DataFrame({"name": ["a"]})))) == expected


def test_a_gap_does_not_excuse_what_comes_after_it():
    data = pl.DataFrame({"x": [5.0, None, float("nan"), 3.0, 4.0]})

    assert found(check(data, Monotone(column="x"))) == [("monotone", "x", 1)]


def test_a_time_in_the_future_makes_no_table_fresh():
    data = pl.DataFrame({"at": [NOW - timedelta(days=9), NOW + timedelta(days=365)]})

    assert found(check(data, Fresh(column="at", within_s=3600))) == [("fresh", "at", 2)]


def test_a_name_that_stands_twice_in_a_header_is_found(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,id\n1,2,3\n")

    assert ("column", "id", 1) in found(check(tmp_path / "t.csv"))


def test_nothing_of_a_broken_file_is_shown_where_fields_are_sensitive(tmp_path):
    (tmp_path / "t.csv").write_text("id,name\n1,secret,2\n")

    validated = check(tmp_path / "t.csv", schema=SCHEMA)

    assert found(validated) == [("readable", "", 1)]
    assert "secret" not in str(validated.report)


@pytest.mark.parametrize("policy", list(Policy))
def test_a_policy_may_be_written_as_its_word(policy):
    assert check(TIMES, Range(column="x", high=4, policy=policy.value)).report == (
        check(TIMES, Range(column="x", high=4, policy=policy)).report
    )
    with pytest.raises(InvalidSetting, match="rejct"):
        Range(column="x", policy="rejct")


def test_values_ten_times_too_large_are_found_and_no_others():
    values = np.random.default_rng(0).normal(1000, 50, 2000)
    values[[5, 700, 1999]] *= 10

    report = check(pl.DataFrame({"distance": values}), Typical(column="distance", times=5)).report

    assert report.findings[0].row_numbers == (5, 700, 1999)
    assert report.findings[0].count == 3


def test_a_moved_distribution_is_found_and_an_unmoved_one_is_not():
    draw = np.random.default_rng(1)
    reference = Known(old=pl.DataFrame({"x": draw.normal(0, 1, 3000), "c": ["a", "b"] * 1500}))
    same = pl.DataFrame({"x": draw.normal(0, 1, 2000), "c": ["b", "a"] * 1000})
    moved = pl.DataFrame({"x": draw.normal(1, 1, 2000), "c": ["a", "z"] * 1000})
    rules = (Stable(column="x", reference="old"), Stable(column="c", reference="old"))

    assert found(check(same, *rules, references=reference)) == []
    assert found(check(moved, *rules, references=reference)) == [("stable", "x", 2000), ("stable", "c", 2000)]


def test_infinite_values_of_the_reference_are_no_move():
    draw = np.random.default_rng(1)
    values = draw.normal(0, 1, 2000)
    values[:600], values[600:700] = np.inf, -np.inf
    rule = Stable(column="x", reference="old")
    known = Known(old=pl.DataFrame({"x": values}))

    assert found(check(pl.DataFrame({"x": values}), rule, references=known)) == []
    assert found(check(pl.DataFrame({"x": -values}), rule, references=known)) == [("stable", "x", 2000)]


def test_each_rule_has_its_own_consequence():
    rules = (
        Range(column="x", high=4, policy=Policy.QUARANTINE),
        Unique(columns=("who",), keep_first=True, policy=Policy.WARN),
    )

    validated = check(TIMES, *rules)

    assert validated.report.accepted
    assert validated.report.n_quarantined == 1
    assert validated.accepted.frame.collect()["x"].to_list()[:3] == [1.0, None, 3.0]
    assert validated.quarantined.frame.collect()[REASONS].to_list() == ["range x"]


def test_quarantined_rows_and_accepted_rows_are_all_rows():
    data = change("distance", [-1.0, None, 9000.0])
    validated = check(data, schema=SCHEMA, policy=Policy.QUARANTINE)

    good, bad = validated.accepted.frame.collect(), validated.quarantined.frame.collect()

    assert sorted(good["id"].to_list() + bad["id"].to_list()) == list(range(1, 101))
    assert bad[REASONS].to_list() == ["range distance", "missing distance", "range distance"]


@pytest.mark.parametrize(
    ("annotation", "values", "n_wrong"),
    [
        (bool, ["true", "False", "yes"], 1),
        (bool, [1, 0, 1], 3),
        (int, [1.0, 2.5, 3.0], 1),
        (int, [2**70, 1, 2], 1),
        (float, ["1e3", "x", "-2"], 1),
        (float, [1, 2, 3], 0),
        (datetime, ["2024-01-01T00:00:00Z", "soon", "2024-01-02T00:00:00Z"], 1),
        (datetime, [NOW.date()] * 3, 0),
        (datetime, [1_700_000_000_000_000] * 3, 0),
        (timedelta, [timedelta(1)] * 3, 0),
        (timedelta, ["P1D"] * 3, 3),
        (str, [1, 2, 3], 3),
    ],
)
def test_values_are_typed_by_the_contract_or_counted(annotation, values, n_wrong):
    class One(Input):
        __annotations__ = {"v": annotation}

    data = pl.DataFrame({"v": pl.Series(values, strict=False)})

    report = check(data, schema=contract_of(One, Answer).input).report

    assert sum(one.count for one in report.findings) == n_wrong


WRITTEN_TIMES = (
    "2024-01-05T10:00:00Z",
    "2024-01-05t10:00:00.5z",
    "2024-01-05 10:00:00+02:00",
    "2013-10-01T05:15:00-04:00",
    "2024-01-05T10:00:00.1234565+0200",
    "2024-01-05T10:00:00",
    "2024-01-05",
    "05/01/2024 10:00:00",
    "2024-01-05T10:00Z",
    "2024-01-05T10:00:60Z",
    "2024-02-30T10:00:00Z",
    " 2024-01-05T10:00:00Z",
    "1704448800",
)


@pytest.mark.parametrize("order", [1, -1])
def test_times_are_read_as_a_request_is_in_any_order(order):
    class One(Input):
        v: datetime

    schema, texts = contract_of(One, Answer).input, [*WRITTEN_TIMES[::order]]
    decoder = RowDecoder(schema)

    def served(text):
        try:
            return decoder.decode(json.dumps({"v": text}).encode())[0][0].v
        except ContractViolation:
            return None

    validated = check(pl.DataFrame({"v": texts}), schema=schema, policy=Policy.QUARANTINE)

    accepted = validated.accepted.frame.collect()["v"].dt.epoch("us").to_list()
    assert accepted == [served(text) for text in texts if served(text) is not None]
    assert len(accepted) == 5
    assert validated.report.n_quarantined == len(texts) - 5


def test_a_code_of_digits_stays_text(tmp_path):
    (tmp_path / "t.csv").write_text("code,n\n007,1\n")

    assert file_source(tmp_path / "t.csv", text=["code", "other"]).frame.collect()["code"].to_list() == [
        "007"
    ]


def test_rules_are_read_from_json():
    text = b'[{"rule":"unique","columns":["id"],"policy":"warn"},{"rule":"range","column":"x","low":1}]'

    assert read_rules(text) == [
        Unique(columns=("id",), policy=Policy.WARN),
        Range(column="x", low=1),
    ]


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Fresh(column="who", within_s=1), InvalidSetting),
        (Range(column="who", low=1), InvalidSetting),
        (Fresh(column="at", within_s=1, policy=Policy.QUARANTINE), InvalidSetting),
        (Stable(column="x", reference="never"), NotFound),
        (Referential(column="who", to="people", to_column="number"), InvalidSetting),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, error):
    with pytest.raises(error):
        check(TIMES, rule, references=Known(people=pl.DataFrame({"number": [1]})))


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'[{"rule": "no such"}]',
        b'[{"rule": "unique"}]',
        b'[{"rule": "unique", "columns": []}]',
        b"[",
    ],
)
def test_what_is_no_list_of_rules_is_refused(text):
    with pytest.raises(InvalidSetting):
        read_rules(text)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('{"rule": "range", "column": "x", "lo": 1}', "Fields of 'range': policy, column, low, high"),
        ('{"rule": "range", "column": "x"}', "no bound"),
        ('{"rule": "range", "column": "x", "low": 2, "high": 1}', "Got 2.0 and 1.0"),
        ('{"rule": "typical", "column": "x", "times": 0}', "above 0"),
        ('{"rule": "nulls", "column": "x", "at_most": 5}', "Got 5.0"),
        ('{"rule": "rang", "column": "x"}', "Rules: unique, monotone, fresh, nulls, range"),
        ('{"column": "x"}', "Rules: unique"),
        (
            '{"rule": "range", "column": "x", "low": 1, "policy": "warm"}',
            "Policies: reject, quarantine, warn",
        ),
    ],
)
def test_a_slip_in_a_rule_is_refused_and_what_may_stand_there_is_listed(rule, said):
    with pytest.raises(InvalidSetting) as caught:
        read_rules(f'[{{"rule": "unique", "columns": ["id"]}}, {rule}]'.encode())

    assert said in f"{caught.value} {caught.value.hint}"
