"""Whatever bytes arrive: an answer that blames the client or an end, never a fault or a stuck worker."""

import gzip
import json
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.http.harness import Server, Service, contract_of, scalar, serving
from tests.serving.http.peer import Peer, request
from tidegate.contract.objective import Limits
from tidegate.contract.protocol import DATATYPES
from tidegate.contract.schema import DataType, Field
from tidegate.serving.endpoint import Tensors

pytestmark = pytest.mark.slow

NAMES = ("a", "b")


def answer(batch: Any) -> dict[str, Any]:
    return {"y": batch["a"], "name": batch["name"]}


def services() -> list[Service]:
    contract = contract_of(
        [
            scalar("a", DataType.FLOAT32, ge=-1e6, le=1e6),
            scalar("b", DataType.FLOAT32, optional=True),
            scalar("name", DataType.STRING, optional=True, max_length=8),
        ],
        [scalar("y", DataType.FLOAT32), scalar("name", DataType.STRING, optional=True)],
    )
    vector = contract_of([Field("x", DataType.FLOAT32, shape=(None,))], [scalar("n", DataType.INT64)])

    def size(batch: Any) -> dict[str, Any]:
        return {"n": np.array([len(value) for value in batch["x"]], np.int64)}

    small = Limits(max_body_bytes=1 << 14, max_rows=100)
    return [
        Service("m", contract, answer, tensors=Tensors(matrix="ab", matrix_fields=NAMES), limits=small),
        Service("v", vector, size, limits=small),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), *services()) as running:
        yield running


def infer_request(body: Any, blob: bytes = b"", *, model: str = "m", headers: str = "") -> bytes:
    part = json.dumps(body).encode()
    length = f"Inference-Header-Content-Length: {len(part)}\r\n" if blob else ""
    return request(part + blob, path=f"/v2/models/{model}/infer", headers=length + headers)


MATRIX = {"name": "ab", "datatype": "FP32", "shape": [1, 2]}
VALID = [
    request('{"a": 1.5, "name": "x"}', path="/services/m/predict"),
    request('{"rows": [{"a": 1}, {"a": 2, "b": null}]}', path="/services/m/predict"),
    request(gzip.compress(b'{"a": 1}'), path="/services/m/predict", headers="Content-Encoding: gzip\r\n"),
    request(
        b'8\r\n{"a": 1}\r\n0\r\n\r\n', path="/services/m/predict", headers="Transfer-Encoding: chunked\r\n"
    ),
    request('{"prediction_id": "x", "value": 1}', path="/services/m/outcomes"),
    infer_request({"inputs": [{**MATRIX, "data": [1, 2]}]}),
    infer_request({"inputs": [{**MATRIX, "parameters": {"binary_data_size": 8}}]}, struct.pack("<2f", 1, 2)),
    infer_request(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}, model="v"
    ),
    request(b"", method="GET", path="/v2/models/m"),
    request(b"", method="GET", path="/v2/models/stats"),
    request(b"", method="POST", path="/v2/repository/index"),
    request(b"", method="GET", path="/openapi.json", version="1.0", headers="Connection: keep-alive\r\n"),
    request(b"", method="GET", path="/v2", headers="Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    request('{"a": 1}', path="/services/m/predict", headers="Expect: 100-continue\r\n"),
]
TOKENS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Inference-Header-Content-Length: 0\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"NaN",
    b"[" * 2000,
    b'{"inputs":',
    b"1e999",
    b"\xff\xfe",
    b"tidegate-timeout-ms: 0\r\n",
]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return valid requests, one after the other, with pieces cut out, put in or doubled."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 30)))
        data[at:until] = draw(
            st.one_of(
                st.sampled_from(TOKENS),
                st.binary(max_size=8),
                st.just(bytes(data[at:until]) * 2),
                st.just(b""),
            )
        )
    return bytes(data)


