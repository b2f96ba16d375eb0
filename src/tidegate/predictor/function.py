"""A Python function as a predictor: the user's own code, meant to run in a process of its own."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract, Field
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec


class FunctionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a spec of kind `python`.

    Attributes:
        entry: `module:function`, for example `model:predict`; the module stands at the top of the
            artifact. With an artifact that is one file, the module's name is not looked at.
        takes: The function's one argument: a dict of columns, or the `Batch` itself.
        start: `module:function` that is called once when the predictor is built, with the
            artifact's folder, and whose answer is the function's second argument (a loaded model).
    """

    entry: str
    takes: Literal["columns", "batch"] = "columns"
    start: str | None = None


class FunctionPredictor:
    """Calls one Python function a batch: columns in, a mapping from output field to values out."""

    def __init__(
        self,
        contract: Contract,
        function: Callable[..., Any],
        *,
        takes: Literal["columns", "batch"] = "columns",
        state: tuple[Any, ...] = (),
    ) -> None:
        """Take the function.

        Args:
            contract: What it takes and gives.
            function: Is given the contract's input columns and returns a mapping of output columns
                (or a `Batch`).
            takes: See `FunctionOptions`.
            state: Further arguments.
        """
        self.contract = contract
        self._function = function
        self._takes = takes
        self._state = state

    def predict(self, batch: Batch) -> Batch:
        """Call the function; see `Predictor.predict`.

        Raises:
            PredictorError: It raised, or its answer is not the contract's columns.
        """
        names = self.contract.input.names
        argument: Any = _own(batch, names)
        if self._takes == "columns":
            argument = dict(argument.columns)
        try:
            answer = self._function(argument, *self._state)
        except Exception as error:  # whatever a user's code raises is its failure, not ours
            raise self._failure(error) from error
        if isinstance(answer, Batch):
            answer = answer.columns
        if not isinstance(answer, Mapping):
            raise PredictorError(
                f"The function must return a mapping of output fields, got {type(answer).__name__}."
            )
        fields = self.contract.output.fields
        return Batch({field.name: _column(answer, field, batch.n_rows) for field in fields}, batch.n_rows)

    def warm_up(self) -> None:
        """Nothing is known of the function that could be done beforehand."""

    def close(self) -> None:
        """Nothing is held."""

    def _failure(self, error: Exception) -> PredictorError:
        # An exception's text may quote a value; where a field is sensitive it stays inside.
        is_open = not any(field.sensitive for field in self.contract.input.fields)
        told = f": {error}"[:400] if is_open and str(error) else "."
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = f" in line {last.tb_lineno} of {Path(last.tb_frame.f_code.co_filename).name}" if last else ""
        return PredictorError(
            f"The function raised {type(error).__name__}{where}{told}", error=type(error).__name__
        )


def _own(batch: Batch, names: tuple[str, ...]) -> Batch:
    """Return columns that a function may write to.

    Some are only lent to be read, and others have some as well: what a function may do with its rows
    must not depend on which others came with them, or on who asks.
    """
    blocks = {each: block.copy() for each, block in batch.blocks()}
    columns = {
        name: column for each, block in blocks.items() for name, column in zip(each, block.T, strict=True)
    }
    for name in names:
        if name not in columns:
            columns[name] = _own_column(batch[name])
    return Batch({name: columns[name] for name in names}, batch.n_rows, blocks=blocks)


def _own_column(column: Column) -> Column:
    own = column.copy()
    if own.dtype == object:  # of varying length: each row may be an array by itself
        for row, value in enumerate(own):
            if isinstance(value, np.ndarray):
                own[row] = value.copy()
    return own


def _column(answer: Mapping[str, Any], field: Field, n_rows: int) -> Column:
    """Return one output column of the declared type and length."""
    if field.name not in answer:
        raise PredictorError(
            f"The function's answer lacks output field {field.name!r}; it has "
            f"{', '.join(map(str, answer)) or 'nothing'}.",
            field=field.name,
        )
    value = answer[field.name]
    if None in field.shape:
        return _ragged(value, field, n_rows)
    try:
        column = np.asarray(value)
        if column.dtype.kind in "OUS" or field.type.dtype.hasobject:
            column = column.astype(object)
        if column.dtype != field.type.dtype:
            column = _cast(column, field)
    except (TypeError, ValueError, OverflowError) as error:
        raise PredictorError(
            f"The function's values of output field {field.name!r} are not {field.type.value}: {error}",
            field=field.name,
        ) from error
    expected = (n_rows, *field.shape)
    if column.shape != expected:
        raise PredictorError(
            f"The function's output field {field.name!r} has shape {list(column.shape)}, expected "
            f"{list(expected)}.",
            field=field.name,
        )
    return column


