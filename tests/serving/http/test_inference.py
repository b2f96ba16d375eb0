"""The Open Inference Protocol's infer request over real sockets."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serving.http.harness import Server, Service, contract_of, records, scalar, serving
from tidegate.contract.batch import Batch
from tidegate.contract.objective import Limits
from tidegate.contract.schema import DataType, Field, Role
from tidegate.core.identifier import parse_uuid
from tidegate.predictor.protocol import PredictorError
from tidegate.serving.endpoint import Tensors

FIELDS = tuple(f"f{number}" for number in range(4))
HEADER = "Inference-Header-Content-Length"


def total(batch: Batch) -> dict[str, np.ndarray]:
    return {"y": batch.matrix(FIELDS, np.float32).sum(axis=1), "n": np.full(batch.n_rows, 4, np.int64)}


def mixed(batch: Batch) -> dict[str, np.ndarray]:
    names = [f"{c}-{n}" for c, n in zip(batch["carrier"], batch["count"], strict=True)]
    out = np.empty(batch.n_rows, dtype=object)
    out[:] = names
    return {"label": out, "late": batch["delay"] > 15, "doubled": batch["trace"] * 2}


def picky(batch: Batch) -> dict[str, np.ndarray]:
    if (batch["x"] < 0).any():
        raise PredictorError("The model does not like it.")
    return {"y": np.where(batch["x"] > 100, np.float32("nan"), batch["x"])}


def ragged(batch: Batch) -> dict[str, np.ndarray]:
    out = np.empty(batch.n_rows, dtype=object)
    for row, size in enumerate(batch["size"]):
        out[row] = np.arange(size, dtype=np.float32)
    return {"values": out}


def services() -> list[Service]:
    return [
        Service(
            "sum",
            contract_of(
                [scalar(name, ge=-1e6) for name in FIELDS], [scalar("y"), scalar("n", DataType.INT64)]
            ),
            total,
            tensors=Tensors(matrix="input", matrix_fields=FIELDS, platform="onnx"),
            limits=Limits(max_rows=1000, max_body_bytes=1 << 20),
        ),
        Service(
            "mixed",
            contract_of(
                [
                    Field("carrier", DataType.CATEGORY, categories=("AA", "UA"), roles=(Role.KEY,)),
                    scalar("count", DataType.INT32, ge=1, le=9),
                    scalar("delay", DataType.FLOAT64, optional=True),
                    Field("trace", DataType.FLOAT32, shape=(2,)),
                ],
                [
                    scalar("label", DataType.STRING),
                    scalar("late", DataType.BOOL),
                    Field("doubled", DataType.FLOAT32, shape=(2,)),
                ],
            ),
            mixed,
            versions=(1, 2),
            standby=(3,),
            awaited=(4,),
        ),
        Service(
            "vector",
            contract_of(
                [Field("x", DataType.FLOAT32, shape=(3,))], [Field("y", DataType.FLOAT32, shape=(3,))]
            ),
            lambda batch: {"y": batch["x"] + 1},
            tensors=Tensors(names={"x": "INPUT", "y": "OUTPUT"}),
        ),
        Service("picky", contract_of([scalar("x")], [scalar("y")]), picky),
        Service(
            "image",
            contract_of(
                [Field("pixels", DataType.UINT8, shape=(2, 3))],
                [Field("mean", DataType.FLOAT32, shape=(3,))],
                batched=False,
            ),
            lambda batch: {"mean": batch["pixels"].mean(axis=1, dtype=np.float32)},
        ),
        Service(
            "blob",
            contract_of([scalar("data", DataType.BYTES)], [scalar("back", DataType.BYTES)]),
            lambda batch: {"back": batch["data"]},
        ),
        Service(
            "ragged",
            contract_of([scalar("size", DataType.INT32)], [Field("values", DataType.FLOAT32, shape=(None,))]),
            ragged,
        ),
        Service(
            "double",
            contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)]),
            lambda batch: {"y": batch["x"]},
        ),
        Service("absent", contract_of([scalar("x")], [scalar("y")]), picky, deployed=False),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), *services()) as running:
        yield running


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **parameters: Any) -> dict[str, Any]:
    sent: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if data is not None:
        sent["data"] = data
    if parameters:
        sent["parameters"] = parameters
    return sent


def infer(server: Server, model: str, *inputs: dict[str, Any], **more: Any) -> tuple[int, Any]:
    status, answer, _ = server.request("POST", f"/v2/models/{model}/infer", {"inputs": inputs, **more})
    return status, answer


def infer_binary(
    server: Server, model: str, request: Any, blob: bytes, **headers: str
) -> tuple[int, Any, list[bytes]]:
    """Send binary tensors; return status, the answer's JSON part and its binary tensors."""
    part = json.dumps(request).encode()
    status, content, found = server.request(
        "POST", f"/v2/models/{model}/infer", part + blob, {HEADER: str(len(part)), **headers}
    )
    return status, *split(content, found)


