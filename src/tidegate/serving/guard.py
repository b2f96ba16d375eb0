"""What stands between a model and its callers: the output contract, and who answers instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.contract.violation import ContractViolation
from tidegate.core.error import TidegateError
from tidegate.journal.record import Flag
from tidegate.predictor.protocol import PredictorError
from tidegate.serving.call import BreakerOpen, Call, Group, OutputViolation, Overloaded
from tidegate.serving.feature import FeatureMissing
from tidegate.serving.inline import predict_checked
from tidegate.serving.quarantine import QuarantinedInput

if TYPE_CHECKING:
    from tidegate.serving.endpoint import LoadedVersion


def inspect(group: Group) -> tuple[Group | None, list[tuple[Group, OutputViolation]]]:
    """Hold a group's outputs against the contract.

    Returns:
        The calls whose rows all fulfil it (None if there are none), and each of the others by
        itself with what is wrong.
    """
    assert group.outputs is not None
    check = group.arm.version.output_check
    if not check.violations(group.outputs):
        return group, []
    # The list of violations may be cut short, so each call is looked at by itself. A part keeps its
    # calls' rows, so the good ones are put together last.
    good: list[Call] = []
    bad: list[Call] = []
    for call in group.calls:
        rows = group.outputs.rows(call.start, call.start + call.n_rows)
        (bad if check.violations(rows) else good).append(call)
    parts = [(part, _violation(part)) for part in (group.part([call]) for call in bad)]
    return group.part(good) if good else None, parts


def _violation(part: Group) -> OutputViolation:
    version = part.arm.version
    assert part.outputs is not None
    part.flags |= Flag.INVALID
    reasons = " ".join(violation.message for violation in version.output_check.violations(part.outputs)[:3])
    return OutputViolation(
        f"Version {version.number} of service {version.service!r} answered against its contract. {reasons}",
        hint="The model is at fault, not the request.",
        service=version.service,
        version=version.number,
    )


def fall_back(part: Group, error: TidegateError) -> None:
    """Let the declared fallbacks answer, in order, what the model could not; else keep the error.

    The answer is marked with who gave it; the error stays with the record either way.
    """
    version = part.arm.version
    part.outputs = None
    is_final = isinstance(error, FeatureMissing) and error.is_final
    for name, predictor in () if is_final else version.fallbacks:
        try:
            outputs = predict_checked(predictor, part.inputs)
        except PredictorError:
            continue  # the next in the chain is there for this
        if version.output_check.violations(outputs):
            continue
        part.outputs = outputs
        part.answered_by = name
        part.flags |= Flag.FALLBACK
        break
    else:
        part.flags |= Flag.FAILED
    part.error = error
    for call in part.calls:
        call.error = None if part.outputs is not None else error


def is_fault(error: TidegateError) -> bool:
    """Tell whether an error speaks against the version that made it, and not against its input."""
    return isinstance(error, PredictorError | OutputViolation) and not isinstance(error, QuarantinedInput)


def ask_stand_in(part: Group, error: TidegateError) -> tuple[LoadedVersion, Group] | None:
    """Return the version that may answer a call in its own one's place, and what it is to be asked.

    The stable version is asked before any table or constant, since it answers as well as anybody. An
    input that was put aside because it brings models down is not tried on it too.

    Args:
        part: One call that its version could not answer.
        error: Why.

    Returns:
        None if there is no such version, or it cannot take the input.
    """
    arm = part.arm
    stand_in = arm.stand_in
    if stand_in is None or arm.safe_mode or not stand_in.breaker.is_closed:
        return None
    if not (is_fault(error) or isinstance(error, BreakerOpen | Overloaded)):
        return None
    try:
        adopted = stand_in.adopt(part.inputs, arm.version)
    except ContractViolation:
        return None
    inputs = stand_in.decoder.gather(adopted) if isinstance(adopted, list) else adopted
    asked = Group(arm, part.calls, inputs)
    for call in part.calls:
        call.group = part  # the record is of the version that was to answer, and has its columns
    return stand_in, asked


def take_stand_in(part: Group, asked: Group, error: TidegateError) -> bool:
    """Give a call the stand-in's answer; False if there is none that its version's contract allows."""
    check = part.arm.version.output_check
    outputs = asked.outputs
    if asked.error is not None or outputs is None:
        return False
    if any(name not in outputs.columns for name in part.arm.version.contract.output.names):
        return False
    if check.violations(outputs):
        return False
    assert part.arm.stand_in is not None
    part.outputs = outputs
    part.answered_by = f"version:{part.arm.stand_in.number}"
    part.flags |= Flag.FALLBACK
    part.error = error
    for call in part.calls:
        call.error = None
    return True
