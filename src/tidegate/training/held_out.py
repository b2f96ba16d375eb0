"""A trial that is kept: the rows a model was and was not fitted on, for whoever asks for proof later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.batch import Column
from tidegate.contract.infer import columns_of
from tidegate.core.digest import Digest, canonical_json
from tidegate.core.error import Corrupt, InvalidSetting
from tidegate.data.leak import AUC_LIMIT, find_leaks, why_untold
from tidegate.data.snapshot import read_snapshot, scan_snapshot, write_snapshot
from tidegate.data.source import Source, frame_source
from tidegate.data.store import FileStore
from tidegate.training.sample import StoredColumn, load_columns, store_columns
from tidegate.training.trial import Trial

Flags = npt.NDArray[np.bool_]

_LEAK_ROWS = 100_000
"""Rows that the search for leaks looks at: an AUC is known to 0.01 from a tenth of them."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was kept of a trial, as JSON under its own digest.

    Attributes:
        train: Snapshot of the rows that the model was fitted on.
        test: Snapshot of the rows that it was not fitted on.
        n_train: Rows of the first.
        n_test: Rows of the second.
        target: Column of both that holds what came true.
        predicted: The trial's answers to the test rows, an artifact.
        group: Column whose rows are no independent evidence.
        event_time: Column that says when a row happened.
        refitted: The registered model was then fitted on all of these rows.
    """

    train: Digest
    test: Digest
    n_train: int
    n_test: int
    target: str
    predicted: Digest
    group: str | None = None
    event_time: str | None = None
    refitted: bool = False

    def to_json(self) -> bytes:
        """Return the stored form."""
        return canonical_json(self)


def store_trial(
    store: FileStore,
    trial: Trial,
    *,
    inputs: Sequence[str],
    event_time: str | None = None,
    attributes: Iterable[str] = (),
    hidden: Collection[str] = (),
) -> Digest:
    """Keep a trial: its rows as snapshots, its answers beside them.

    Args:
        store: The artifact store.
        trial: The trial.
        inputs: Input fields; of other columns only those are kept that are named here.
        event_time: Column that says when a row happened, if the rows have it.
        attributes: Protected attributes, kept where the rows have them.
        hidden: Sensitive columns: the snapshots' summaries say nothing of their values.

    Returns:
        Digest of the `HeldOut`.
    """
    extra = [trial.target, trial.group, event_time, *attributes]
    wanted = list(dict.fromkeys([*inputs, *(name for name in extra if name)]))
    train, test = (
        write_snapshot(_source(rows, wanted, part), store, hidden=hidden)
        for rows, part in ((trial.train, "training rows of a trial"), (trial.test, "test rows of a trial"))
    )
    answers = store_columns({"predicted": _plain(trial.predicted)})
    known = {column.name for column in test.columns}
    held_out = HeldOut(
        train=train.digest,
        test=test.digest,
        n_train=train.n_rows,
        n_test=test.n_rows,
        target=trial.target,
        predicted=store.put_bytes(msgspec.msgpack.encode(answers)),
        group=trial.group,
        event_time=event_time if event_time in known else None,
        refitted=trial.refitted,
    )
    return store.put_bytes(held_out.to_json())


def read_held_out(store: FileStore, digest: Digest) -> HeldOut:
    """Return what was kept of a trial.

    Raises:
        NotFound: Nothing is stored under `digest`.
        Corrupt: It is no trial, or damaged.
    """
    try:
        return msgspec.json.decode(store.read_bytes(digest), type=HeldOut)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The trial {digest} cannot be read: {error}", digest=digest) from error


def read_answers(store: FileStore, held_out: HeldOut) -> Column:
    """Return the trial's answers to its test rows: (n_test,) numbers or classes, or (n_test, n_classes).

    Raises:
        NotFound: They are gone.
        Corrupt: They are damaged.
    """
    try:
        stored = msgspec.msgpack.decode(store.read_bytes(held_out.predicted), type=dict[str, StoredColumn])
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The trial's answers cannot be read: {error}", digest=held_out.predicted) from error
    return load_columns(stored)["predicted"]


def read_rows(store: FileStore, snapshot: Digest) -> dict[str, Column]:
    """Return the rows of a snapshot as columns.

    Raises:
        NotFound: A file is gone.
        Corrupt: A file is damaged.
    """
    return columns_of(_frame(store, snapshot))


def seen_before(
    store: FileStore, rows: Digest, others: Iterable[Digest], *, ignoring: Collection[str] = ()
) -> Flags:
    """Return which rows of a snapshot stand in others too, compared by all columns that both have.

    Args:
        store: The artifact store.
        rows: The snapshot whose rows are asked about.
        others: Snapshots that a model was fitted on.
        ignoring: Columns that do not count, such as a group that only one side has.

    Returns:
        Shape (n_rows,).
    """
    asked = _frame(store, rows)
    found = np.zeros(len(asked), dtype=np.bool_)
    for other in others:
        known = _frame(store, other)
        shared = [name for name in asked.columns if name in known.columns and name not in ignoring]
        if shared:
            # null equals null here: a row with a gap is the same row when it comes again
            marked = (
                asked.select(shared)
                .with_row_index("__row")
                .join(
                    _alike(known.select(shared), asked.select(shared)),
                    on=shared,
                    how="semi",
                    nulls_equal=True,
                )
            )
            found[marked["__row"].to_numpy()] = True
    return found


def leaks_of(
    store: FileStore, held_out: HeldOut, features: Sequence[str], *, auc_limit: float = AUC_LIMIT
) -> list[dict[str, Any]]:
    """Return features that know the answer in a trial's rows, as plain data; see `data.leak`.

    Raises:
        InvalidSetting: The target has a single value.
    """
    frame = pl.concat([_frame(store, held_out.train), _frame(store, held_out.test)], how="diagonal_relaxed")
    return leaks_in(frame, held_out.target, features, asked_at=held_out.event_time, auc_limit=auc_limit)


def leaks_in(
    frame: pl.DataFrame,
    target: str,
    features: Sequence[str],
    *,
    asked_at: str | None = None,
    auc_limit: float = AUC_LIMIT,
) -> list[dict[str, Any]]:
    """Return features that know the answer in a table, as plain data; see `data.leak`.

    Raises:
        InvalidSetting: The target has a single value, or nothing is found in rows that are too few to tell.
    """
    if len(frame) > _LEAK_ROWS:
        frame = frame.sample(_LEAK_ROWS, seed=0)
    found = find_leaks(
        frame,
        target,
        features=[name for name in features if name in frame.columns and name != target],
        asked_at=asked_at,
        auc_limit=auc_limit,
    )
    untold = "" if found else why_untold(frame, target, auc_limit=auc_limit)
    if untold:
        raise InvalidSetting(untold)
    plain: list[dict[str, Any]] = msgspec.to_builtins(found)
    return plain


def _plain(predicted: Any) -> Column:
    """Return answers as they are kept: numbers as such, classes as objects."""
    values = np.asarray(predicted)
    return values.astype(np.float64) if values.dtype.kind in "biuf" else values.astype(object)


def _source(rows: Any, wanted: Sequence[str], name: str) -> Source:
    if hasattr(rows, "columns"):
        source = frame_source(rows, name=name)
    else:
        source = frame_source(pl.DataFrame(columns_of(rows)), name=name)
    present = source.frame.collect_schema().names()
    return source._replace(frame=source.frame.select([each for each in wanted if each in present]))


def _frame(store: FileStore, digest: Digest) -> pl.DataFrame:
    return scan_snapshot(store, read_snapshot(store, digest)).collect()


def _alike(frame: pl.DataFrame, model: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with the types of `model`, so that 1 and 1.0 are one value."""
    return frame.cast(model.schema, strict=False)