def split(content: Any, headers: dict[str, str]) -> tuple[Any, list[bytes]]:
    if HEADER.lower() not in headers:
        return content, []
    assert headers["content-type"] == "application/octet-stream"
    length = int(headers[HEADER.lower()])
    answer, rest = json.loads(content[:length]), content[length:]
    blobs = []
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            blobs.append(rest[:size])
            rest = rest[size:]
    assert rest == b""
    return answer, blobs


def outputs_of(answer: Any) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


# --- JSON ---


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3, 4], [5, 6, 7, 8]]])
def test_matrix_is_answered_flat_and_nested(server: Server, data: Any) -> None:
    status, answer = infer(server, "sum", tensor("input", "FP32", [2, 4], data), id="request 7")

    assert status == 200
    assert answer["model_name"] == "sum"
    assert answer["model_version"] == "1"
    assert answer["id"] == "request 7"
    assert parse_uuid(answer["parameters"]["prediction_id"])
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2], "data": [10.0, 26.0]},
        {"name": "n", "datatype": "INT64", "shape": [2], "data": [4, 4]},
    ]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_fields_are_tensors_of_their_own(server: Server, shape: list[int]) -> None:
    inputs = [tensor(name, "FP32", shape, [1, 2]) for name in FIELDS]

    status, answer = infer(server, "sum", *inputs)

    assert status == 200
    assert "id" not in answer
    assert outputs_of(answer)["y"] == [4.0, 8.0]


def test_text_numbers_and_vectors_go_together(server: Server) -> None:
    inputs = [
        tensor("carrier", "BYTES", [2], ["AA", "UA"]),
        tensor("count", "INT32", [2, 1], [[1], [2]]),
        tensor("delay", "FP64", [2], [20.5, None]),
        tensor("trace", "FP32", [2, 2], [[1, 2], [3, 4]]),
    ]

    status, answer = infer(server, "mixed", *inputs)

    assert status == 200
    assert outputs_of(answer) == {
        "label": ["AA-1", "UA-2"],
        "late": [True, False],
        "doubled": [2.0, 4.0, 6.0, 8.0],
    }
    assert [output["datatype"] for output in answer["outputs"]] == ["BYTES", "BOOL", "FP32"]
    assert answer["outputs"][2]["shape"] == [2, 2]


def test_optional_input_may_be_left_out(server: Server) -> None:
    inputs = [
        tensor("carrier", "BYTES", [1], ["AA"]),
        tensor("count", "INT32", [1], [1]),
        tensor("trace", "FP32", [1, 2], [1, 2]),
    ]

    status, answer = infer(server, "mixed", *inputs)

    assert status == 200
    assert outputs_of(answer)["late"] == [False]


