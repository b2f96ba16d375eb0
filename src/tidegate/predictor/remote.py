"""A model that another server runs, asked by the Open Inference Protocol over HTTP.

The address is the service's own declaration and nothing that a caller sends. Redirects are not
followed: an answer of any status but 200 is a failure.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.field import Field
from tidegate.contract.protocol import datatype_of
from tidegate.contract.schema import Contract
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, PredictorError, Spec

MAX_ANSWER_BYTES = 64 << 20


class RemoteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a spec of kind `remote`.

    Attributes:
        url: Where the server is, such as `https://models.example:8443`.
        model: What it calls the model.
        version: Which version of it; "" for the server's choice.
        timeout_s: Longest time that one call may take, seconds.
        hedge: Whether a second call is made where the first takes longer than most.
    """

    url: str
    model: str
    version: str = ""
    timeout_s: float = 10.0
    hedge: bool = False


class RemoteUnavailable(PredictorError):
    """The server that runs the model cannot be reached, or does not answer as it should."""

    code = "remote_unavailable"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    data: list[Any]
    datatype: str = ""


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Answer).decode


def split_url(url: str) -> SplitResult:
    """Return the parts of a server's address.

    Raises:
        InvalidSetting: It is none.
    """
    parts = urlsplit(url)
    try:
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment or parts.username is not None:
        raise InvalidSetting(
            f"{url[:200]!r} is not the address of a server.",
            hint="For example 'https://models.example:8443'.",
        )
    return parts


def infer_path(options: RemoteOptions) -> str:
    """Return the path of the protocol's infer request."""
    base = split_url(options.url).path.rstrip("/")
    version = f"/versions/{quote(options.version, safe='')}" if options.version else ""
    return f"{base}/v2/models/{quote(options.model, safe='')}{version}/infer"


def encode_rows(contract: Contract, batch: Batch) -> bytes:
    """Return the body of a request."""
    inputs = []
    for field in contract.input.fields:
        column = batch.columns.get(field.name)
        if column is None or (column.dtype.hasobject and all(value is None for value in column.flat)):
            continue  # an optional field that was left out
        shape = list(column.shape) if contract.batched else list(column.shape[1:]) or [1]
        data = column.ravel().tolist()
        inputs.append({"name": field.name, "shape": shape, "datatype": datatype_of(field), "data": data})
    return _encode({"inputs": inputs})


def decode_rows(contract: Contract, body: bytes, n_rows: int) -> Batch:
    """Return the rows of an answer.

    Raises:
        PredictorError: It is not the protocol's, or lacks an output, or has another number of rows.
    """
    try:
        tensors = {tensor.name: tensor for tensor in _decode(body).outputs}
        columns = {field.name: _column(tensors, field, n_rows) for field in contract.output.fields}
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise PredictorError(
            f"The remote server's answer cannot be read: {type(error).__name__}.",
            hint="It has to answer by the Open Inference Protocol, with the contract's outputs by name.",
        ) from error
    return Batch(columns, n_rows)


def _column(tensors: dict[str, _Tensor], field: Field, n_rows: int) -> np.ndarray:
    data = tensors[field.name].data
    if field.type.dtype.hasobject:
        column = np.empty(len(data), dtype=object)
        column[:] = data
    else:
        column = np.array(data, dtype=field.type.dtype)
    return column.reshape((n_rows, *(-1 if size is None else size for size in field.shape)))


def refused(status: int) -> RemoteUnavailable:
    """Return the failure that an answer of this status is."""
    return RemoteUnavailable(
        f"The remote server answered with status {status}.", hint="Its own log says why.", status=status
    )


def unreachable(error: BaseException) -> RemoteUnavailable:
    """Return the failure that a lost or refused connection is."""
    return RemoteUnavailable(
        f"The remote server cannot be reached: {type(error).__name__}.",
        hint="See that it is up, and that the declared address is its own.",
    )


class RemotePredictor:
    """Asks the server one call at a time and waits: for trials and checks, not for a worker's loop."""

    def __init__(self, contract: Contract, options: RemoteOptions) -> None:
        """Take what is declared; nothing is asked yet."""
        self.contract = contract
        self._options = options
        self._parts = split_url(options.url)
        self._path = infer_path(options)
        self._connection: http.client.HTTPConnection | None = None

    def predict(self, batch: Batch) -> Batch:
        """Ask the server; see `Predictor.predict`."""
        connection = self._connection = self._connection or self._connect()
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", self._path, encode_rows(self.contract, batch), headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise unreachable(error) from error
        if answer.status != 200:
            self.close()
            raise refused(answer.status)
        return decode_rows(self.contract, body, batch.n_rows)

    def warm_up(self) -> None:
        """Nothing is known that could be asked."""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout_s = self._parts.hostname, self._parts.port, self._options.timeout_s
        assert host is not None  # split_url has seen to it
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)


def read_options(spec: Spec) -> RemoteOptions:
    """Return the options of a spec of kind `remote`.

    Raises:
        InvalidSetting: They cannot be used.
    """
    try:
        options = msgspec.convert(spec.options, RemoteOptions)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"The options of a remote predictor cannot be used: {error}") from error
    split_url(options.url)
    if not (options.timeout_s > 0 and options.model):
        raise InvalidSetting("A remote predictor has a model's name and a timeout above 0.")
    return options


def build_remote(spec: Spec, context: BuildContext) -> RemotePredictor:
    """Build the predictor of a spec of kind `remote`; see `RemoteOptions`.

    Raises:
        InvalidSetting: The options cannot be used.
    """
    return RemotePredictor(context.contract, read_options(spec))
