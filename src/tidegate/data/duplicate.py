"""Duplicates: rows that stand twice, and texts that nearly do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting

N_HASHES = 64
"""Values of a MinHash signature: the estimate of a similarity has a standard error of at most 1/16."""

N_BANDS = 16
"""Bands of 4 values each: texts of similarity 0.8 meet in one with probability 0.9998, of 0.7 with 0.99, of
0.3 with 0.12."""

MAX_BUCKET = 50
"""Texts that share a band are compared pair by pair; of more than these each with the first alone, so that
thousands of texts of one template are found without millions of comparisons."""

_SHINGLE = 4
_PRIME = (1 << 31) - 1


class Duplicates(NamedTuple):
    """Rows that repeat an earlier one.

    Attributes:
        rows: Their numbers, ascending.
        first: For each, the row it repeats.
    """

    rows: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def exact_duplicates(table: pl.DataFrame, columns: Sequence[str] = ()) -> Duplicates:
    """Find the rows that equal an earlier one, in all columns or in some. Missing equals missing.

    Raises:
        InvalidSetting: A column does not exist.
    """
    named = list(columns) or table.columns
    for column in named:
        if column not in table.columns:
            raise InvalidSetting(f"There is no column {column!r}.", column=column)
    if not named:
        return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
    numbered = table.select(named).with_row_index("\x00row")
    first = numbered.select(pl.col("\x00row").first().over(named)).to_series().to_numpy().astype(np.int64)
    rows = np.flatnonzero(first != np.arange(len(first)))
    return Duplicates(rows, first[rows])


class NearPair(NamedTuple):
    """Two rows whose texts are nearly the same.

    Attributes:
        first, second: Row numbers, first < second.
        similarity: Share of their 4-character shingles that both have (Jaccard), exact.
    """

    first: int
    second: int
    similarity: float


def near_duplicates(texts: pl.Series, *, at_least: float = 0.8) -> list[NearPair]:
    """Find pairs of texts that differ, and share most of their shingles.

    Candidates come from MinHash signatures in bands, and are then compared exactly: what is returned is
    right, and a pair of similarity 0.8 is missed about twice in ten thousand, of 0.7 once in eighty. Case,
    punctuation and white space do not count; texts that are equal without them have similarity 1. A text
    that repeats is represented by its first row.

    Args:
        texts: A column of text; missing ones are left out.
        at_least: Least similarity, in [0.7, 1].

    Raises:
        InvalidSetting: The column is no text, or the similarity lies outside.

    Source: Broder, "On the resemblance and containment of documents", SEQUENCES 1997; bands: Leskovec,
    Rajaraman & Ullman, Mining of Massive Datasets, section 3.4.
    """
    if texts.dtype != pl.String:
        raise InvalidSetting(f"Near duplicates are sought in text. Column {texts.name!r} is {texts.dtype}.")
    if not 0.7 <= at_least <= 1:
        raise InvalidSetting(f"The least similarity must lie in [0.7, 1]. Got {at_least}.")
    rows: list[int] = []
    shingles: list[frozenset[int]] = []
    seen: set[str] = set()
    for row, text in enumerate(texts.to_list()):
        if text is not None and text not in seen:
            seen.add(text)
            rows.append(row)
            shingles.append(_shingles(text))
    found = []
    for one, other in sorted(_candidates(shingles)):
        union = len(shingles[one] | shingles[other])
        similarity = len(shingles[one] & shingles[other]) / union if union else 1.0
        if similarity >= at_least:
            found.append(NearPair(rows[one], rows[other], similarity))
    return found


_SPACE = re.compile(r"[\W_]+")


def _shingles(text: str) -> frozenset[int]:
    plain = _SPACE.sub(" ", text.casefold()).strip()
    pieces = {plain[at : at + _SHINGLE] for at in range(max(1, len(plain) - _SHINGLE + 1))}
    return frozenset(_hash(piece) for piece in pieces)


def _hash(piece: str) -> int:
    # Python's own hash of text differs from process to process. Two characters that fold together would
    # only make a candidate more.
    value = 2166136261
    for character in piece:
        value = ((value ^ ord(character)) * 16777619) & 0xFFFFFFFF
    return value


def _candidates(shingles: list[frozenset[int]]) -> set[tuple[int, int]]:
    draw = np.random.default_rng(0)
    factors = draw.integers(1, _PRIME, (N_HASHES, 1), dtype=np.int64)
    offsets = draw.integers(0, _PRIME, (N_HASHES, 1), dtype=np.int64)
    signatures = np.zeros((len(shingles), N_HASHES), np.int64)
    for position, pieces in enumerate(shingles):
        values = np.fromiter(pieces, np.int64, len(pieces)) % _PRIME
        signatures[position] = ((factors * values + offsets) % _PRIME).min(axis=1)
    pairs: set[tuple[int, int]] = set()
    width = N_HASHES // N_BANDS
    for band in range(N_BANDS):
        for bucket in _buckets(signatures[:, band * width : (band + 1) * width]):
            leaders = bucket if len(bucket) <= MAX_BUCKET else bucket[:1]
            pairs.update((one, other) for at, one in enumerate(leaders) for other in bucket[at + 1 :])
    return pairs


def _buckets(band: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    if not len(band):
        return
    _, place, counts = np.unique(band, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(place.reshape(-1), kind="stable")
    for rows in np.split(order, np.cumsum(counts)[:-1]):
        if len(rows) > 1:
            yield rows.tolist()