def test_native_names_are_taken_and_listed(server: Server) -> None:
    for name in ("INPUT", "x"):
        status, answer = infer(server, "vector", tensor(name, "FP32", [1, 3], [1, 2, 3]))
        assert status == 200
        assert outputs_of(answer) == {"OUTPUT": [2.0, 3.0, 4.0]}

    status, answer = infer(server, "vector", tensor("x", "FP32", [1, 3], [1, 2, 3]), outputs=[{"name": "y"}])
    assert outputs_of(answer) == {"y": [2.0, 3.0, 4.0]}


def test_datatype_that_loses_nothing_is_taken(server: Server) -> None:
    for datatype in ("FP16", "FP64", "INT8", "UINT32"):
        status, answer = infer(server, "vector", tensor("INPUT", datatype, [1, 3], [1, 2, 3]))
        assert (status, outputs_of(answer)) == (200, {"OUTPUT": [2.0, 3.0, 4.0]})


@pytest.mark.parametrize(
    ("model", "datatype", "largest"), [("picky", "FP32", 2**24), ("double", "FP64", 2**53)]
)
@pytest.mark.parametrize("is_binary", [False, True])
def test_integer_that_the_datatype_would_round_is_refused(
    server: Server, model: str, datatype: str, largest: int, is_binary: bool
) -> None:
    def ask(value: int) -> Any:
        data = None if is_binary else [1, value]
        more = {"binary_data_size": 16} if is_binary else {}
        request = {"inputs": [tensor("x", "INT64", [2], data, **more)]}
        blob = np.array([1, value], "<i8").tobytes() if is_binary else b""
        return infer_binary(server, model, request, blob)[:2]

    status, answer = ask(largest + 1)
    assert status == 400
    assert f"Field 'x' of row 1 has an integer that {datatype.replace('FP', 'float')}" in answer["error"]
    status, answer = ask(largest)
    assert status == (500 if model == "picky" else 200)  # the picky model does not like large numbers


def test_chosen_outputs_come_in_the_order_asked(server: Server) -> None:
    status, answer = infer(
        server,
        "sum",
        tensor("input", "FP32", [1, 4], [1, 2, 3, 4]),
        outputs=[{"name": "n"}, {"name": "y"}],
    )

    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == ["n", "y"]


def test_unknown_members_and_null_members_are_ignored(server: Server) -> None:
    sent = tensor("input", "FP32", [1, 4], [1, 2, 3, 4], content_type="np", x=[1])

    status, _ = infer(
        server,
        "sum",
        sent,
        id=None,
        outputs=None,
        model_name="sum",
        parameters={
            "sequence_id": 4,
            "headers": None,
            "priority": 1,
            "mine": "x",
            "binary_data_output": None,
            "timeout": None,
            "criticality": None,
        },
    )
    assert status == 200

    sent["parameters"] = None
    assert infer(server, "sum", sent, parameters=None)[0] == 200


def test_model_without_batching_takes_one_row_of_its_own_shape(server: Server) -> None:
    status, answer = infer(server, "image", tensor("pixels", "UINT8", [2, 3], [[1, 2, 3], [3, 4, 5]]))

    assert status == 200
    assert answer["outputs"] == [{"name": "mean", "datatype": "FP32", "shape": [3], "data": [2.0, 3.0, 4.0]}]
    status, answer = infer(server, "image", tensor("pixels", "UINT8", [1, 2, 3], [1] * 6))
    assert (status, answer) == (
        400,
        {"error": "Input 'pixels' must have the shape [2, 3]. Got [1, 2, 3]."},
    )


def test_text_of_a_bytes_field_is_utf8(server: Server) -> None:
    status, answer = infer(server, "blob", tensor("data", "BYTES", [2], ["grün", ""]))

    assert (status, outputs_of(answer)) == (200, {"back": ["grün", ""]})


