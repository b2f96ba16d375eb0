"""The Open Inference Protocol's infer request: tensors in JSON or binary, answered in either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from tidegate.contract.batch import Batch
from tidegate.contract.diagnose import names_no_number
from tidegate.contract.objective import Criticality
from tidegate.contract.violation import MalformedBody
from tidegate.core.error import TidegateError
from tidegate.core.identifier import format_uuid
from tidegate.serving.call import Call, DeadlineExceeded
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Arm, Endpoint, LoadedVersion
from tidegate.serving.http.coding import MIN_COMPRESSED_BYTES, compress
from tidegate.serving.http.door import MAX_TIMEOUT_MS, Door, Wish, read_criticality
from tidegate.serving.http.error import protocol_error, retry_after
from tidegate.serving.http.exchange import Exchange, HttpError, internal_error
from tidegate.serving.http.native import MAX_CALLER_ID, identify
from tidegate.serving.http.pin import pinned_arm
from tidegate.serving.http.signature import RequestedOutput, Signature
from tidegate.serving.http.tensor import InputTensor, OutputTensor, TensorError

JSON_LENGTH_HEADER = b"inference-header-content-length"
BINARY_TYPE = b"application/octet-stream"

_NO_BLOB = memoryview(b"")
_encode = msgspec.json.Encoder().encode


class WantedParameters(msgspec.Struct, frozen=True):
    """Parameters of a requested output; others are ignored.

    Attributes:
        binary_data: Whether it is to be binary; None leaves it to the request.
        classification: Not supported; named to be refused.
        shared_memory_region: Not supported; named to be refused.
    """

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a request names."""

    name: str
    parameters: WantedParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True):
    """Parameters of a request; others are ignored.

    Attributes:
        binary_data_output: Whether outputs are to be binary where they do not say themselves; None: not.
        timeout: Time the request may take, microseconds; 0 leaves it to the service.
        priority: 1 is highest and means `critical`, 2 `normal`, what is above `batch`; 0 leaves it to
            the header or the service.
        criticality: The same by name; goes before the priority.
    """

    binary_data_output: bool | None = None
    timeout: float | None = None
    priority: Annotated[int, msgspec.Meta(ge=0)] | None = None
    criticality: str | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """The JSON part of an infer request."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedOutput] | None = None
    parameters: RequestParameters | None = None


class AnswerParameters(msgspec.Struct, omit_defaults=True):
    """What an answer says beside its tensors.

    Attributes:
        prediction_id: Id of the first row's prediction; the row numbered k has `<id>.<k>`.
        answered_by: Name of the fallback that answered, where the model did not.
        reason: Code of the error that made it.
    """

    prediction_id: str
    answered_by: str = ""
    reason: str = ""


class InferAnswer(msgspec.Struct, omit_defaults=True):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    parameters: AnswerParameters
    outputs: list[OutputTensor]
    id: str = ""


_NOTHING_WANTED = WantedParameters()
_RAW = InferRequest([], parameters=RequestParameters(binary_data_output=True))
_decode = msgspec.json.Decoder(InferRequest).decode


class ProtocolFace:
    """What the protocol's handlers of one service share: the shape of errors and the service's name."""

    def __init__(self, plane: DataPlane, service: str = "", *, max_body_bytes: int = 1 << 16) -> None:
        self.plane = plane
        self.service = service
        self.max_body_bytes = max_body_bytes
        self.door: Door | None = None

    def admit(self, exchange: Exchange) -> None:
        """Take every request."""

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Answer with the protocol's error body."""
        self.plane.count_refusal(self.service, error.code, error.context.get("field"))
        respond_error(exchange, error)


def respond_error(exchange: Exchange, error: TidegateError) -> None:
    """Send the protocol's error body."""
    status, body = protocol_error(error)
    exchange.respond(status, body, headers=retry_after(error))


