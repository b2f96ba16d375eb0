"""W3C trace context: what is taken of it, and what is not."""

from types import SimpleNamespace

import pytest

from tidegate.serving.http.native import identify

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def taken(header):
    call = SimpleNamespace(trace=b"")
    identify(SimpleNamespace(headers={b"traceparent": header.encode()}), call)
    return call.trace.hex()


def test_a_sampled_trace_comes_with_the_callers_span_an_unsampled_one_without():
    assert taken(f"00-{TRACE}-{PARENT}-01") == TRACE + PARENT
    assert taken(f"00-{TRACE}-{PARENT}-03") == TRACE + PARENT
    assert taken(f"00-{TRACE}-{PARENT}-00") == TRACE + "0" * 16
    assert taken(f"01-{TRACE}-{PARENT}-01-later") == TRACE + PARENT


@pytest.mark.parametrize(
    "header",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-01",
        "",
    ],
)
def test_what_is_no_trace_context_is_none(header):
    assert taken(header) == ""
