"""tritonclient against the server: what people's programs do."""

import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.serving.http.harness import Server, Service, contract_of, scalar, serving
from tidegate.contract.batch import Batch
from tidegate.contract.schema import DataType, Field
from tidegate.serving.endpoint import Tensors

KINDS = {
    "bool": DataType.BOOL,
    "int8": DataType.INT8,
    "int32": DataType.INT32,
    "int64": DataType.INT64,
    "uint8": DataType.UINT8,
    "uint64": DataType.UINT64,
    "fp16": DataType.FLOAT16,
    "fp32": DataType.FLOAT32,
    "fp64": DataType.FLOAT64,
    "bytes": DataType.BYTES,
    "text": DataType.STRING,
}


def echo(batch: Batch) -> dict[str, np.ndarray]:
    return {"y": batch["x"]}


def late(batch: Batch) -> dict[str, np.ndarray]:
    score = batch["distance"] / 1000 + (batch["carrier"] == "UA")
    return {"p_late": np.minimum(score, 1.0)}


def services() -> list[Service]:
    plain = [
        Service(
            f"echo-{name}",
            contract_of([Field("x", kind, shape=(2,))], [Field("y", kind, shape=(2,))]),
            echo,
            tensors=Tensors(names={"x": "INPUT0", "y": "OUTPUT0"}, platform="onnx"),
        )
        for name, kind in KINDS.items()
    ]
    flights = Service(
        "flights",
        contract_of(
            [
                Field("carrier", DataType.CATEGORY, categories=("AA", "UA")),
                scalar("distance", DataType.FLOAT64, gt=0),
                scalar("minute", DataType.INT64, ge=0, lt=1440, optional=True, default=0),
            ],
            [scalar("p_late", DataType.FLOAT64, ge=0, le=1)],
        ),
        late,
        versions=(3,),
        standby=(4,),
    )
    absent = Service("absent", contract_of([scalar("x")], [scalar("y")]), echo, deployed=False)
    return [*plain, flights, absent]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), *services()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    made = InferenceServerClient(server.url, concurrency=2)
    yield made
    made.close()


def values(kind: DataType) -> np.ndarray:
    if kind is DataType.BYTES:
        return np.array([[b"a\xff", b""], [b"\x00", b"long" * 40]], dtype=object)
    if kind is DataType.STRING:
        return np.array([["a", "grün"], ["", "x" * 300]], dtype=object)
    return np.array([[1, 0], [1, 1]], dtype=kind.dtype)


def input_of(name: str, array: np.ndarray, *, binary: bool) -> InferInput:
    made = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array, binary_data=binary)


