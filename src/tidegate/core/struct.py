"""Structs of a process with threads: msgspec learns what a class holds when it is first decoded.

Two threads that decode the same class for the first time at the same moment end the process (a segmentation
fault of msgspec 0.22 and before): so a process learns all that it has before it begins threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def learn_structs() -> int:
    """Have msgspec learn every struct class that is imported by now; returns how many could be.

    Call it in the main thread, before others begin. What is imported later is learnt by its module.
    """
    learnt = 0
    for kind in _below(msgspec.Struct):
        try:
            msgspec.json.Decoder(kind)
        except (TypeError, NameError):  # a generic one, or one that is only ever encoded
            continue
        learnt += 1
    return learnt


def _below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