def exchange(server: Server, pieces: list[bytes]) -> list[int]:
    """Send pieces, end, and return the status of every answer up to the end of the connection."""
    with Peer(server) as peer:
        try:
            for piece in pieces:
                peer.send(piece)
            peer.finish()
        except OSError:  # refused and cut off before all was sent
            pass
        try:
            data = peer.rest()
        except TimeoutError:
            pytest.fail("the connection neither answers nor ends")
    statuses = []
    while data:
        head, gap, data = data.partition(b"\r\n\r\n")
        assert gap, f"an answer is cut off: {head[:100]!r}"
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 ")
        statuses.append(int(first.split()[1]))
        if statuses[-1] >= 200:
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            length = int(headers[b"content-length"])
            assert len(data) >= length
            body, data = data[:length], data[length:]
            if headers[b"content-type"] == b"application/json" and b"content-encoding" not in headers:
                json.loads(body)
    return [status for status in statuses if status != 102]  # the answer is still being made


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[start:stop] for start, stop in pairwise(edges)]


def assert_still_well(server: Server) -> None:
    assert exchange(server, [VALID[0], VALID[5]]) == [200, 200]
    assert not server.defects


CUTS = st.lists(st.integers(0, 10_000), max_size=3)


@given(data=st.binary(max_size=300), cuts=CUTS)
def test_random_bytes_are_refused_or_ignored(server: Server, data: bytes, cuts: list[int]) -> None:
    statuses = exchange(server, cut(data, cuts))

    assert all(400 <= status < 500 for status in statuses)
    assert_still_well(server)


@settings(max_examples=300)
@given(data=mutations(), cuts=CUTS)
def test_mutated_requests_never_fault(server: Server, data: bytes, cuts: list[int]) -> None:
    statuses = exchange(server, cut(data, cuts))

    assert all(status < 500 for status in statuses), statuses
    assert_still_well(server)


@given(data=st.lists(st.sampled_from(VALID), min_size=1, max_size=8), cuts=CUTS)
def test_valid_requests_are_answered_however_they_are_cut(
    server: Server, data: list[bytes], cuts: list[int]
) -> None:
    statuses = [status for status in exchange(server, cut(b"".join(data), cuts)) if status >= 200]

    expected = [400 if one is VALID[4] else 200 for one in data]
    assert statuses == expected


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["a", "b", "name", "ab", "x", "FP32", "BYTES", "y"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "data", "parameters", "inputs", "binary_data_size", "timeout"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """Return something close to a tensor."""
    sizes = st.integers(0, 4) | st.sampled_from([-1, 2**31 - 1, 2**31, 2**64])
    made: dict[str, Any] = {
        "name": draw(st.sampled_from(["a", "b", "name", "ab", "x", "zz"])),
        "datatype": draw(st.sampled_from([*DATATYPES, "FP32", "FP32", "BYTES", "BF16"])),
        "shape": draw(st.sampled_from([[1], [1, 2], [2], [1, 1]]) | st.lists(sizes, max_size=3)),
    }
    if draw(st.booleans()):
        numbers = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
        made["data"] = draw(
            st.lists(numbers, max_size=4) | st.lists(st.text(max_size=9), max_size=3) | VALUES
        )
    else:
        made["parameters"] = {"binary_data_size": draw(st.integers(-1, 20))}
    for key in draw(st.lists(st.sampled_from(sorted(made)), max_size=1)):
        made[key] = draw(VALUES)
    return made


@settings(max_examples=150)
@given(
    model=st.sampled_from(["m", "v"]),
    inputs=st.lists(tensors(), max_size=3),
    more=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), VALUES, max_size=1),
    blob=st.binary(max_size=24),
)
def test_requests_close_to_tensors_never_fault(
    server: Server, model: str, inputs: list[Any], more: dict[str, Any], blob: bytes
) -> None:
    body = infer_request({"inputs": inputs, **more}, blob, model=model, headers="Connection: close\r\n")

    (status,) = exchange(server, [body])

    assert status in (200, 400, 413)
    assert not server.defects


@given(
    body=VALUES, path=st.sampled_from(["/services/m/predict", "/services/m/outcomes", "/v2/repository/index"])
)
def test_any_json_never_faults(server: Server, body: Any, path: str) -> None:
    statuses = exchange(server, [request(json.dumps(body), path=path)])

    assert len(statuses) == 1
    assert statuses[0] < 500
    assert not server.defects


def test_many_half_sent_requests_do_not_stop_the_others(server: Server) -> None:
    stuck = [socket.create_connection(server.address) for _ in range(200)]
    for number, one in enumerate(stuck):
        one.sendall(VALID[number % len(VALID)][: 1 + number % 100])

    assert_still_well(server)
    for one in stuck:
        one.close()
