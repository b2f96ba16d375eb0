"""Lookup tables: exact match, coarser levels, and keys that are not there."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.lookup import LookupOptions, LookupPredictor, Table, build_lookup
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec

CONTRACT = Contract(
    Schema(
        (
            Field("carrier", DataType.STRING),
            Field("origin", DataType.STRING),
            Field("hour", DataType.INT64),
        )
    ),
    Schema((Field("p_late", DataType.FLOAT64, ge=0, le=1), Field("band", DataType.STRING))),
)
TABLE = Table(
    ("carrier", "origin", "p_late", "band"),
    (
        ("AA", "JFK", 0.1, "low"),
        ("AA", "EWR", 0.4, "high"),
        ("UA", None, 0.3, "middle"),
        ("AA", None, 0.2, "middle"),
    ),
)
DEFAULT = {"p_late": 0.25, "band": "unknown"}
LEVELS = (("carrier", "origin"), ("carrier",))


def text(*values):
    return np.array(values, dtype=object)


def rows(carrier, origin):
    return Batch.of(
        {"carrier": text(*carrier), "origin": text(*origin), "hour": np.zeros(len(carrier), np.int64)}
    )


def context(open_artifact=None):
    return BuildContext(CONTRACT, open_artifact)


def test_answers_from_the_finest_level_that_matches():
    predictor = LookupPredictor(CONTRACT, LookupOptions(LEVELS, TABLE, default=DEFAULT))

    answer = predictor.predict(rows(["AA", "AA", "UA", "DL", "AA"], ["EWR", "JFK", "JFK", "JFK", "LGA"]))

    assert answer["p_late"].tolist() == [0.4, 0.1, 0.3, 0.25, 0.2]
    assert answer["band"].tolist() == ["high", "low", "middle", "unknown", "middle"]


def test_a_missing_key_raises_without_naming_its_value():
    table = Table(TABLE.columns, TABLE.rows[:2])
    predictor = LookupPredictor(CONTRACT, LookupOptions((("carrier", "origin"),), table, missing="raise"))

    with pytest.raises(
        PredictorError, match=r"1 of 2 rows .* by carrier, origin; the first is row 1"
    ) as caught:
        predictor.predict(rows(["AA", "secret"], ["JFK", "JFK"]))

    assert "secret" not in str(caught.value)
    assert predictor.predict(rows(["AA"], ["EWR"]))["p_late"].tolist() == [0.4]


def test_a_constant_is_a_lookup_without_keys():
    predictor = build_lookup(Spec("constant", options={"default": DEFAULT}), context())

    answer = predictor.predict(rows(["AA"] * 3, ["JFK"] * 3))

    assert answer["p_late"].tolist() == [0.25] * 3
    assert answer["p_late"].dtype == np.float64


def test_a_constant_of_times_and_bytes_is_written_as_on_the_wire():
    fields = {
        "at": (DataType.TIMESTAMP, "2020-01-01T00:00:01", 1_577_836_801_000_000),
        "zoned": (DataType.TIMESTAMP, "2020-01-01T01:00:01+01:00", 1_577_836_801_000_000),
        "took": (DataType.DURATION, "PT1M", 60_000_000),
        "raw": (DataType.BYTES, "aGk=", b"hi"),
    }
    output = Schema(tuple(Field(name, kind) for name, (kind, _, _) in fields.items()))
    default = {name: text for name, (_, text, _) in fields.items()}
    predictor = LookupPredictor(Contract(CONTRACT.input, output), LookupOptions(default=default))

    answer = predictor.predict(rows(["AA"], ["JFK"]))

    assert [answer[name].tolist() for name in fields] == [[value] for _, _, value in fields.values()]


def test_a_time_that_is_none_is_refused():
    output = Schema((Field("at", DataType.TIMESTAMP),))

    with pytest.raises(InvalidSetting, match=r"'soon' in row 0 .* is not a timestamp"):
        LookupPredictor(Contract(CONTRACT.input, output), LookupOptions(default={"at": "soon"}))


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_table_is_read_from_its_artifact(tmp_path, as_folder):
    (tmp_path / "table.json").write_bytes(msgspec.json.encode(TABLE))
    path = tmp_path if as_folder else tmp_path / "table.json"
    spec = Spec("lookup", "sha256:0", {"levels": [list(level) for level in LEVELS], "default": DEFAULT})

    predictor = build_lookup(spec, context(lambda digest: path))

    assert predictor.predict(rows(["AA"], ["JFK"]))["p_late"].tolist() == [0.1]


def test_a_damaged_table_is_refused(tmp_path):
    path = tmp_path / "table.json"
    path.write_bytes(msgspec.json.encode(TABLE)[:-9])

    with pytest.raises(LoadError, match=r"table\.json cannot be read"):
        build_lookup(
            Spec("lookup", "sha256:0", {"levels": [["carrier"]], "default": DEFAULT}),
            context(lambda digest: path),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LookupOptions((("tail",),), TABLE, default=DEFAULT), "tail are not input fields"),
        (LookupOptions((("hour",),), TABLE, default=DEFAULT), "lacks the columns hour"),
        (LookupOptions(LEVELS, TABLE), "default row must give p_late, band; it gives nothing"),
        (LookupOptions(LEVELS, TABLE, default={"p_late": 0.1}), "it gives p_late"),
        (LookupOptions(LEVELS, TABLE, default={"p_late": 1.1, "band": ""}), "not a float64 within its range"),
        (LookupOptions(LEVELS, TABLE, default={"p_late": "x", "band": ""}), "is not a float64"),
        (LookupOptions((("carrier",),), TABLE, default=DEFAULT), r"rows belong to no level|same key"),
        (LookupOptions((), None, missing="raise"), "needs a default row"),
        (LookupOptions(((),), TABLE, default=DEFAULT), "is its default row"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(options, message):
    with pytest.raises(InvalidSetting, match=message):
        LookupPredictor(CONTRACT, options)


def test_two_rows_of_one_key_are_refused():
    table = Table(TABLE.columns, (TABLE.rows[0], TABLE.rows[0]))

    with pytest.raises(InvalidSetting, match=r"Rows 0 and 1 .* same key"):
        LookupPredictor(CONTRACT, LookupOptions(LEVELS, table, default=DEFAULT))


def test_a_short_row_is_refused():
    table = Table(TABLE.columns, (("AA", "JFK", 0.1),))

    with pytest.raises(InvalidSetting, match=r"Row 0 .* 3 cells, expected 4"):
        LookupPredictor(CONTRACT, LookupOptions(LEVELS, table, default=DEFAULT))


def test_unknown_options_are_refused():
    with pytest.raises(InvalidSetting, match="lookup predictor cannot be used"):
        build_lookup(Spec("lookup", options={"key": ["carrier"]}), context())


NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(
    fine=st.dictionaries(st.tuples(NAMES, NAMES), st.floats(0, 1)),
    coarse=st.dictionaries(NAMES, st.floats(0, 1)),
    asked=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=20),
)
def test_lookup_equals_a_dictionary_asked_row_by_row(fine, coarse, asked):
    table = Table(
        ("carrier", "origin", "p_late", "band"),
        (
            *((one, two, value, "fine") for (one, two), value in fine.items()),
            *((one, None, value, "coarse") for one, value in coarse.items()),
        ),
    )
    predictor = LookupPredictor(CONTRACT, LookupOptions(LEVELS, table, default=DEFAULT))

    answer = predictor.predict(rows(*map(list, zip(*asked, strict=True))))

    expected = [fine.get(key, coarse.get(key[0], 0.25)) for key in asked]
    assert answer["p_late"].tolist() == expected
