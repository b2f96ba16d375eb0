"""How a version's contract looks as tensors: names, datatypes and shapes, and the way to rows and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.openapi import Described
from tidegate.contract.protocol import DATATYPES, TensorMetadata, datatype_of, tensor_shape
from tidegate.contract.schema import Contract, Field
from tidegate.contract.violation import ContractViolation, TooManyRows
from tidegate.serving.endpoint import LoadedVersion, Tensors
from tidegate.serving.http.port import FieldPort, MatrixPort, Port
from tidegate.serving.http.tensor import (
    Array,
    InputParameters,
    InputTensor,
    OutputTensor,
    TensorError,
    read_binary,
    read_json,
    write_binary,
    write_json,
)

_FEW_VALUES = 256
"""Up to here Python's own numbers are compared faster than numpy starts."""


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that a request asks for, resolved: its field, under which name, and in which form."""

    field: str
    name: str
    datatype: str
    binary: bool


class Signature:
    """One version's tensors."""

    def __init__(self, version: LoadedVersion) -> None:
        """Compile the mapping between the version's contract and tensors."""
        contract, tensors = version.contract, version.tensors
        self.version = version
        self.contract: Contract = contract
        self.platform = tensors.platform
        self.inputs = _metadata(contract.input.fields, tensors, batched=contract.batched)
        self.outputs = _metadata(contract.output.fields, tensors, batched=contract.batched)
        self._outputs = _by_wire_name(contract.output.fields, tensors)
        self._matrix: MatrixPort | None = None
        self._ports: dict[str, Port] = {
            name: FieldPort(field, contract)
            for name, field in _by_wire_name(contract.input.fields, tensors).items()
        }
        if tensors.matrix and tensors.matrix_fields:
            self._matrix = MatrixPort(tensors.matrix, tensors.matrix_fields, contract)
            self._ports[tensors.matrix] = self._matrix
        self._whole = {name: port for name, port in self._ports.items() if port.whole}
        self._all_json = self._requested_all(binary=False)
        self._all_binary = self._requested_all(binary=True)

    # --- requests ---

    def read(self, tensors: Sequence[InputTensor], blob: memoryview) -> Batch:
        """Return the rows of a request.

        Args:
            tensors: The tensors as sent.
            blob: What follows the JSON: their binary data, one after the other.

        Raises:
            TensorError: A tensor is not what it says, or names nothing.
            TooManyRows: There are more rows than one request may carry.
            ContractViolation: The rows miss the contract.
        """
        if len(tensors) == 1 and (port := self._whole.get(tensors[0].name)) is not None:
            array, end = self._array(tensors[0], port, blob, 0)
            _check_end(blob, end)
            batch = port.batch(array)
            return batch if batch is not None else self._checked(port.columns(array))
        columns: dict[str, Array] = {}
        at = 0
        for tensor in tensors:
            port = self._ports.get(tensor.name)
            if port is None:
                raise self._unknown("input", tensor.name, self.inputs)
            array, at = self._array(tensor, port, blob, at)
            for name, column in port.columns(array).items():
                if name in columns:
                    raise TensorError(f"The input {name!r} is given twice.", tensor=name)
                columns[name] = column
        _check_end(blob, at)
        return self._checked(columns)

    def read_raw(self, body: memoryview) -> Batch:
        """Return the one row of a request whose body is the data of the only input tensor.

        Raises:
            TensorError: The version has several inputs, or the data does not fit.
            ContractViolation: The row misses the contract.
        """
        matrix = self._matrix
        if matrix is not None and matrix.whole:
            name, datatype, dims = matrix.name, matrix.datatype, [-1, matrix.width]
        elif len(self.inputs) == 1:
            name, datatype, dims = self.inputs[0].name, self.inputs[0].datatype, list(self.inputs[0].shape)
        else:
            raise TensorError(
                f"Service {self.version.service!r} has {len(self.inputs)} inputs; raw data can be one.",
                hint="Send the length of a JSON part in the header Inference-Header-Content-Length.",
            )
        shape = [1, *dims[1:]] if self.contract.batched else dims
        if datatype == "BYTES":  # the body is the one element there can be
            body = memoryview(len(body).to_bytes(4, "little") + body)
            shape = [abs(size) for size in shape]
        elif shape.count(-1) > 1:
            raise TensorError(
                f"The shape {shape} of input {name!r} cannot be told from the length of its data.",
                hint="Send a JSON part that gives the shape.",
            )
        elif -1 in shape:
            rest = DATATYPES[datatype].itemsize * math.prod(abs(size) for size in shape)
            shape[shape.index(-1)] = len(body) // rest if rest else 0
        parameters = InputParameters(binary_data_size=len(body))
        return self.read([InputTensor(name, shape, datatype, parameters=parameters)], body)

    def _array(self, tensor: InputTensor, port: Port, blob: memoryview, at: int) -> tuple[Array, int]:
        """Return a tensor's array, and where in `blob` the next one's data begins.

        Args:
            tensor: The tensor as sent.
            port: Where it goes.
            blob: The binary data of all tensors.
            at: Where its own begins.
        """
        expected = port.expected(tensor.shape)
        if expected is not None:
            raise TensorError(
                f"Input {tensor.name[:60]!r} must have the shape {expected}. Got {tensor.shape}.",
                tensor=tensor.name[:60],
            )
        if self.contract.batched and tensor.shape[0] > self.version.limits.max_rows:
            raise TooManyRows(
                f"A request carries at most {self.version.limits.max_rows} rows. Got {tensor.shape[0]}.",
                hint="Send several requests.",
                max_rows=self.version.limits.max_rows,
            )
        parameters = tensor.parameters
        if parameters is None:
            return read_json(tensor), at
        if parameters.shared_memory_region:
            raise TensorError(
                f"Input {tensor.name[:60]!r} names a shared memory region, which is not supported.",
                hint="Send the data as JSON or binary.",
            )
        size = parameters.binary_data_size
        if size is None:
            return read_json(tensor), at
        if tensor.data:
            raise TensorError(
                f"Input {tensor.name[:60]!r} has both 'data' and 'binary_data_size'.",
                hint="Send one of them.",
            )
        if at + size > len(blob):
            raise TensorError(
                f"Input {tensor.name[:60]!r} announces {size} bytes of data; {len(blob) - at} are left.",
                hint="The header Inference-Header-Content-Length is the length of the JSON part alone.",
            )
        return read_binary(tensor, blob[at : at + size]), at + size

    def _checked(self, columns: Mapping[str, Array]) -> Batch:
        """Convert and check columns; the fields' own words say what is wrong."""
        check = self.version.input_check
        batch = check.coerce(columns)
        violations = check.violations(batch)
        if violations:
            raise ContractViolation.of(violations)
        return batch

    # --- answers ---

    def request(self, name: str, *, binary: bool) -> RequestedOutput:
        """Return what a request means by an output's name.

        Raises:
            TensorError: There is no such output.
        """
        field = self._outputs.get(name)
        if field is None:
            raise self._unknown("output", name, self.outputs)
        return RequestedOutput(field.name, name, datatype_of(field), binary)

    def request_all(self, *, binary: bool) -> tuple[RequestedOutput, ...]:
        """Return all outputs, as asked for by a request that names none."""
        return self._all_binary if binary else self._all_json

    def write(
        self, requested: Iterable[RequestedOutput], outputs: Batch
    ) -> tuple[list[OutputTensor], list[bytes]]:
        """Return the tensors of an answer, and the binary data that follows the JSON.

        Raises:
            RaggedOutput: Rows of one output differ in shape.
        """
        tensors, blobs = [], []
        for want in requested:
            array = _rectangular(want.field, outputs.columns[want.field])
            if not self.contract.batched:
                array = np.atleast_1d(array[0])  # a single value has the shape [1], as the metadata says
            if want.binary:
                tensor, data = write_binary(want.name, want.datatype, np.asarray(array))
                blobs.append(data)
            else:
                tensor = write_json(want.name, want.datatype, np.asarray(array))
            tensors.append(tensor)
        return tensors, blobs

    def _requested_all(self, *, binary: bool) -> tuple[RequestedOutput, ...]:
        return tuple(self.request(meta.name, binary=binary) for meta in self.outputs)

    def _unknown(self, side: str, name: str, known: Sequence[TensorMetadata]) -> TensorError:
        return TensorError(
            f"Service {self.version.service!r} has no {side} {name[:60]!r}.",
            hint=f"Its {side}s: {', '.join(meta.name for meta in known)}.",
            tensor=name[:60],
        )