def test_bytes_that_are_no_text_travel_as_base64(server: Server) -> None:
    status, answer = infer(
        server, "blob", tensor("data", "BYTES", [2], ["/wA=", "YQ=="], content_type="base64")
    )

    assert status == 200
    assert answer["outputs"][0]["data"] == ["/wA=", "YQ=="]
    assert answer["outputs"][0]["parameters"] == {"content_type": "base64"}


def test_rows_of_one_shape_make_one_tensor_and_others_do_not(server: Server) -> None:
    status, answer = infer(server, "ragged", tensor("size", "INT32", [2], [2, 2]))
    assert (status, answer["outputs"][0]["shape"], outputs_of(answer)["values"]) == (
        200,
        [2, 2],
        [0, 1, 0, 1],
    )

    status, answer = infer(server, "ragged", tensor("size", "INT32", [2], [2, 3]))
    assert status == 501
    assert "differ in shape" in answer["error"]


# --- binary ---


def test_binary_tensors_both_ways(server: Server) -> None:
    rows = np.arange(8, dtype="<f4").reshape(2, 4)
    request = {
        "id": "b",
        "inputs": [tensor("input", "FP32", [2, 4], binary_data_size=32)],
        "parameters": {"binary_data_output": True},
    }

    status, answer, blobs = infer_binary(server, "sum", request, rows.tobytes())

    assert status == 200
    assert answer["id"] == "b"
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "n", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
    ]
    assert np.frombuffer(blobs[0], "<f4").tolist() == [6.0, 22.0]
    assert np.frombuffer(blobs[1], "<i8").tolist() == [4, 4]


def test_an_outputs_own_setting_wins_over_the_requests(server: Server) -> None:
    request = {
        "inputs": [tensor("input", "FP32", [1, 4], binary_data_size=16)],
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "n"}],
        "parameters": {"binary_data_output": True},
    }

    status, answer, blobs = infer_binary(server, "sum", request, bytes(16))

    assert status == 200
    assert answer["outputs"][0]["data"] == [0.0]
    assert blobs == [struct.pack("<q", 4)]

    status, answer = infer(
        server,
        "sum",
        tensor("input", "FP32", [1, 4], [0] * 4),
        outputs=[{"name": "y"}],
    )
    assert answer["outputs"][0]["data"] == [0.0]


def test_several_binary_tensors_follow_in_the_order_listed(server: Server) -> None:
    def element(text: str) -> bytes:
        return struct.pack("<I", len(text)) + text.encode()

    carriers = element("UA") + element("AA")
    request = {
        "inputs": [
            tensor("count", "INT32", [2], binary_data_size=8),
            tensor("trace", "FP32", [2, 2], [1, 2, 3, 4]),
            tensor("carrier", "BYTES", [2, 1], binary_data_size=len(carriers)),
            tensor("delay", "FP64", [2], binary_data_size=16),
        ],
        "outputs": [
            {"name": "label", "parameters": {"binary_data": True}},
            {"name": "late", "parameters": {"binary_data": True}},
        ],
    }
    blob = struct.pack("<2i", 3, 4) + carriers + struct.pack("<2d", 16, 14)

    status, answer, blobs = infer_binary(server, "mixed", request, blob)

    assert (status, len(answer["outputs"])) == (200, 2)
    assert blobs == [element("UA-3") + element("AA-4"), b"\x01\x00"]


def test_raw_body_is_the_one_input(server: Server) -> None:
    body = struct.pack("<3f", 1, 2, 3)

    status, content, headers = server.request("POST", "/v2/models/vector/infer", body, {HEADER: "0"})

    answer, blobs = split(content, headers)
    assert status == 200
    assert answer["outputs"][0]["shape"] == [1, 3]
    assert np.frombuffer(blobs[0], "<f4").tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("blob", b"", struct.pack("<I", 0)),
        ("blob", b"\xff\x00any", struct.pack("<I", 5) + b"\xff\x00any"),
        ("image", bytes([1, 2, 3, 3, 4, 5]), struct.pack("<3f", 2, 3, 4)),
        ("picky", struct.pack("<f", 7), struct.pack("<f", 7)),
    ],
)
def test_raw_body_of_other_models(server: Server, model: str, body: bytes, expected: bytes) -> None:
    status, content, headers = server.request("POST", f"/v2/models/{model}/infer", body, {HEADER: "0"})

    assert status == 200
    assert split(content, headers)[1] == [expected]


