"""Whether a loaded version answers as it did when it was registered, by its real path."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidegate.contract.decode import RowDecoder
from tidegate.core.error import TidegateError
from tidegate.serving.call import Group
from tidegate.serving.endpoint import Arm, LoadedVersion


class CheckFailed(TidegateError):
    """A version does not answer its check inputs as it did when it was registered."""

    code = "check_inputs_failed"


class AnswersDiffer(CheckFailed):
    """It does answer, but otherwise: nothing would keep wrong answers from callers."""


async def check_answers(
    version: LoadedVersion,
    rows: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    *,
    tolerance: float,
    timeout_s: float = 30.0,
) -> None:
    """Put check inputs through decoder, executor and output contract, and compare the answers.

    Args:
        version: The version.
        rows: Request rows, plain JSON objects.
        expected: The answers to them.
        tolerance: Largest difference of a number, absolute, or relative where that is larger.
        timeout_s: How long the model may take.

    Raises:
        AnswersDiffer: An answer is another one.
        CheckFailed: An answer is against the contract, or did not come.
    """
    decoder = version.decoder
    if version.features is not None:  # the rows come with features: what the store says may differ by now
        decoder = RowDecoder(version.features.contract.input, max_rows=len(rows))
    decoded, _ = decoder.decode(msgspec.json.encode({"rows": list(rows)}))
    group = Group(Arm("check", version), [], decoder.gather(decoded))
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(_: Group) -> None:
        if not done.done():
            done.set_result(None)

    version.executor.submit(group, finish)
    try:
        await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        raise CheckFailed(f"The check inputs were not answered within {timeout_s:g} s.") from None
    if group.error is not None:
        raise CheckFailed(f"The check inputs failed: {group.error.message}") from group.error
    assert group.outputs is not None
    if violations := version.output_check.violations(group.outputs):
        raise CheckFailed(f"The check inputs were answered against the contract. {violations[0].message}")
    answers = msgspec.to_builtins(group.answer_rows)
    for number, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
        for field, value in wanted.items():
            if not _close(answer.get(field), value, tolerance):
                raise AnswersDiffer(
                    f"Check input {number} was answered {field}={answer.get(field)!r}, expected {value!r}.",
                    hint="The model, its runtime or its conversion differs from what was registered.",
                    field=field,
                )


def _close(answer: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(wanted)
            and all(_close(one, other, tolerance) for one, other in zip(answer, wanted, strict=True))
        )
    if isinstance(wanted, float | int) and isinstance(answer, float | int):
        return math.isclose(answer, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return bool(answer == wanted)
