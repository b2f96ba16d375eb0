"""Takes waiting requests away from a version that was rolled back, so that it answers no more of them.

Under load hundreds of requests wait for a slow version. Left to it, its last answers would come seconds
after the rollback; asked again of the version that has their keys now, they are answered as if it had
had them from the start.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate.core.error import TidegateError
from tidegate.serving.call import Call
from tidegate.serving.endpoint import Endpoint


def take_back(waiting: Iterable[Call], endpoint: Endpoint) -> list[Call]:
    """Return, for calls that wait for a version the route has taken away, calls that go by the route.

    The calls in their place are settled: an answer to them is not heard any more.

    Args:
        waiting: Calls of any service that their model has not answered.
        endpoint: The service's new route.
    """
    if not endpoint.arms:
        return []
    away = [
        call
        for call in waiting
        if call.arm.service == endpoint.service
        and not call.settled
        and not call.abandoned
        and (call.arm.version.number not in endpoint.pinnable or endpoint.safe_mode > call.arm.safe_mode)
    ]
    return [moved for call in away if (moved := _move(call, endpoint)) is not None]


def _move(call: Call, endpoint: Endpoint) -> Call | None:
    keys = call.key_hashes
    arm, bucket = endpoint.pick(keys[0] if keys else call.request_id)
    try:
        inputs = arm.version.adopt(call.inputs, call.arm.version)
    except TidegateError:  # the version before does not take what this one takes: let it answer
        return None
    moved = Call(
        arm,
        inputs,
        n_rows=call.n_rows,
        request_id=call.request_id,
        arrived_us=call.arrived_us,
        started_s=call.started_s,
        deadline_s=call.deadline_s,
        reply=call.reply,
        origin=call.origin,
    )
    moved.caller_id, moved.trace = call.caller_id, call.trace
    moved.key_hashes, moved.bucket, moved.criticality = keys, bucket, call.criticality
    call.settled = True
    call.abandon()  # so that the model, if it has not begun, does not begin
    call.on_abandon = moved.abandon  # the connection knows this call: if it ends, the other is to hear of it
    return moved