def test_raw_body_of_a_matrix(server: Server) -> None:
    body = struct.pack("<4f", 1, 2, 3, 4)

    status, content, headers = server.request("POST", "/v2/models/sum/infer", body, {HEADER: "0"})

    assert status == 200
    assert split(content, headers)[1][0] == struct.pack("<f", 10)


@pytest.mark.parametrize(
    ("model", "body"),
    [("mixed", b"1234"), ("vector", b"12345"), ("sum", b"1"), ("image", bytes(7)), ("vector", b"")],
)
def test_raw_body_that_does_not_fit_is_400(server: Server, model: str, body: bytes) -> None:
    status, answer, _ = server.request("POST", f"/v2/models/{model}/infer", body, {HEADER: "0"})

    assert status == 400
    assert answer["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_binary_request_counts_its_json_uncompressed(server: Server, encoding: str) -> None:
    request = {"inputs": [tensor("INPUT", "FP32", [1, 3], binary_data_size=12)]}
    part = json.dumps(request).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]

    status, answer, _ = server.request(
        "POST",
        "/v2/models/vector/infer",
        pack(part + struct.pack("<3f", 1, 2, 3)),
        {HEADER: str(len(part)), "Content-Encoding": encoding},
    )

    assert (status, outputs_of(answer)) == (200, {"OUTPUT": [2.0, 3.0, 4.0]})


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate;q=0.5, gzip;q=0.8", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("gzip;q=x", None),
    ],
)
def test_large_answer_is_compressed_where_asked(server: Server, accepted: str, coding: str | None) -> None:
    body = {"inputs": [tensor("INPUT", "FP32", [200, 3], [1.5] * 600)]}

    status, content, headers = server.request(
        "POST", "/v2/models/vector/infer", body, {"Accept-Encoding": accepted}
    )

    assert status == 200
    assert headers.get("content-encoding") == coding
    if coding is not None:
        content = json.loads(zlib.decompress(content, 47))
    assert outputs_of(content)["OUTPUT"] == [2.5] * 600


def test_small_answer_is_not_compressed(server: Server) -> None:
    body = {"inputs": [tensor("INPUT", "FP32", [1, 3], [1, 2, 3])]}

    _, _, headers = server.request("POST", "/v2/models/vector/infer", body, {"Accept-Encoding": "gzip"})

    assert "content-encoding" not in headers


# --- refusals ---

