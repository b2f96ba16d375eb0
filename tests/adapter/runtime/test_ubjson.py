"""UBJSON, walked over: real files whole, damaged ones never read past their end."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.adapter.runtime.ubjson import top_keys


def encode(value):
    """Return plain values as UBJSON, in its simplest form."""
    if value is None or isinstance(value, bool):
        return {None: b"Z", True: b"T", False: b"F"}[value]
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"D" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"S" + encode(len(value.encode())) + value.encode()
    if isinstance(value, bytes):  # as a typed array
        return b"[$U#" + encode(len(value)) + value
    if isinstance(value, list):
        return b"[" + b"".join(map(encode, value)) + b"]"
    parts = (encode(key)[1:] + encode(item) for key, item in value.items())
    return b"{" + b"".join(parts) + b"}"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4)


@given(value=OBJECTS)
def test_an_object_is_walked_to_its_end(value):
    assert top_keys(encode(value)) == list(value)


@given(value=OBJECTS, data=st.data())
def test_an_object_that_is_cut_off_anywhere_is_refused(value, data):
    whole = encode(value)
    at = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(ValueError, match=r"cut off|longer|no length|begin|no value|does not say"):
        top_keys(whole[:at])


@given(garbage=st.binary(max_size=60))
def test_any_bytes_are_an_object_or_refused(garbage):
    try:
        keys = top_keys(b"{" + garbage)
    except ValueError:
        return
    assert all(isinstance(key, str) for key in keys)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"[]", "does not begin with an object"),
        (b"{}x", "1 bytes follow"),
        (b"{" + b"i\x01a[" * 1 + b"[" * 100, "nested more than 64"),
        (b"{i\xff", "negative"),
        (b"{i\x01a[$U]", "does not say how long"),
    ],
)
def test_what_is_wrong_is_said(data, message):
    with pytest.raises(ValueError, match=message):
        top_keys(data)
