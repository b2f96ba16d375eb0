"""Inputs that a model does not survive: found by halves, remembered by fingerprint, refused for a while.

Before each call a runner notes on a mapped page which rows are in it. If it dies in the call, the next
runner of the version finds the note. All rows of it are suspects, and from then on no call takes more than
half of those that are left: each further crash halves them, and each call that ends well clears its rows.
A row with which a process dies once more, alone, is convicted; once proves nothing, since processes are
killed for other reasons too. Innocent rows go on in calls of their own.

Nothing of an input is kept but a keyed hash of eight bytes.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from tidegate.contract.batch import Batch
from tidegate.core.clock import Clock
from tidegate.predictor.protocol import PredictorError

_log = logging.getLogger("tidegate.runner")

MAX_CONVICTED = 1024
"""Fingerprints that one version remembers; the oldest go first."""
CONVICTED_S = 3600.0
"""How long an input is refused: a model that failed for another reason gets another chance."""
STRIKES = 10
"""How often in a row a model has to fail on one row alone until the row is refused: what it fails on for
another reason, such as a store that it reads, works again before."""
_MAX_ROWS = 4096
_COUNT = struct.Struct("<Q")
_WIDTH = 8

Fingerprint = bytes
UNKNOWN: Fingerprint = b""
"""Of a row of which nothing is to be remembered: as a note it takes no space, and nothing is equal to it."""


class QuarantinedInput(PredictorError):
    """The model is not asked: it did not survive this input before."""

    code = "quarantined_input"


def fingerprints(inputs: Batch, *, secret: bytes) -> list[Fingerprint]:
    """Return a keyed hash of each row, 8 bytes; the same for every version that is given the same row."""
    n_rows = inputs.n_rows
    pieces: list[np.ndarray] = []
    objects: list[tuple[str, np.ndarray]] = []
    packed: set[str] = set()
    for names, block in inputs.blocks():
        if block.dtype != object:
            pieces.append(np.ascontiguousarray(block).reshape(n_rows, -1).view(np.uint8))
            packed.update(names)
    for name in sorted(inputs.columns):
        if name in packed:
            continue
        column = inputs.columns[name]
        if column.dtype == object:
            objects.append((name, column))
        else:
            pieces.append(np.ascontiguousarray(column).reshape(n_rows, -1).view(np.uint8))
    plain = np.concatenate(pieces, axis=1) if pieces else np.zeros((n_rows, 0), np.uint8)
    data, width = plain.tobytes(), plain.shape[1]
    fresh = blake2b(key=secret, digest_size=_WIDTH).copy
    found = []
    for row in range(n_rows):
        state = fresh()
        state.update(data[row * width : (row + 1) * width])
        for name, column in objects:
            state.update(f"\0{name}\0{column[row]!r}".encode(errors="replace"))
        found.append(state.digest())
    return found


class Notes:
    """The rows of the call that runs, where the next process finds them if this one dies."""

    def __init__(self, path: Path) -> None:
        """Map the page; `left` is what a process before has left there."""
        size = _COUNT.size + _WIDTH * _MAX_ROWS
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) < size:
                file.write(bytes(size - file.tell()))
                file.flush()
            self._page = mmap.mmap(file.fileno(), size)
        (count,) = _COUNT.unpack_from(self._page)
        body = self._page[_COUNT.size : _COUNT.size + _WIDTH * min(count, _MAX_ROWS)]
        self.left = [body[at : at + _WIDTH] for at in range(0, len(body), _WIDTH)]
        self.end()

    def begin(self, rows: Sequence[Fingerprint]) -> None:
        """Note the rows of a call; the count goes last, so that a note is whole."""
        data = b"".join(rows[:_MAX_ROWS])
        self._page[_COUNT.size : _COUNT.size + len(data)] = data
        _COUNT.pack_into(self._page, 0, len(data) // _WIDTH)

    def end(self) -> None:
        """Note that no call runs."""
        _COUNT.pack_into(self._page, 0, 0)


class _Kept(msgspec.Struct):
    """What one version remembers, as a file.

    Attributes:
        convicted: Fingerprint in hexadecimal -> until when it is refused, microseconds UTC.
        suspects: Groups of fingerprints of which one at least ends the process.
    """

    convicted: dict[str, int] = {}
    suspects: list[list[str]] = []


class Quarantine:
    """What one version does not survive. One process writes it; runners of other versions read it."""

    def __init__(self, folder: Path, version: int, *, clock: Clock) -> None:
        """Read what is known.

        Args:
            folder: Of the service; one file a version.
            version: Number of the version.
            clock: Wall time.
        """
        self._folder = folder
        self._path = folder / f"{version}.json"
        self._clock = clock
        kept = _read(self._path)
        self._convicted = {bytes.fromhex(each): until for each, until in kept.convicted.items()}
        self._suspects = [{bytes.fromhex(each) for each in group} for group in kept.suspects]
        self._strikes: dict[Fingerprint, int] = {}
        self._is_written = True

    @property
    def is_empty(self) -> bool:
        """Whether every row may be in every call: then nothing has to be looked up."""
        return not self._convicted and not self._suspects

    def crashed(self, rows: Sequence[Fingerprint]) -> None:
        """Learn that a process died with these rows in a call."""
        found = set(rows)
        if len(found) == 1 and found in self._suspects:
            self.convict(found)
        elif found:
            # those of an older group that are not here have run, or were not there: this group explains it
            self._suspects = [group for group in self._suspects if not group & found]
            self._suspects.append(found)
        self._write()

    def convict(self, rows: Iterable[Fingerprint]) -> None:
        """Refuse rows from now on, for a while."""
        until_us = self._clock.wall_us() + int(CONVICTED_S * 1e6)
        for row in rows:
            self._convicted[row] = until_us
            for group in self._suspects:
                group.discard(row)
        while len(self._convicted) > MAX_CONVICTED:
            del self._convicted[next(iter(self._convicted))]
        self._suspects = [group for group in self._suspects if group]

    def failed_alone(self, row: Fingerprint) -> None:
        """Learn that the model raised on this row by itself."""
        if row == UNKNOWN:
            return
        self._strikes[row] = strikes = self._strikes.pop(row, 0) + 1
        if strikes >= STRIKES:
            del self._strikes[row]
            self.convict([row])
            self._write()
        while len(self._strikes) > MAX_CONVICTED:
            del self._strikes[next(iter(self._strikes))]

    def worked(self, rows: Sequence[Fingerprint]) -> None:
        """Learn that a call with these rows ended well."""
        if not self._suspects and not self._strikes:
            return
        for row in rows:
            self._strikes.pop(row, None)
        before = sum(map(len, self._suspects))
        for group in self._suspects:
            group.difference_update(rows)
        self._suspects = [group for group in self._suspects if group]
        if sum(map(len, self._suspects)) != before:
            self._write()

    def refused(self, rows: Sequence[Fingerprint]) -> list[int]:
        """Return the positions of rows that the model is not asked about."""
        if not self._convicted:
            return []
        now_us = self._clock.wall_us()
        found = []
        for position, row in enumerate(rows):
            until_us = self._convicted.get(row)
            if until_us is None:
                continue
            if until_us <= now_us:
                del self._convicted[row]
            else:
                found.append(position)
        return found

    def is_shared(self, rows: Iterable[Fingerprint]) -> bool:
        """Tell whether another version of the service does not survive these rows either.

        Then the input is at fault, and no version is to be charged with it.
        """
        wanted = {row.hex() for row in rows}
        now_us = self._clock.wall_us()
        for path in self._folder.glob("*.json"):
            if path != self._path:
                convicted = _read(path).convicted
                wanted -= {row for row in wanted if convicted.get(row, 0) > now_us}
        return not wanted

    def calls(self, rows: Sequence[Fingerprint]) -> list[list[int]]:
        """Return the calls that rows go into: who is no suspect together, the others by halves."""
        if not self._suspects:
            return [list(range(len(rows)))]
        found: list[list[int]] = [[]]
        left = dict(enumerate(rows))
        for group in self._suspects:
            mine = [position for position, row in left.items() if row in group]
            for position in mine:
                del left[position]
            most = max(1, len(group) // 2)
            distinct: dict[Fingerprint, list[int]] = {}
            for position in mine:
                distinct.setdefault(rows[position], []).append(position)
            kinds = list(distinct.values())
            found += [
                [position for kind in kinds[at : at + most] for position in kind]
                for at in range(0, len(kinds), most)
            ]
        found[0] = list(left)
        return [call for call in found if call]

    def _write(self) -> None:
        kept = _Kept(
            {row.hex(): until for row, until in self._convicted.items()},
            [sorted(row.hex() for row in group) for group in self._suspects],
        )
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_bytes(msgspec.json.encode(kept))
            draft.replace(self._path)
        except OSError as error:  # it ends no model: what is not written is known until this process ends
            if self._is_written:
                _log.error("quarantine.write_failed: %s", error)
            self._is_written = False
        else:
            self._is_written = True


class RowGuard(NamedTuple):
    """What a runner needs to find out which rows its model does not survive.

    Attributes:
        quarantine: What is known of the version.
        notes: Where the rows of the call that runs are noted.
        secret: Key of the fingerprints.
    """

    quarantine: Quarantine
    notes: Notes
    secret: bytes

    def fingerprints(self, inputs: Batch) -> list[Fingerprint]:
        """Return the fingerprint of each row."""
        return fingerprints(inputs, secret=self.secret)


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return _Kept()


def quarantined(folder: Path) -> Mapping[str, int]:
    """Return how many inputs each version of a service refuses, by the version's number."""
    return {path.stem: n for path in folder.glob("*.json") if (n := len(_read(path).convicted))}