class InferHandler(ProtocolFace):
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    def __init__(
        self,
        plane: DataPlane,
        endpoint: Endpoint,
        signatures: Mapping[LoadedVersion, Signature],
        *,
        version: LoadedVersion | None = None,
    ) -> None:
        """Serve a routed service.

        Args:
            plane: The data plane.
            endpoint: The service's endpoint.
            signatures: The tensors of its versions.
            version: The version that the path names, None where the route chooses.
        """
        self._endpoint = endpoint
        self._pinned: Arm | None = None
        self._signature: Signature | None = None
        limit = 1 << 20
        if version is None and endpoint.arms:
            version = endpoint.stable
        elif version is not None:
            self._pinned = endpoint.pin(version.number)
        if version is not None:
            self._signature = signatures[version]
            limit = version.limits.max_body_bytes
        super().__init__(plane, endpoint.service, max_body_bytes=limit)
        if version is not None:
            self.door = Door(plane, version, shape=protocol_error)

    def admit(self, exchange: Exchange) -> None:
        """Refuse what could not be answered in time."""
        door = self.door
        if door is None:
            _ = self._endpoint.stable  # says what is missing
            return
        exchange.wish = wish = door.wish(exchange)
        door.check(wish, exchange.connection)

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Read the tensors, pick an arm and submit."""
        signature = self._signature
        if signature is None:
            _ = self._endpoint.stable  # says what is missing
            return
        headers = exchange.headers
        if JSON_LENGTH_HEADER in headers:
            body, blob = _split(body, headers[JSON_LENGTH_HEADER])
            is_raw = not body
        else:
            blob, is_raw = _NO_BLOB, False
        if not is_raw:
            request = _read_request(body)
            wanted = _wanted(request, signature)
            inputs = signature.read(request.inputs, blob)
        else:
            request = _RAW
            wanted = signature.request_all(binary=True)
            inputs = signature.read_raw(blob)
        self._submit(exchange, request, inputs, _Reply(exchange, signature, wanted, request.id or ""))

    def _submit(self, exchange: Exchange, request: InferRequest, inputs: Batch, reply: _Reply) -> None:
        plane, endpoint = self.plane, self._endpoint
        face = reply.signature.version
        request_id = plane.new_id()
        keys = None
        if face.key_name:
            keys = [endpoint.hash_key(key) for key in inputs[face.key_name].tolist()]
        pinned = self._pinned or pinned_arm(exchange, endpoint)
        if pinned is not None:
            arm, bucket = pinned, -1.0
        else:
            arm, bucket = endpoint.pick(keys[0] if keys else request_id)
        wish = _wish(exchange, request)
        clock = plane.clock
        now_s = clock.monotonic_s()
        call = Call(
            arm,
            inputs if arm.version is face else arm.version.adopt(inputs, face),
            n_rows=inputs.n_rows,
            request_id=request_id,
            arrived_us=clock.wall_us(),
            started_s=now_s,
            deadline_s=now_s + wish.timeout_s,
            reply=reply,
        )
        call.key_hashes = keys
        call.bucket = bucket
        call.criticality = wish.criticality
        identify(exchange, call)
        if request.id:
            call.caller_id = request.id[:MAX_CALLER_ID]
        exchange.on_abandon = call.abandon
        plane.submit(call)


class _Reply:
    """Sends the answer to one infer request."""

    __slots__ = ("_exchange", "_id", "_wanted", "signature")

    def __init__(
        self, exchange: Exchange, signature: Signature, wanted: Sequence[RequestedOutput], request_id: str
    ) -> None:
        self._exchange = exchange
        self.signature = signature
        self._wanted = wanted
        self._id = request_id

    def __call__(self, call: Call) -> None:
        exchange = self._exchange
        if call.error is not None:
            respond_error(exchange, _put_off(call.error, exchange))
            return
        try:
            tensors, blobs = self.signature.write(self._wanted, call.outputs)
            parameters = AnswerParameters(format_uuid(call.request_id))
            group = call.group
            if group.answered_by:
                parameters.answered_by = group.answered_by
                parameters.reason = group.error.code if group.error else ""
            version = call.arm.version
            head = _encode(InferAnswer(version.service, str(version.number), parameters, tensors, self._id))
        except TidegateError as error:
            respond_error(exchange, error)
            return
        except Exception as error:  # noqa: BLE001 - a defect of ours must cost this answer alone, not its whole turn
            exchange.connection.site.report_defect(error)
            respond_error(exchange, internal_error())
            return
        body, headers, kind = head, b"", b"application/json"
        if blobs:
            body, kind = b"".join((head, *blobs)), BINARY_TYPE
            headers = b"inference-header-content-length: %d\r\n" % len(head)
        if len(body) >= MIN_COMPRESSED_BYTES and b"accept-encoding" in exchange.headers:
            body, coding = compress(body, exchange.headers[b"accept-encoding"])
            headers += coding
        exchange.respond(200, body, content_type=kind, headers=headers)


def _put_off(error: TidegateError, exchange: Exchange) -> TidegateError:
    """Return an error whose hint names the way by which the caller set the deadline."""
    wish = exchange.wish
    if wish is None or not wish.by_parameter or not isinstance(error, DeadlineExceeded):
        return error
    hint = "Allow more time by the parameter 'timeout', or send fewer rows."
    return DeadlineExceeded(error.message, hint=hint, **error.context)


def _split(body: bytes, length: bytes) -> tuple[bytes, memoryview]:
    """Return the JSON part of a body and the binary data after it."""
    if not length.isdigit() or len(length) > 12 or int(length) > len(body):
        raise HttpError(
            f"The header Inference-Header-Content-Length is {length[:20].decode(errors='replace')!r}, "
            f"the body has {len(body)} bytes.",
            hint="It is the length of the JSON part in bytes, before any compression.",
        )
    end = int(length)
    return body[:end], memoryview(body)[end:]


def _read_request(body: bytes) -> InferRequest:
    try:
        request = _decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedBody(
            f"This is not an inference request: {error}.",
            hint="JSON has no NaN and no Infinity: send null for NaN, or binary data."
            if names_no_number(body)
            else 'Send {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}.',
        ) from error
    if not request.inputs:
        raise MalformedBody("An inference request has at least one input, this one has none.")
    return request


def _wanted(request: InferRequest, signature: Signature) -> Sequence[RequestedOutput]:
    """Return the outputs that a request asks for, and in which form."""
    binary = request.parameters is not None and request.parameters.binary_data_output is True
    if not request.outputs:
        return signature.request_all(binary=binary)
    found: dict[str, RequestedOutput] = {}
    for output in request.outputs:
        parameters = output.parameters or _NOTHING_WANTED
        if parameters.classification:
            raise TensorError(
                f"Output {output.name[:60]!r} is asked for as a classification, which is not supported.",
                hint="Ask for the output itself and rank its values.",
            )
        if parameters.shared_memory_region:
            raise TensorError(
                f"Output {output.name[:60]!r} is asked for in shared memory, which is not supported.",
                hint="Ask for it as JSON or as binary data.",
            )
        if output.name in found:
            raise TensorError(f"Output {output.name[:60]!r} is asked for twice.", hint="Name it once.")
        own = parameters.binary_data
        found[output.name] = signature.request(output.name, binary=binary if own is None else own)
    return tuple(found.values())


def _wish(exchange: Exchange, request: InferRequest) -> Wish:
    """Return how a request wants to be treated: by its parameters, its headers or the service."""
    wish = exchange.wish
    assert wish is not None  # where there is a signature there is a door
    parameters = request.parameters
    if parameters is None:
        return wish
    if timeout_us := parameters.timeout:
        if not 0 < timeout_us <= MAX_TIMEOUT_MS * 1000:
            raise MalformedBody(
                f"The parameter 'timeout' is {timeout_us:g}.",
                hint=f"Send microseconds above 0, at most {MAX_TIMEOUT_MS * 1000:.0f}.",
            )
        wish = wish._replace(timeout_s=timeout_us / 1e6 - wish.waited_s, by_parameter=True)
        exchange.wish = wish
    if parameters.criticality is not None:
        wish = wish._replace(criticality=read_criticality(parameters.criticality.encode()))
    elif parameters.priority:
        by_priority = (Criticality.CRITICAL, Criticality.NORMAL, Criticality.BATCH)
        wish = wish._replace(criticality=int(by_priority[min(parameters.priority, 3) - 1]))
    return wish