GOOD = tensor("input", "FP32", [1, 4], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([tensor("other", "FP32", [1, 4], [1] * 4)], "has no input 'other'. Its inputs: f0, f1, f2, f3."),
        ([tensor("input", "FP32", [1, 5], [1] * 5)], "must have the shape [-1, 4]. Got [1, 5]."),
        ([tensor("input", "FP32", [4], [1] * 4)], "must have the shape [-1, 4]. Got [4]."),
        ([tensor("input", "FP32", [1, 4], [1] * 3)], "has 3 elements"),
        ([tensor("input", "FP32", [0, 4], [])], "no rows"),
        ([tensor("input", "BF16", [1, 4], [1] * 4)], "FP32: every BF16"),
        ([tensor("input", "BYTES", [1, 4], ["1"] * 4)], "'f0' must be float32 (FP32). Got object (BYTES)."),
        ([tensor("input", "FP32", [1, 4], [1, None, 1, 1])], "Field 'f1' of row 0 must be a number"),
        ([tensor("input", "FP64", [1, 4], [1, 1e300, 1, 1])], "Field 'f1' of row 0"),
        ([tensor("input", "FP32", [1, 4], [1, 2, 3, -2e6])], "Field 'f3' of row 0 must be a number"),
        ([GOOD, GOOD], "'f0' is given twice"),
        ([GOOD, tensor("f1", "FP32", [1], [1])], "'f1' is given twice"),
        ([tensor("f1", "FP32", [1], [1])], "Field 'f0' is missing"),
        ([tensor("input", "FP32", [1, 4])], "has no data"),
        (
            [tensor("input", "FP32", [1, 4], [1] * 4, binary_data_size=0)],
            "both 'data' and 'binary_data_size'",
        ),
        ([tensor("input", "FP32", [1, 4], binary_data_size=16)], "announces 16 bytes of data; 0 are left"),
        ([tensor("input", "FP32", [1, 4], shared_memory_region="r")], "shared memory region"),
        ([tensor("input", "FP32", [1, -4], [1] * 4)], "$.inputs[0].shape[1]"),
        ([tensor("input", "FP32", [1] * 20, [1])], "$.inputs[0].shape"),
        ([], "at least one input"),
    ],
)
def test_bad_inputs_are_400_in_words(server: Server, inputs: list[Any], words: str) -> None:
    status, answer = infer(server, "sum", *inputs)

    assert status == 400
    assert set(answer) == {"error"}
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"outputs": [{"name": "z"}]}, 400, "has no output 'z'. Its outputs: y, n."),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, 400, "asked for twice"),
        ({"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, 400, "classification"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, 400, "shared memory"),
        ({"parameters": {"timeout": -5}}, 400, "'timeout' is -5"),
        ({"parameters": {"timeout": "1"}}, 400, "$.parameters.timeout"),
        ({"parameters": {"priority": -1}}, 400, "$.parameters.priority"),
        ({"id": 5}, 400, "$.id"),
    ],
)
def test_bad_wishes_are_400_in_words(server: Server, more: dict[str, Any], status: int, words: str) -> None:
    got, answer = infer(server, "sum", GOOD, **more)

    assert got == status
    assert words in answer["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b'{"inputs": NaN}', b'{"inputs":' + b"[" * 50_000, b"null", b'{"x": 1}'],
)
def test_body_that_is_no_request_is_400(server: Server, body: bytes) -> None:
    status, answer, _ = server.request("POST", "/v2/models/sum/infer", body)

    assert status == 400
    assert "not an inference request" in answer["error"]
    assert ("binary data" in answer["error"]) is (b"NaN" in body)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "999999", "", "9" * 30])
def test_bad_json_length_is_400(server: Server, length: str) -> None:
    status, answer, _ = server.request("POST", "/v2/models/sum/infer", b"{}", {HEADER: length})

    assert status == 400
    assert "Inference-Header-Content-Length" in answer["error"]


@pytest.mark.parametrize("size", [15, 17])
def test_binary_data_that_is_short_or_long_is_400(server: Server, size: int) -> None:
    request = {"inputs": [tensor("input", "FP32", [1, 4], binary_data_size=16)]}

    status, answer, _ = infer_binary(server, "sum", request, bytes(size))

    assert status == 400
    assert "bytes" in answer["error"]


def test_binary_nan_and_infinity_are_refused(server: Server) -> None:
    for bad in (np.nan, np.inf):
        request = {"inputs": [tensor("input", "FP32", [1, 4], binary_data_size=16)]}
        status, answer, _ = infer_binary(server, "sum", request, np.array([1, bad, 1, 1], "<f4").tobytes())
        assert status == 400
        assert "Field 'f1' of row 0" in answer["error"]


def test_too_many_rows_are_413(server: Server) -> None:
    status, answer = infer(server, "sum", tensor("input", "FP32", [1001, 4], [0] * 4004))

    assert status == 413
    assert "at most 1000 rows" in answer["error"]