def described(version: LoadedVersion) -> Described:
    """Return a version as the OpenAPI document tells of it: tensors by each name that they go by."""
    contract, tensors = version.contract, version.tensors

    def named(fields: Iterable[Field]) -> list[TensorMetadata]:
        return [
            TensorMetadata(name, datatype_of(field), tensor_shape(field, batched=contract.batched))
            for name, field in _by_wire_name(fields, tensors).items()
        ]

    inputs = named(contract.input.fields)
    if tensors.matrix and tensors.matrix_fields:
        port = MatrixPort(tensors.matrix, tensors.matrix_fields, contract)
        inputs.append(TensorMetadata(port.name, port.datatype, (-1, port.width)))
    outputs = tuple(named(contract.output.fields))
    return Described(contract, tuple(inputs), outputs, pinning=version.limits.pinning)


class RaggedOutput(TensorError):
    """Rows of one output have different shapes, which no tensor can carry."""

    code = "unsupported"


def _metadata(fields: Iterable[Field], tensors: Tensors, *, batched: bool) -> tuple[TensorMetadata, ...]:
    return tuple(
        TensorMetadata(
            tensors.names.get(field.name, field.name),
            datatype_of(field),
            tensor_shape(field, batched=batched),
        )
        for field in fields
    )


def _by_wire_name(fields: Iterable[Field], tensors: Tensors) -> dict[str, Field]:
    """Return fields by all names they answer to; where two collide, the model's own name wins."""
    fields = list(fields)
    found = {field.name: field for field in fields}
    found.update({tensors.names[field.name]: field for field in fields if field.name in tensors.names})
    return found


def _rectangular(name: str, column: Array) -> Array:
    """Return a column of rows of free shape as one array; others as they are."""
    if column.dtype != object or not isinstance(column[0], np.ndarray):
        return column
    if any(value.shape != column[0].shape for value in column):
        raise RaggedOutput(
            f"The rows of output {name!r} differ in shape, which one tensor cannot carry.",
            hint="Send one row in a request, or use the native face.",
        )
    return np.stack(list(column))


def _check_end(blob: memoryview, end: int) -> None:
    if end != len(blob):
        raise TensorError(
            f"The body has {len(blob) - end} bytes after the last input's binary data.",
            hint="Give each binary input its 'binary_data_size'.",
        )
