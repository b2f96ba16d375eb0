"""Model files by their ending: what each is, and why a pickle is refused."""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.adapter.runtime import lightgbm, skops, xgboost
from tidegate.adapter.runtime.fitted import FittedModel, from_booster, recognise
from tidegate.core.error import InvalidSetting, NotFound, TidegateError

KINDS: Mapping[str, str] = {
    ".onnx": "onnx",
    ".skops": "skops",
    ".txt": "lightgbm",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".py": "python",
}
"""Ending -> kind of predictor."""

_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth"})
_PICKLE_PROTOCOLS = range(2, 6)
_PICKLE_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD"})


class PickleRefused(TidegateError):
    """A pickle runs whatever code is in it when it is read, so it is never read."""

    code = "pickle_refused"


def kind_of(path: Path) -> str:
    """Return the kind of predictor that a model file becomes.

    Raises:
        NotFound: There is no such file.
        PickleRefused: It is a pickle, by its ending or by its first bytes.
        InvalidSetting: Its ending is none that is known.
    """
    if not path.is_file():
        raise NotFound(f"There is no model file {path}.", path=str(path))
    suffix = path.suffix.lower()
    if suffix in _PICKLE_SUFFIXES or _looks_like_pickle(path):
        raise _pickle_refused(path)
    kind = KINDS.get(suffix)
    if kind is None:
        raise InvalidSetting(
            f"{path.name} is no model file that Tidegate knows by its ending.",
            hint=f"Known are {', '.join(KINDS)}. From the process where a model is fitted: "
            'tg.register("name", model, sample=X).',
            path=str(path),
        )
    return kind


def open_model(path: Path, *, trusted: Sequence[str] = (), sample: Any = None) -> FittedModel:
    """Read a model file of a library's own format.

    Args:
        path: `.skops`, LightGBM `.txt`, XGBoost `.json` or `.ubj`.
        trusted: Of a skops file: types beyond the safe ones that it may hold.
        sample: Rows it was fitted on; of a pandas frame, categorical columns are read.

    Raises:
        PickleRefused: It is a pickle.
        LoadError: It is damaged.
        UntrustedTypes: A skops file holds types that nobody has agreed to.
        MissingExtra: The library is not installed.
    """
    kind = kind_of(path)
    if kind == "skops":
        return recognise(skops.load_estimator(path, trusted=trusted))
    if kind == "lightgbm":
        return from_booster(lightgbm.load_booster(path), sample)
    if kind == "xgboost":
        return from_booster(xgboost.load_booster(path), sample)
    raise InvalidSetting(f"{path.name} is of kind {kind}, which no library has to read.")


def _looks_like_pickle(path: Path) -> bool:
    """Look at the first bytes: a pickle protocol's opcode, or a zip archive that holds a pickle."""
    with path.open("rb") as file:
        head = file.read(3)
    if len(head) >= 2 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS:
        return True
    if head[:2] in (b"\x1f\x8b", b"x\x9c", b"BZ", b"\xfd7"):  # how joblib compresses
        return True
    if head[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    return _parses_as_pickle(path)


def _parses_as_pickle(path: Path) -> bool:
    """Tell whether the file is a pickle of protocol 0 or 1, which has no mark at its beginning.

    Its instructions are read one by one and none is carried out. Other files end at their first
    byte or soon after, with one that does not exist.
    """
    calls = False
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of texts with odd escapes, which are none
        try:
            for instruction, _, _ in pickletools.genops(file):
                calls = calls or instruction.name in _PICKLE_CALLS
                if instruction.name == "STOP":
                    return calls
        except (ValueError, UnicodeDecodeError, MemoryError):
            return False
    return False


def _pickle_refused(path: Path) -> PickleRefused:
    return PickleRefused(
        f"{path.name} is a pickle: reading it would run whatever code is in it, so it is not read.",
        hint="In the process where the model is fitted, or where you load it because you trust it, call "
        'tg.register("name", model, sample=X), with X some rows of real input. '
        "It is stored as ONNX, or in a format that holds no code.",
        path=str(path),
    )