def test_too_large_a_body_is_413(server: Server) -> None:
    status, answer, _ = server.request("POST", "/v2/models/sum/infer", bytes((1 << 20) + 1))

    assert status == 413
    assert "1048576 bytes" in answer["error"]


def test_value_outside_a_category_names_the_field(server: Server) -> None:
    inputs = [
        tensor("carrier", "BYTES", [2], ["AA", "XX"]),
        tensor("count", "INT32", [2], [1, 2]),
        tensor("trace", "FP32", [2, 2], [1, 2, 3, 4]),
    ]

    status, answer = infer(server, "mixed", *inputs)

    assert status == 400
    assert "Field 'carrier' of row 1 must be one of 'AA', 'UA'" in answer["error"]


def test_bytes_that_are_no_text_are_refused_for_a_text_field(server: Server) -> None:
    request = {
        "inputs": [
            tensor("carrier", "BYTES", [1], binary_data_size=6),
            tensor("count", "INT32", [1], [1]),
            tensor("trace", "FP32", [1, 2], [1, 2]),
        ]
    }

    status, answer, _ = infer_binary(server, "mixed", request, struct.pack("<I", 2) + b"\xff\xfe")

    assert status == 400
    assert "'carrier'" in answer["error"]


def test_model_that_fails_or_breaks_its_contract_is_500(server: Server) -> None:
    status, answer = infer(server, "picky", tensor("x", "FP32", [1], [-1]))
    assert (status, set(answer)) == (500, {"error"})

    status, answer = infer(server, "picky", tensor("x", "FP32", [1], [101]))
    assert status == 500
    assert "against its contract" in answer["error"]

    assert infer(server, "picky", tensor("x", "FP32", [1], [1]))[0] == 200


# --- versions and timeouts ---

MIXED = [
    tensor("carrier", "BYTES", [1], ["AA"]),
    tensor("count", "INT32", [1], [1]),
    tensor("trace", "FP32", [1, 2], [1, 2]),
]


def test_version_in_the_path_is_the_version_that_answers(server: Server) -> None:
    for number in (1, 2, 3):
        status, answer = infer(server, f"mixed/versions/{number}", *MIXED)
        assert (status, answer["model_version"]) == (200, str(number))


def test_key_decides_the_version_where_the_path_does_not(server: Server) -> None:
    def answered(carrier: str) -> set[str]:
        inputs = [tensor("carrier", "BYTES", [1], [carrier]), *MIXED[1:]]
        return {infer(server, "mixed", *inputs)[1]["model_version"] for _ in range(5)}

    assert all(len(answered(carrier)) == 1 for carrier in ("AA", "UA"))


def test_unknown_version_and_model_are_404(server: Server) -> None:
    status, answer = infer(server, "mixed/versions/9", *MIXED)
    assert status == 404
    assert answer["error"].endswith("has no version '9' here. Versions that can be named: 1, 2, 3, 4.")

    status, answer = infer(server, "nope", GOOD)
    assert status == 404
    assert answer["error"].startswith("There is no model 'nope' here. Known: absent, blob")


def test_model_that_is_not_loaded_is_503(server: Server) -> None:
    status, answer = infer(server, "absent", tensor("x", "FP32", [1], [1]))

    assert status == 503
    assert "no version ready" in answer["error"]


def test_version_in_the_path_that_the_route_names_is_503_until_it_is_loaded(server: Server) -> None:
    base = "/v2/models/mixed/versions/4"
    told = "Version 4 of service 'mixed' is not loaded in this worker."

    infer_status, answer, _ = server.request("POST", f"{base}/infer", {"inputs": MIXED})
    assert (infer_status, answer["error"].startswith(told)) == (503, True)
    assert [server.request("GET", base + path)[0] for path in ("", "/config", "/stats")] == [503, 503, 200]
    status, answer, _ = server.request("GET", f"{base}/ready")
    assert (status, answer) == (400, {"name": "mixed", "ready": False, "error": told})


