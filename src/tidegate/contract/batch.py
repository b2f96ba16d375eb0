"""The batch: named columns of one length, the only thing that crosses a predictor's boundary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.error import TidegateError

Column = npt.NDArray[Any]


class BatchError(TidegateError):
    """Columns do not form a batch."""

    code = "invalid_batch"


class Batch:
    """Named numpy columns of equal length.

    The first axis of each column is the row. Text, category and bytes columns have dtype object;
    timestamps and durations are int64 microseconds (UTC); a vector of fixed length is 2-D; one of
    varying length is an object column of arrays.

    Columns of one dtype may be views into one C-ordered matrix (a block), so that a model that
    takes a matrix gets it without a copy; see `matrix`.
    """

    __slots__ = ("_blocks", "columns", "n_rows")

    def __init__(
        self,
        columns: Mapping[str, Column],
        n_rows: int,
        *,
        blocks: Iterable[tuple[tuple[str, ...], Column]] = (),
    ) -> None:
        """Take columns that the caller has already made consistent; see `of` for checked ones."""
        self.columns = columns
        self.n_rows = n_rows
        self._blocks = dict(blocks)

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Batch:
        """Make a batch and check that its columns have one length.

        Raises:
            BatchError: There is no column, or lengths differ.
        """
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise BatchError(f"A batch needs columns of one length, got {lengths}.", lengths=lengths)
        return cls(columns, next(iter(lengths.values())))

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {c.dtype}{list(c.shape)}" for name, c in self.columns.items())
        return f"Batch({shapes})"

    def block(self, names: tuple[str, ...]) -> Column | None:
        """Return the block whose columns are exactly `names` in order, if there is one."""
        return self._blocks.get(names)

    def matrix(self, names: tuple[str, ...], dtype: npt.DTypeLike) -> Column:
        """Return scalar columns side by side, shape (n_rows, len(names)), C order.

        Without a copy where the columns already stand so in one block of that dtype.
        """
        block = self._blocks.get(names)
        if block is not None:
            return np.ascontiguousarray(block, dtype=dtype)
        out = np.empty((self.n_rows, len(names)), dtype=dtype)
        for position, name in enumerate(names):
            out[:, position] = self.columns[name]
        return out

    def rows(self, start: int, stop: int) -> Batch:
        """Return the rows from `start` up to `stop` as views."""
        return Batch(
            {name: column[start:stop] for name, column in self.columns.items()},
            stop - start,
            blocks=[(names, block[start:stop]) for names, block in self._blocks.items()],
        )

    def take(self, indices: npt.NDArray[np.intp] | Sequence[int]) -> Batch:
        """Return the named rows, in the order given, as copies."""
        index = np.asarray(indices, dtype=np.intp)
        return Batch({name: column[index] for name, column in self.columns.items()}, len(index))

    def select(self, names: Iterable[str]) -> Batch:
        """Return a batch of some of the columns."""
        return Batch({name: self.columns[name] for name in names}, self.n_rows, blocks=self._blocks.items())

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """Return the rows of all `batches` (at least one; the same columns) one after another."""
        first = batches[0]
        if len(batches) == 1:
            return first
        columns = {name: np.concatenate([b.columns[name] for b in batches]) for name in first.columns}
        return Batch(columns, sum(b.n_rows for b in batches))
