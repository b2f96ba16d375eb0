"""The batch: named columns of one length, the only thing that crosses a predictor's boundary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.error import TidegateError

Column = npt.NDArray[Any]


class BatchError(TidegateError):
    """Columns do not form a batch."""

    code = "invalid_batch"


def missing_rows(column: Column) -> npt.NDArray[np.bool_]:
    """Return which rows of a column of floats or objects have no value: NaN or None in each element."""
    flat = column.reshape(len(column), -1)
    missing = (flat != flat) if column.dtype != object else (flat == None)  # noqa: E711, PLR0124 - by element
    every: npt.NDArray[np.bool_] = missing.all(axis=1)
    return every


class BlockColumns(Mapping[str, Column]):
    """Columns that are views into blocks, made when they are asked for.

    At one row a request the views of twenty columns cost more than the model's call; a model that
    takes a matrix, and a journal that writes whole blocks, never ask for them.
    """

    __slots__ = ("_blocks", "_names", "_others", "_places")

    def __init__(
        self,
        names: tuple[str, ...],
        places: Mapping[str, tuple[int, int]],
        blocks: Sequence[Column],
        others: Mapping[str, Column],
    ) -> None:
        """Take blocks and single columns.

        Args:
            names: All columns, in order.
            places: For each column that stands in a block, the block's position in `blocks`
                and the column's position in it.
            blocks: Matrices with a row per row of the batch.
            others: The columns that stand in no block.
        """
        self._names = names
        self._places = places
        self._blocks = blocks
        self._others = others

    def __getitem__(self, name: str) -> Column:
        place = self._places.get(name)
        if place is None:
            return self._others[name]
        return self._blocks[place[0]][:, place[1]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @staticmethod
    def concat(parts: Sequence[Mapping[str, Column]]) -> BlockColumns | None:
        """Return the rows of all `parts`, block after block; None where they are not laid out alike."""
        alike = [part for part in parts if isinstance(part, BlockColumns)]
        first = alike[0] if len(alike) == len(parts) else None
        if first is None or any(
            part._names != first._names or part._places != first._places for part in alike[1:]
        ):
            return None
        return BlockColumns(
            first._names,
            first._places,
            [np.concatenate(blocks) for blocks in zip(*(part._blocks for part in alike), strict=True)],
            {name: np.concatenate([part._others[name] for part in alike]) for name in first._others},
        )

    @property
    def by_names(self) -> dict[tuple[str, ...], Column]:
        """The blocks by the names of their columns."""
        names: list[list[str]] = [[""] * block.shape[1] for block in self._blocks]
        for name, (which, position) in self._places.items():
            names[which][position] = name
        return {tuple(names[which]): block for which, block in enumerate(self._blocks)}

    def rows(self, start: int, stop: int) -> BlockColumns:
        """Return the same columns of some of the rows, as views."""
        return BlockColumns(
            self._names,
            self._places,
            [block[start:stop] for block in self._blocks],
            {name: column[start:stop] for name, column in self._others.items()},
        )


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
        blocks: Mapping[tuple[str, ...], Column] | Iterable[tuple[tuple[str, ...], Column]] = (),
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

    def blocks(self) -> Iterable[tuple[tuple[str, ...], Column]]:
        """Return the blocks: the names of their columns, and the matrix of shape (n_rows, n_names)."""
        return self._blocks.items()

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
        columns = self.columns
        return Batch(
            columns.rows(start, stop)
            if isinstance(columns, BlockColumns)
            else {name: column[start:stop] for name, column in columns.items()},
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
        n_rows = sum(batch.n_rows for batch in batches)
        joined = BlockColumns.concat([batch.columns for batch in batches])
        if joined is not None:
            return Batch(joined, n_rows, blocks=joined.by_names)
        columns = {name: np.concatenate([b.columns[name] for b in batches]) for name in first.columns}
        return Batch(columns, n_rows)
