"""What a predictor is, and how one is rebuilt from plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract
from tidegate.core.digest import Digest
from tidegate.core.error import TidegateError
from tidegate.predictor.independence import RowByRow


class PredictorError(TidegateError):
    """A predictor raised, or what it was given or gave back cannot be used.

    Attributes:
        is_down: Whether nobody could be asked, so that no input is to blame.
    """

    code = "predictor_failed"
    is_down = False


class LoadError(TidegateError):
    """A predictor cannot be built from its artifact."""

    code = "predictor_not_loadable"


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to rebuild a predictor anywhere: plain data, by which workers and runners are told.

    Attributes:
        kind: Which builder: `onnx`, `skops`, `lightgbm`, `xgboost`, `lookup`, `rule`, `python`.
        artifact: Digest of its files in the artifact store; None where options say everything.
        options: Plain JSON values that the builder understands.
        row_by_row: Each row is a call of its own: the model's answer to a row depends on the rows beside
            it, and those may be another caller's.
    """

    kind: str
    artifact: Digest | None = None
    options: dict[str, Any] = {}
    row_by_row: bool = False


class Predictor(Protocol):
    """A model, a table, a rule or a function behind one door.

    Implementations are used by one thread at a time.
    """

    @property
    def contract(self) -> Contract:
        """The declared signature: which columns it takes and which it gives."""
        ...

    def predict(self, batch: Batch) -> Batch:
        """Map rows to rows, in order.

        Args:
            batch: At least the contract's input columns, any number of rows above 0.

        Returns:
            The contract's output columns, as many rows.

        Raises:
            PredictorError: It failed. The caller survives.
        """
        ...

    def warm_up(self) -> None:
        """Do at once what the first calls would otherwise pay for."""
        ...

    def close(self) -> None:
        """Give back what it holds. No call follows."""
        ...


class BuildContext(msgspec.Struct, frozen=True):
    """What a builder may use.

    Attributes:
        contract: The contract the predictor has to fulfil.
        open_artifact: Maps a digest to the verified local path of its file or folder. Raises
            Corrupt or NotFound.
        n_threads: Threads one call may use.
    """

    contract: Contract
    open_artifact: Callable[[Digest], Path]
    n_threads: int = 1


Builder = Callable[[Spec, BuildContext], Predictor]


def build(spec: Spec, context: BuildContext, builders: Mapping[str, Builder]) -> Predictor:
    """Build the predictor that `spec` describes.

    Raises:
        LoadError: No builder knows its kind, or the builder refused the artifact.
    """
    try:
        builder = builders[spec.kind]
    except KeyError:
        raise LoadError(
            f"No predictor kind {spec.kind!r} is known here.",
            hint=f"Known kinds: {', '.join(sorted(builders))}.",
            kind=spec.kind,
        ) from None
    predictor = builder(spec, context)
    return RowByRow(predictor) if spec.row_by_row else predictor