def test_candidate_of_a_wider_contract_gets_what_it_takes(tmp_path: Any) -> None:
    x, y = scalar("x", DataType.FLOAT64), scalar("y", DataType.FLOAT64)
    narrow = contract_of([x], [y])
    wide = contract_of([x, scalar("more", DataType.FLOAT64, optional=True, default=0.5)], [y])

    def model(batch: Batch) -> dict[str, np.ndarray]:
        more = batch["more"] if "more" in batch.columns else 0.0
        return {"y": batch["x"] + more}

    split_service = Service("split", narrow, model, versions=(1, 2), contracts={2: wide})
    with serving(tmp_path, split_service) as server:
        seen = set()
        for _ in range(40):
            status, answer = infer(server, "split", tensor("x", "FP64", [1], [1]))
            assert status == 200
            seen.add((answer["model_version"], outputs_of(answer)["y"][0]))
        native = set()
        for _ in range(40):
            status, answer, _ = server.request("POST", "/services/split/predict", {"x": 1})
            assert status == 200, answer
            native.add((str(answer["version"]), answer["output"]["y"]))

    assert seen == native == {("1", 1.0), ("2", 1.5)}


@pytest.mark.parametrize(
    ("headers", "parameters", "way"),
    [
        ({"tidegate-timeout-ms": "20"}, {}, "'tidegate-timeout-ms'"),
        ({"tidegate-timeout-ms": "9000"}, {"timeout": 20_000}, "the parameter 'timeout'"),
    ],
)
def test_whoever_was_out_of_time_is_told_the_way_to_allow_more(
    tmp_path: Any, headers: dict[str, str], parameters: dict[str, Any], way: str
) -> None:
    slow = Service("slow", contract_of([scalar("x")], [scalar("y")]), lambda b: {"y": b["x"]}, held=True)
    request = {"inputs": [tensor("x", "FP32", [1], [1])], "parameters": parameters}
    with serving(tmp_path, slow) as server:
        status, answer, _ = server.request("POST", "/v2/models/slow/infer", request, headers)

    assert status == 503
    assert f"Allow more time by {way}, or" in answer["error"]


def test_timeout_parameter_ends_the_wait(tmp_path: Any) -> None:
    slow = Service("slow", contract_of([scalar("x")], [scalar("y")]), lambda b: {"y": b["x"]}, held=True)
    with serving(tmp_path, slow) as server:
        sent = tensor("x", "FP32", [1], [1])

        status, answer = infer(server, "slow", sent, parameters={"timeout": 20_000})

        assert status == 503
        assert "did not answer in time" in answer["error"]


def test_every_answered_prediction_is_in_the_journal(tmp_path: Any) -> None:
    contract = contract_of([Field("x", DataType.FLOAT32, shape=(3,))], [scalar("y")])
    echo = Service("echo", contract, lambda batch: {"y": batch["x"].sum(axis=1)})
    with serving(tmp_path, echo) as server:
        answers = [
            infer(server, "echo", tensor("x", "FP32", [2, 3], list(range(n, n + 6))), id=f"caller-{n}")[1]
            for n in range(3)
        ]
        pinned = infer(server, "echo/versions/1", tensor("x", "FP32", [1, 3], [1, 2, 3]))[1]

    kept: dict[str, list[Any]] = {}
    for record in records(tmp_path):
        kept.setdefault(record["id"], []).append(record)
    for number, answer in enumerate(answers):
        rows = kept[answer["parameters"]["prediction_id"]]
        assert [row["y"] for row in rows] == outputs_of(answer)["y"]
        assert {row["caller"] for row in rows} == {f"caller-{number}"}
        assert {row["arm"] for row in rows} == {"stable"}
    assert [row["arm"] for row in kept[pinned["parameters"]["prediction_id"]]] == ["pinned"]
    assert len(kept) == 4