def plain(array: np.ndarray) -> list[Any]:
    return [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_datatype_comes_back(
    client: InferenceServerClient, name: str, binary_in: bool, binary_out: bool
) -> None:
    sent = values(KINDS[name])
    if name == "bytes" and not (binary_in and binary_out):
        sent = np.array([[b"a", b""], [b"b", b"long" * 40]], dtype=object)

    result = client.infer(
        f"echo-{name}",
        [input_of("INPUT0", sent, binary=binary_in)],
        outputs=[InferRequestedOutput("OUTPUT0", binary_data=binary_out)],
        request_id="r-1",
    )

    back = result.as_numpy("OUTPUT0")
    assert back.shape == (2, 2)
    assert plain(back) == plain(sent)
    assert result.get_response()["id"] == "r-1"
    assert ("data" in result.get_output("OUTPUT0")) != binary_out


def test_outputs_that_are_not_named_come_in_binary(client: InferenceServerClient) -> None:
    sent = values(DataType.FLOAT32)

    result = client.infer("echo-fp32", [input_of("INPUT0", sent, binary=True)])

    assert np.array_equal(result.as_numpy("OUTPUT0"), sent)
    assert "data" not in result.get_output("OUTPUT0")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(client: InferenceServerClient, algorithm: str, binary: bool) -> None:
    sent = np.tile(np.arange(2, dtype=np.float32), (500, 1))

    result = client.infer(
        "echo-fp32",
        [input_of("INPUT0", sent, binary=binary)],
        outputs=[InferRequestedOutput("OUTPUT0", binary_data=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )

    assert np.array_equal(result.as_numpy("OUTPUT0"), sent)


def test_fields_of_a_contract_are_inputs(client: InferenceServerClient) -> None:
    inputs = [
        input_of("carrier", np.array(["UA", "AA"], dtype=object), binary=True),
        input_of("distance", np.array([[100.0], [300.0]]), binary=True),
    ]

    result = client.infer("flights", inputs, model_version="3", timeout=500_000, priority=1)

    assert result.as_numpy("p_late").tolist() == [1.0, 0.3]
    assert result.get_response()["model_version"] == "3"
    assert result.get_response()["parameters"]["prediction_id"]


def test_version_on_standby_answers_by_its_number(client: InferenceServerClient) -> None:
    inputs = [
        input_of("carrier", np.array(["AA"], dtype=object), binary=False),
        input_of("distance", np.array([100.0]), binary=False),
    ]

    assert client.infer("flights", inputs, model_version="4").get_response()["model_version"] == "4"
    assert client.infer("flights", inputs).get_response()["model_version"] == "3"


def test_concurrent_requests_get_their_own_answers(client: InferenceServerClient) -> None:
    pending = [
        client.async_infer(
            "echo-int32",
            [input_of("INPUT0", np.full((2, 2), number, np.int32), binary=number % 2 == 0)],
            request_id=str(number),
        )
        for number in range(20)
    ]

    for number, request in enumerate(pending):
        result = request.get_result()
        assert result.as_numpy("OUTPUT0").tolist() == [[number] * 2] * 2
        assert result.get_response()["id"] == str(number)


def test_health_and_readiness(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert not client.is_server_ready()  # one service has no version
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "3")
    assert client.is_model_ready("flights", "4")
    assert not client.is_model_ready("flights", "5")
    assert not client.is_model_ready("absent")
    assert not client.is_model_ready("nope")


def test_metadata(client: InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "tidegate"
    assert server["version"] == metadata.version("tidegate")
    assert "binary_tensor_data" in server["extensions"]

    assert client.get_model_metadata("flights") == {
        "name": "flights",
        "versions": ["3", "4"],
        "platform": "tidegate",
        "inputs": [
            {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
            {"name": "distance", "datatype": "FP64", "shape": [-1]},
            {"name": "minute", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [{"name": "p_late", "datatype": "FP64", "shape": [-1]}],
    }
    native = client.get_model_metadata("echo-fp16", "1")
    assert native["platform"] == "onnx"
    assert native["inputs"] == [{"name": "INPUT0", "datatype": "FP16", "shape": [-1, 2]}]
    assert native["outputs"] == [{"name": "OUTPUT0", "datatype": "FP16", "shape": [-1, 2]}]


def test_configuration(client: InferenceServerClient) -> None:
    config = client.get_model_config("flights")

    assert config["max_batch_size"] == 10_000
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [
        ("carrier", "TYPE_STRING", [1]),
        ("distance", "TYPE_FP64", [1]),
        ("minute", "TYPE_INT64", [1]),
    ]
    assert [one["optional"] for one in config["input"]] == [False, False, True]
    assert client.get_model_config("echo-bool", "1")["output"] == [
        {"name": "OUTPUT0", "data_type": "TYPE_BOOL", "dims": [2]}
    ]


def test_repository_index(client: InferenceServerClient) -> None:
    index = client.get_model_repository_index()

    assert {"name": "flights", "version": "4", "state": "READY", "reason": ""} in index
    assert [entry["state"] for entry in index if entry["name"] == "absent"] == ["UNAVAILABLE"]


def test_load_and_unload_are_refused_in_words(client: InferenceServerClient) -> None:
    for verb in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="move by releases") as caught:
            verb("flights")
        assert caught.value.status() == "501"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("region", "/key", 64),
        lambda client: client.unregister_cuda_shared_memory(),
        lambda client: client.get_trace_settings(),
        lambda client: client.update_trace_settings("flights", {}),
        lambda client: client.get_log_settings(),
    ],
)
def test_extensions_that_are_not_offered_are_said_so(client: InferenceServerClient, ask: Any) -> None:
    with pytest.raises(InferenceServerException) as refused:
        ask(client)

    assert refused.value.status() == "501"


def test_errors_have_the_protocols_shape(client: InferenceServerClient) -> None:
    sent = input_of("INPUT0", values(DataType.FLOAT32), binary=True)
    for model, version, status, words in (
        ("nope", "", "404", "no model 'nope'"),
        ("echo-fp32", "9", "404", "no version '9'"),
        ("absent", "", "503", "no version ready"),
        ("flights", "", "400", "has no input 'INPUT0'"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            client.infer(model, [sent], model_version=version)
        assert caught.value.status() == status

    with pytest.raises(InferenceServerException, match="Field 'distance' of row 0 must be a number > 0"):
        client.infer(
            "flights",
            [
                input_of("carrier", np.array(["AA"], dtype=object), binary=True),
                input_of("distance", np.array([-1.0]), binary=True),
            ],
        )
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer("echo-fp32", [sent], outputs=[InferRequestedOutput("OUTPUT0", class_count=2)])
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("absent")
    assert caught.value.status() == "503"


def test_statistics_count_what_was_asked(tmp_path: Any) -> None:
    began_ms = time.time_ns() // 1_000_000

    def picky(batch: Batch) -> dict[str, np.ndarray]:
        if (batch["x"] < 0).any():
            raise ValueError("negative")
        return {"y": batch["x"]}

    contract = contract_of([scalar("x")], [scalar("y")])
    counted = Service("counted", contract, picky, standby=(2,))
    with serving(tmp_path, counted, Service("other", contract, echo)) as server:
        client = InferenceServerClient(server.url)
        assert client.is_server_ready()
        for rows in (1, 3, 4):
            client.infer("counted", [input_of("x", np.ones(rows, np.float32), binary=True)])
        with pytest.raises(InferenceServerException):
            client.infer("counted", [input_of("x", -np.ones(1, np.float32), binary=True)])
        client.infer("counted", [input_of("x", np.ones(5, np.float32), binary=True)], model_version="2")

        both = client.get_inference_statistics("counted")["model_stats"]
        second = client.get_inference_statistics("counted", "2")["model_stats"]
        every = client.get_inference_statistics()["model_stats"]
        client.close()

    first = both[0]
    assert (first["name"], first["version"]) == ("counted", "1")
    assert first["inference_count"] == 8
    assert first["execution_count"] == 3
    stats = first["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 1)
    assert stats["success"]["ns"] > 0
    assert stats["compute_infer"]["count"] == 3
    assert stats["queue"] == {"count": 0, "ns": 0}
    assert first["batch_stats"] == []
    assert began_ms <= first["last_inference"] <= time.time_ns() // 1_000_000
    assert every[-1]["last_inference"] == 0
    assert [(one["version"], one["inference_count"]) for one in both] == [("1", 8), ("2", 5)]
    assert second == both[1:]
    assert [(one["name"], one["inference_count"]) for one in every] == [
        ("counted", 8),
        ("counted", 5),
        ("other", 0),
    ]