def _cast(column: Column, field: Field) -> Column:
    """Change the element type where no value changes by it."""
    kind = field.type
    if kind.dtype.hasobject or kind.is_float:
        return column.astype(kind.dtype)
    if column.dtype.kind not in "biuO":
        raise TypeError(f"they are {column.dtype}")
    cast = column.astype(kind.dtype)
    if not np.array_equal(cast, column):
        raise ValueError(f"a value is not a {kind.value}")
    return cast


def _ragged(value: Any, field: Field, n_rows: int) -> Column:
    if len(value) != n_rows:
        raise PredictorError(
            f"The function's output field {field.name!r} has {len(value)} rows, expected {n_rows}.",
            field=field.name,
        )
    column = np.empty(n_rows, object)
    for row, item in enumerate(value):
        column[row] = np.asarray(item, field.type.dtype)
    return column


def load_function(root: Path, entry: str) -> Callable[..., Any]:
    """Load `module:function` from a folder, or from one file, under a name that nothing else has.

    The module gets a name of its own per artifact, so that two versions of it live side by side in
    one process. A folder stands on the path while its module is imported, so that it can import
    its neighbours.

    Raises:
        LoadError: There is no such file or function, or importing it failed.
        InvalidSetting: `entry` has another form.
    """
    module_name, colon, function_name = entry.partition(":")
    if not (colon and module_name.isidentifier() and function_name.isidentifier()):
        raise InvalidSetting(
            f"The entry {entry!r} of a Python predictor is not 'module:function'.",
            hint="For example 'model:predict' for the function predict in model.py.",
        )
    path = root / f"{module_name}.py" if root.is_dir() else root
    if not path.is_file():
        raise LoadError(f"The artifact of the Python predictor has no file {path.name}.", path=str(path))
    module = _import(path, root if root.is_dir() else path.parent, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise LoadError(
            f"{path.name} has no function {function_name!r}.",
            hint=f"It has {', '.join(name for name in vars(module) if not name.startswith('_'))}.",
            path=str(path),
        )
    return function  # type: ignore[no-any-return]  # what a user's module holds has no type here


def _import(path: Path, folder: Path, module_name: str) -> ModuleType:
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    unique = f"tidegate_artifact_{mark}_{module_name}"
    if unique in sys.modules:
        return sys.modules[unique]
    loader = importlib.machinery.SourceFileLoader(unique, str(path))
    spec = importlib.machinery.ModuleSpec(unique, loader, origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    sys.path.insert(0, str(folder))
    write_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # artifacts are immutable
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[unique]
        if not isinstance(error, Exception):
            raise
        raise LoadError(
            f"Importing {path.name} raised {type(error).__name__}: {error}",
            hint="The process that serves a Python predictor needs every package that it imports.",
            path=str(path),
        ) from error
    finally:
        sys.dont_write_bytecode = write_bytecode
        sys.path.remove(str(folder))
    return module


def build_function(spec: Spec, context: BuildContext) -> FunctionPredictor:
    """Build the predictor of a spec of kind `python`; see `FunctionOptions`.

    Raises:
        LoadError: The code cannot be loaded, or its start function raised.
        InvalidSetting: The options cannot be used.
    """
    try:
        options = msgspec.convert(spec.options, FunctionOptions)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"The options of a Python predictor cannot be used: {error}") from error
    if spec.artifact is None:
        raise LoadError("A predictor of kind 'python' needs an artifact: its source code.")
    root = context.open_artifact(spec.artifact)
    function = load_function(root, options.entry)
    state: tuple[Any, ...] = ()
    if options.start is not None:
        start = load_function(root, options.start)
        try:
            state = (start(root if root.is_dir() else root.parent),)
        except Exception as error:  # a user's code
            raise LoadError(
                f"The start function {options.start!r} raised {type(error).__name__}: {error}"
            ) from error
    return FunctionPredictor(context.contract, function, takes=options.takes, state=state)
