import json

import msgspec
import pytest
from hypothesis import given, settings

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting
from tidegate.testing import strategy

X = Field("x", DataType.FLOAT64)
OUT = Schema((Field("y", DataType.FLOAT64),))


@settings(max_examples=40)
@given(strategy.contracts())
def test_json_form_round_trips(contract):
    again = Contract.from_json(contract.to_json())

    assert again == contract
    assert again.fingerprint == contract.fingerprint


@settings(max_examples=40)
@given(strategy.contracts())
def test_checking_changes_nothing_in_a_normal_form(contract):
    assert contract.checked() == contract


def test_fingerprint_is_the_same_for_bounds_written_as_integers_and_floats():
    whole = Contract(Schema((Field("x", DataType.FLOAT64, ge=0),)), OUT).checked()
    fractional = Contract(Schema((Field("x", DataType.FLOAT64, ge=0.0),)), OUT).checked()

    assert whole.fingerprint == fractional.fingerprint


def test_fingerprint_does_not_depend_on_the_order_of_keys_in_the_json():
    contract = Contract(Schema((Field("x", DataType.INT8, ge=1, unit="mile", doc="a"),)), OUT).checked()
    shuffled = json.dumps(dict(reversed(json.loads(contract.to_json()).items()))).encode()

    assert Contract.from_json(shuffled).fingerprint == contract.fingerprint


@pytest.mark.parametrize("change", [{"unit": "mile"}, {"ge": 0.0}, {"sensitive": True}, {"doc": "new"}])
def test_fingerprint_moves_with_every_setting(change):
    old = Contract(Schema((X,)), OUT).checked()
    new = Contract(Schema((msgspec.structs.replace(X, **change),)), OUT).checked()

    assert old.fingerprint != new.fingerprint


@pytest.mark.parametrize("data", [b"", b"[]", b'{"input": 3}', b'{"input":{"fields":[{"name":"x"}]}}'])
def test_from_json_refuses_what_is_no_contract(data):
    with pytest.raises(InvalidSetting, match="not a contract"):
        Contract.from_json(data)


def test_from_json_checks_the_fields():
    data = Contract(Schema((msgspec.structs.replace(X, ge=2.0, le=1.0),)), OUT).to_json()

    with pytest.raises(InvalidSetting, match=r"'x' has an empty range"):
        Contract.from_json(data)


def test_bytes_default_survives_the_json_form():
    field = Field("b", DataType.BYTES, optional=True, default=b"\x00\xff")
    contract = Contract(Schema((field,)), OUT).checked()

    assert Contract.from_json(contract.to_json()).input.fields[0].default == b"\x00\xff"


def test_key_is_the_field_with_that_role():
    tail = Field("tail", DataType.STRING, roles=(Role.KEY,))

    assert Contract(Schema((X, tail)), OUT).key is tail
    assert Contract(Schema((X,)), OUT).key is None
