"""How a contract's fields meet a model's tensors: settled once, at registration, and stored as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tidegate.contract.infer import field_names
from tidegate.contract.schema import Contract, DataType, Field, Role, Schema
from tidegate.core.error import InvalidSetting

Shape = tuple[int | None, ...]


class Tensor(msgspec.Struct, frozen=True):
    """One named input or output of a model.

    Attributes:
        name: The model's own name for it.
        type: Element type.
        row_shape: Shape of one row's value; for a model that is not batched, of the whole tensor.
        classes: Where each column is the score of one class: what the classes are, if known.
        mapping: It comes as one mapping from class to score per row (a ZipMap output).
    """

    name: str
    type: DataType
    row_shape: Shape = ()
    classes: tuple[str, ...] = ()
    mapping: bool = False


class Signature(msgspec.Struct, frozen=True):
    """What a model takes and gives, in its own words.

    Attributes:
        inputs: Tensors it takes.
        outputs: Tensors it gives.
        batched: The first dimension of each is the number of rows, and free, and each row is answered
            for itself.
        coupled: It would be batched, but for rows that influence each other's answers.
        column_inputs: An input of row shape (1,) is one column of a table, not a vector of
            length 1 (so do converters of table models write their graphs).
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool = True
    column_inputs: bool = False
    coupled: bool = False

    def of_rows(self) -> Signature:
        """Return the same with a first dimension that is the number of rows."""

        def rows(tensor: Tensor) -> Tensor:
            shape = tensor.row_shape if tensor.mapping else tensor.row_shape[1:]
            return msgspec.structs.replace(tensor, row_shape=shape)

        return msgspec.structs.replace(
            self,
            inputs=tuple(rows(tensor) for tensor in self.inputs),
            outputs=tuple(rows(tensor) for tensor in self.outputs),
            batched=True,
        )


class InputBinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which fields make up one tensor.

    Attributes:
        tensor: The model's name of the input.
        fields: One field, or the scalar fields that stand side by side in a matrix.
        type: Element type of the tensor.
        row_shape: Shape of one row of the tensor.
        codes: Field -> its categories in the model's order; the model takes their positions.
            A value that is not there becomes NaN.
    """

    tensor: str
    fields: tuple[str, ...]
    type: DataType
    row_shape: Shape = ()
    codes: dict[str, tuple[str, ...]] = {}


class OutputBinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one output field comes from.

    Attributes:
        field: The contract's field.
        tensor: The model's name of the output.
        index: Column of the tensor; None takes its whole row.
        classes: Keys of a mapping output, in column order.
    """

    field: str
    tensor: str
    index: int | None = None
    classes: tuple[str, ...] = ()


class Binding(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a contract maps to a model, both ways. Stored in a spec's options."""

    inputs: tuple[InputBinding, ...]
    outputs: tuple[OutputBinding, ...]

    def to_options(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_options(cls, options: Mapping[str, Any], contract: Contract) -> Binding:
        """Read what `to_options` wrote and check that it names fields that the contract has.

        Raises:
            InvalidSetting: It has another form, or the contract is a different one.
        """
        try:
            binding = msgspec.convert(options, cls)
        except msgspec.ValidationError as error:
            raise InvalidSetting(f"The binding between contract and model cannot be read: {error}") from error
        wanted = {name for item in binding.inputs for name in item.fields}
        unknown = sorted(wanted - set(contract.input.names))
        given = {item.field for item in binding.outputs}
        if unknown or given != set(contract.output.names):
            raise InvalidSetting(
                "The binding names other fields than the contract: "
                f"inputs not in the contract {unknown}, outputs bound {sorted(given)}, "
                f"outputs of the contract {sorted(contract.output.names)}.",
                hint="Register the model again with this contract.",
            )
        return binding


def as_field_name(name: str) -> str:
    """Return the name that a field of this tensor or column has where a contract is inferred."""
    return field_names([name], prefix="value")[0]


# --- a contract from a model ------------------------------------------------------------------


def contract_from(signature: Signature) -> tuple[Contract, Binding]:
    """Return the contract that a model's tensors amount to, one field a tensor, and its binding."""
    inputs: list[Field] = []
    input_bindings = []
    names = field_names([tensor.name for tensor in signature.inputs], prefix="input")
    for tensor, name in zip(signature.inputs, names, strict=True):
        column = signature.batched and signature.column_inputs and tensor.row_shape == (1,)
        inputs.append(Field(name=name, type=tensor.type, shape=() if column else tensor.row_shape))
        input_bindings.append(InputBinding(tensor.name, (name,), tensor.type, tensor.row_shape))
    outputs: list[Field] = []
    output_bindings = []
    names = field_names([tensor.name for tensor in signature.outputs], prefix="output")
    for tensor, name in zip(signature.outputs, names, strict=True):
        column = signature.batched and signature.column_inputs and tensor.row_shape == (1,)
        outputs.append(
            Field(
                name=name,
                type=tensor.type,
                shape=() if column else tensor.row_shape,
                doc=f"scores of the classes {', '.join(tensor.classes)}" if tensor.classes else "",
            )
        )
        output_bindings.append(
            OutputBinding(name, tensor.name, 0 if column else None, tensor.classes if tensor.mapping else ())
        )
    contract = Contract(Schema(tuple(inputs)), Schema(tuple(outputs)), batched=signature.batched)
    return contract, Binding(tuple(input_bindings), tuple(output_bindings))


# --- a given contract over a model ------------------------------------------------------------


def bind(
    contract: Contract,
    signature: Signature,
    *,
    features: Sequence[str] | None = None,
    codes: Mapping[str, Sequence[str]] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Binding:
    """Work out how the contract's fields feed the model and what its outputs are called.

    Args:
        contract: The promise to be kept.
        signature: What the model takes and gives.
        features: Fields that make up the model's one input matrix, in its column order, where
            known. Without it they stand in the contract's order.
        codes: Category field -> its values in the order of the model's codes, for models that
            take categories as numbers.
        sources: Tensor name -> field, where they are not called alike.

    Raises:
        InvalidSetting: There is no way, or more than one; says which fields and tensors.
    """
    if contract.batched and signature.coupled:  # each row will be a call of its own
        signature = signature.of_rows()
    if contract.batched != signature.batched:
        raise InvalidSetting(
            f"The contract says batched={contract.batched}, the model is "
            f"{'' if signature.batched else 'not '}batched: "
            f"{_list_tensors(signature.inputs)} -> {_list_tensors(signature.outputs)}.",
            hint="A model whose first dimension is fixed takes one row a call: declare batched=False, "
            "or export it with a free first dimension.",
        )
    plain_codes = {name: tuple(values) for name, values in (codes or {}).items()}
    return Binding(
        _bind_inputs(contract.input, signature, features, plain_codes, sources or {}),
        bind_outputs(contract.output, signature),
    )


def _bind_inputs(
    schema: Schema,
    signature: Signature,
    features: Sequence[str] | None,
    codes: dict[str, tuple[str, ...]],
    sources: Mapping[str, str],
) -> tuple[InputBinding, ...]:
    by_name = {as_field_name(name): field for name, field in schema.by_name.items()}
    named = {
        tensor.name: schema.by_name.get(sources.get(tensor.name, ""))
        or by_name.get(as_field_name(tensor.name))
        for tensor in signature.inputs
    }
    if (
        features is None
        and signature.inputs
        and all(
            field is not None and _feeds(field, tensor, signature, codes)
            for tensor, field in zip(signature.inputs, named.values(), strict=True)
        )
    ):
        return tuple(
            _input(tensor, (field,), codes)
            for tensor, field in zip(signature.inputs, named.values(), strict=True)
            if field is not None
        )
    if len(signature.inputs) == 1:
        tensor = signature.inputs[0]
        if features is None:
            fitting = [field for field in schema.fields if _feeds(field, tensor, signature, codes)]
            whole = [field for field in fitting if not field.is_scalar] or fitting
            if len(whole) == 1:
                return (_input(tensor, (whole[0],), codes),)
        return (_input(tensor, _matrix_fields(schema, tensor, features, codes), codes),)
    missing = [tensor.name for tensor in signature.inputs if named[tensor.name] is None]
    unfit = [
        f"{tensor.name} ({_describe(tensor)}) from field {field.name} ({_describe_field(field)})"
        for tensor in signature.inputs
        if (field := named[tensor.name]) is not None and not _feeds(field, tensor, signature, codes)
    ]
    raise InvalidSetting(
        "The contract's input does not feed the model."
        + (f" No field of these names: {', '.join(missing)}." if missing else "")
        + (f" These do not fit: {'; '.join(unfit)}." if unfit else ""),
        hint=f"The model takes {_list_tensors(signature.inputs)}; the contract has {_list_fields(schema)}.",
        missing=missing,
    )


def _matrix_fields(
    schema: Schema, tensor: Tensor, features: Sequence[str] | None, codes: Mapping[str, Sequence[str]]
) -> tuple[Field, ...]:
    """Return the fields that stand side by side in the model's one matrix."""
    if len(tensor.row_shape) != 1:
        raise InvalidSetting(
            f"The model takes one tensor {_describe(tensor)} and no field of the contract has that shape: "
            f"{_list_fields(schema)}."
        )
    width = tensor.row_shape[0]
    if features is not None:
        unknown = [name for name in features if name not in schema.by_name]
        if unknown:
            raise InvalidSetting(f"The model's features {unknown} are not fields of the contract.")
        chosen = tuple(schema.by_name[name] for name in features)
    else:
        chosen = tuple(field for field in schema.fields if field.is_scalar and _casts(field, tensor, codes))
        if width is not None and len(chosen) > width:
            apart = {Role.KEY, Role.TIMESTAMP}
            chosen = tuple(field for field in chosen if not apart.intersection(field.roles))
    unfit = [field.name for field in chosen if not (field.is_scalar and _casts(field, tensor, codes))]
    if unfit:
        raise InvalidSetting(
            f"The fields {', '.join(unfit)} cannot stand in the model's matrix of {tensor.type.value}.",
            hint="A category needs the model's own order of its values; text needs a model that takes text.",
            fields=unfit,
        )
    if not chosen or (width is not None and len(chosen) != width):
        raise InvalidSetting(
            f"The model's input {tensor.name!r} has {width} columns; the contract has {len(chosen)} fields "
            f"that could stand in it: {', '.join(field.name for field in chosen) or 'none'}.",
            hint="Name the model's features in order (features=[...]) or declare the fitted fields.",
            expected=width,
            got=len(chosen),
        )
    return chosen


def bind_outputs(schema: Schema, signature: Signature) -> tuple[OutputBinding, ...]:
    """Find each output field among a model's outputs.

    A field takes the output of its name. Without one, the only output of its type and shape; for a
    float within [0, 1] that is the positive class's column of a binary classifier. Several floats
    take the columns of the one output as wide as they are many, by class name, or in order where the
    classes have no names.

    Raises:
        InvalidSetting: There is no such output, or more than one, or the classes have other names.
    """
    columns = _columns_of_one(schema, signature)
    if columns is not None:
        return columns
    bound: list[OutputBinding] = []
    for field in schema.fields:
        sources = _sources(field, signature)
        exact = [source for source in sources if as_field_name(source.tensor) == field.name]
        free = [source for source in sources if source not in bound]
        chosen = exact or free
        if len(chosen) != 1:
            told = ", ".join(
                f"{source.tensor}" + ("" if source.index is None else f"[:, {source.index}]")
                for source in chosen
            )
            raise InvalidSetting(
                f"Output field {field.name!r} ({_describe_field(field)}) could come from "
                f"{told or 'none of the model outputs'}.",
                hint=f"The model gives {_list_tensors(signature.outputs)}. "
                + ("Name the field as the output." if chosen else "Declare the field as one of these."),
                field=field.name,
            )
        bound.append(chosen[0])
    taken = [(item.tensor, item.index) for item in bound]
    if len(set(taken)) != len(taken):
        raise InvalidSetting(
            f"Several output fields would come from the same place of the model: {taken}.",
            hint="Name each field as the output it comes from.",
        )
    return tuple(bound)


def _columns_of_one(schema: Schema, signature: Signature) -> tuple[OutputBinding, ...] | None:
    """Several numbers out of one tensor of as many columns: by class name, else in order."""
    fields = schema.fields
    if len(fields) < 2 or not all(field.is_scalar and field.type.is_float for field in fields):
        return None
    wide = [t for t in signature.outputs if t.row_shape == (len(fields),) and t.type.is_float]
    if len(wide) != 1:
        return None
    tensor = wide[0]
    order = {as_field_name(name): position for position, name in enumerate(tensor.classes)}
    positions = [order.get(field.name, order.get(field.name.removeprefix("p_"))) for field in fields]
    if any(position is None for position in positions):
        if any(not _is_number(name) for name in tensor.classes):
            raise InvalidSetting(
                f"Which of the classes {', '.join(tensor.classes)} the output fields "
                f"{', '.join(field.name for field in fields)} are does not follow from their names.",
                hint=f"Name each as its class, or p_ and the class: "
                f"{', '.join('p_' + as_field_name(name) for name in tensor.classes)}.",
                fields=[field.name for field in fields],
            )
        positions = list(range(len(fields)))
    keys = tensor.classes if tensor.mapping else ()
    return tuple(
        OutputBinding(field.name, tensor.name, position, keys)
        for field, position in zip(fields, positions, strict=True)
    )


def _is_number(text: str) -> bool:
    """Tell whether a class is numbered, not named: numbers have an order that fields can follow."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sources(field: Field, signature: Signature) -> list[OutputBinding]:
    """Return every place of the model's outputs that could be this field."""
    found: list[OutputBinding] = []
    for tensor in signature.outputs:
        if not _same_kind(tensor.type, field):
            continue
        keys = tensor.classes if tensor.mapping else ()
        if tensor.row_shape == field.shape or _open_shape(tensor.row_shape, field.shape):
            found.append(OutputBinding(field.name, tensor.name, None, keys))
        elif field.is_scalar and tensor.row_shape == (1,):
            found.append(OutputBinding(field.name, tensor.name, 0, keys))
        elif field.is_scalar and tensor.row_shape == (2,) and _is_probability(field):
            found.append(OutputBinding(field.name, tensor.name, 1, keys))  # the positive class
    return found


def _is_probability(field: Field) -> bool:
    return field.type.is_float and field.ge == 0 and field.le == 1


def _same_kind(given: DataType, field: Field) -> bool:
    wanted = field.type
    if wanted.is_float:
        return given.is_float
    if wanted.is_text or wanted is DataType.BYTES:
        return given is DataType.STRING
    if wanted is DataType.BOOL:
        return given is DataType.BOOL
    return given.is_integer or given is DataType.BOOL


def _feeds(field: Field, tensor: Tensor, signature: Signature, codes: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether one field alone can be this tensor."""
    if not _casts(field, tensor, codes):
        return False
    if field.is_scalar and signature.batched and tensor.row_shape in ((1,), (None,)):
        return True
    return tensor.row_shape == field.shape or _open_shape(tensor.row_shape, field.shape)


def _open_shape(tensor: Shape, field: Shape) -> bool:
    """Tell whether values of the field's shape fit a tensor some of whose dimensions are free."""
    return len(tensor) == len(field) > 0 and all(
        t is None or t == f for t, f in zip(tensor, field, strict=True)
    )


def _casts(field: Field, tensor: Tensor, codes: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether the field's values turn into the tensor's type without loss of meaning."""
    if tensor.type is DataType.STRING:
        return field.type.is_text or field.type is DataType.BYTES
    if field.name in codes:
        return tensor.type.is_float
    if field.type.is_text or field.type is DataType.BYTES:
        return False
    if field.type.is_float:
        return tensor.type.is_float
    return tensor.type is not DataType.BOOL or field.type is DataType.BOOL


def _input(tensor: Tensor, fields: tuple[Field, ...], codes: Mapping[str, tuple[str, ...]]) -> InputBinding:
    used = {field.name: codes[field.name] for field in fields if field.name in codes}
    return InputBinding(
        tensor.name, tuple(field.name for field in fields), tensor.type, tensor.row_shape, used
    )


def _describe(tensor: Tensor) -> str:
    return f"{tensor.type.value}{[*tensor.row_shape] if tensor.row_shape else ''}".replace("None", "any")


def _describe_field(field: Field) -> str:
    return f"{field.type.value}{[*field.shape] if field.shape else ''}".replace("None", "any")


def _list_tensors(tensors: Iterable[Tensor]) -> str:
    return ", ".join(f"{tensor.name}: {_describe(tensor)}" for tensor in tensors)


def _list_fields(schema: Schema) -> str:
    return ", ".join(f"{field.name}: {_describe_field(field)}" for field in schema.fields)
