"""Features on their way to the model: read by the request's keys, and merged with the request's fields.

Callers send the request's fields only; the model gets these and the features of the declared views;
the record has both, and says of each view how it was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract
from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.feature.block import Blocks, Versioned
from tidegate.feature.definition import (
    STATES,
    age_column,
    decision_time,
    merged_contract,
    merged_layout,
    state_column,
)
from tidegate.feature.online import FeatureRows, OnlineStore, OnlineStoreUnavailable, read, unread
from tidegate.feature.view import Plan, Policy, State
from tidegate.serving.admission import Backlog
from tidegate.serving.call import Call, Group

if TYPE_CHECKING:
    from tidegate.serving.endpoint import Executor

_log = logging.getLogger("tidegate.serving")

OPEN_S = 5.0
"""How long a new version waits for the shared store: the client's package alone takes a part of a second
to import. A store that is down is not waited for."""

_RETRY_S = 0.5
_KEPT_KEYS = 16_384
_KEPT_PADS = 64
_NAMES = np.array(STATES, dtype=object)


class FeatureMissing(TidegateError):
    """Nothing is known of a request's key, and the view's policy is not to guess.

    Attributes:
        is_final: The policy asks for an error, so no fallback answers in its place.
    """

    code = "feature_missing"

    def __init__(self, message: str, *, hint: str = "", is_final: bool = False, **context: object) -> None:
        super().__init__(message, hint=hint, **context)
        self.is_final = is_final


class FeatureStale(FeatureMissing):
    """What is known of a request's key is too old, and the view's policy is not to use it."""

    code = "feature_stale"


class FeatureUnread(FeatureMissing):
    """The store of features could not be asked, or not in time, and the view's policy is not to guess."""

    code = "feature_unread"


_ERRORS: dict[State, type[FeatureMissing]] = {
    State.MISSING: FeatureMissing,
    State.STALE: FeatureStale,
    State.UNREAD: FeatureUnread,
}
_SAID = {
    State.MISSING: "knows nothing of the {names} of row {row}",
    State.STALE: "knows nothing recent of the {names} of row {row}",
    State.UNREAD: "could not be read in time",
}


class Ask(NamedTuple):
    """One view and the keys it is asked of.

    Attributes:
        plan: Of the view.
        keys: From `plan.key_of`.
        moments: As of when, one a key, microseconds since 1970 UTC.
    """

    plan: Plan
    keys: list[bytes]
    moments: list[int]


Found = list[FeatureRows] | None
"""What was read, one item an `Ask`; None where the store could not be asked."""


class Source(Protocol):
    """Where a worker reads features."""

    def read(self, asks: Sequence[Ask], *, timeout_s: float, done: Callable[[Found], None]) -> None:
        """Read, and call `done` in the loop, at once or within the time."""
        ...

    async def warm_up(self) -> None:
        """Open the store, as well as can be: the first requests shall not wait for it."""
        ...

    def close(self) -> None:
        """Let go of files, connections and threads."""
        ...


class FeatureMerge:
    """The views of one version, compiled."""

    def __init__(self, contract: Contract, plans: Sequence[Plan]) -> None:
        """Compile.

        Args:
            contract: What callers send.
            plans: Of the views, in order.

        Raises:
            InvalidSetting: They do not fit together.
        """
        self.contract = merged_contract(contract, plans)
        self.layout = merged_layout(contract, plans)
        self.plans = tuple(plans)
        self._request = contract.input.names
        self._time = decision_time(contract)
        self._states = tuple(state_column(plan) for plan in plans)
        self._keys: dict[tuple[str, tuple[Any, ...]], bytes] = {}
        self._pads: dict[int, dict[str, Column]] = {}

    def widen(self, inputs: Batch) -> Batch:
        """Return a request's columns with those of the features beside them, as yet unread.

        So whatever befalls a request before its features come, its record has all columns.
        """
        pad = self._pads.get(inputs.n_rows)
        if pad is None:
            pad = self._columns([unread(plan, inputs.n_rows) for plan in self.plans])
            if inputs.n_rows <= _KEPT_PADS:
                self._pads[inputs.n_rows] = pad
        return self._beside(inputs, pad)

    def is_read(self, inputs: Batch) -> bool:
        """Tell whether these rows have been through a read of all these views that succeeded."""
        return all(
            name in inputs.columns and STATES[State.UNREAD] not in inputs[name].tolist()
            for name in self._states
        )

    def is_wide(self, inputs: Batch) -> bool:
        """Tell whether these rows have the columns of all these views."""
        return all(name in inputs.columns for name in self._states)

    def asks(self, inputs: Batch, arrived: list[int]) -> list[tuple[Ask, npt.NDArray[np.intp] | None]]:
        """Return what to read for rows, each key and moment once, and which answer is each row's.

        The second item is None where the answers are the rows.

        Args:
            inputs: The rows.
            arrived: When each arrived, microseconds UTC.
        """
        # What is known after the request came cannot have been known to it, whenever it says it is.
        moments = (
            [min(pair) for pair in zip(inputs[self._time].tolist(), arrived, strict=True)]
            if self._time
            else arrived
        )
        asked = []
        for plan in self.plans:
            values = zip(*(inputs[field.name].tolist() for field in plan.entity), strict=True)
            pairs = list(zip([self._key(plan, value) for value in values], moments, strict=True))
            places = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
            index = None if len(places) == len(pairs) else np.array([places[pair] for pair in pairs])
            asked.append((Ask(plan, [key for key, _ in places], [at for _, at in places]), index))
        return asked

    def merged(self, inputs: Batch, found: Sequence[FeatureRows]) -> Batch:
        """Return the rows with what was read in the place of what was not."""
        return self._beside(inputs, self._columns(found))

    def refusals(self, group: Group) -> dict[Call, FeatureMissing]:
        """Return the calls that a policy does not let through to the model, each with the reason."""
        stopped: dict[Call, FeatureMissing] = {}
        for plan in self.plans:
            if plan.missing is Policy.DEFAULT and plan.stale is Policy.DEFAULT:
                continue
            states = group.inputs[state_column(plan)].tolist()
            if states.count(STATES[State.FRESH]) == len(states):
                continue
            for call in group.calls:
                error = self._refusal(plan, call, states)
                if error is not None and (call not in stopped or error.is_final):
                    stopped[call] = error
        return stopped

    def _refusal(self, plan: Plan, call: Call, states: list[str]) -> FeatureMissing | None:
        """Return why a call does not go on; that a row is rejected counts more than that one falls back."""
        found: FeatureMissing | None = None
        for row in range(call.n_rows):
            state = State(STATES.index(states[call.start + row]))
            policy = plan.policy(state)
            if policy is Policy.REJECT:
                return _error(call.arm.service, plan, state, row, is_final=True)
            if policy is Policy.FALLBACK and found is None:
                found = _error(call.arm.service, plan, state, row, is_final=False)
        return found

    def _key(self, plan: Plan, values: tuple[Any, ...]) -> bytes:
        name = (plan.name, values)
        key = self._keys.get(name)
        if key is None:
            if len(self._keys) >= _KEPT_KEYS:
                self._keys.clear()
            # An empty key finds nothing: a request without the field has no such entity.
            key = self._keys[name] = b"" if None in values else plan.key_of(values)
        return key

    def _columns(self, found: Sequence[FeatureRows]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for plan, rows in zip(self.plans, found, strict=True):
            columns.update(rows.columns)
            columns[state_column(plan)] = _NAMES[rows.states]
            columns[age_column(plan)] = rows.ages_us
        return columns

    def _beside(self, inputs: Batch, columns: dict[str, Column]) -> Batch:
        request = {name: inputs.columns[name] for name in self._request}
        return Batch({**request, **columns}, inputs.n_rows, blocks=inputs.blocks())


class FeatureExecutor:
    """Reads a group's features, then lets the model's own executor run."""

    def __init__(
        self, inner: Executor, merge: FeatureMerge, source: Source, *, clock: Clock, read_s: float
    ) -> None:
        """Stand before a model's executor.

        Args:
            inner: Runs the model.
            merge: Which features it takes, and what becomes of those that are not there.
            source: Where they are read.
            clock: The clock.
            read_s: How long a read may take; never more than half of what is left of a request's time,
                because the model has to be asked as well.
        """
        self._inner = inner
        self._merge = merge
        self._source = source
        self._clock = clock
        self._read_s = read_s
        self._reading_rows = 0

    @property
    def is_there(self) -> bool:
        return self._inner.is_there

    @property
    def backlog(self) -> Backlog | None:
        """What waits at the model itself."""
        return getattr(self._inner, "backlog", None)

    @property
    def in_loop(self) -> bool:
        return getattr(self._inner, "in_loop", False)

    @property
    def waiting_rows(self) -> int:
        return self._inner.waiting_rows + self._reading_rows

    @property
    def wait_s(self) -> float:
        return self._inner.wait_s

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Read, merge, and submit what the policies let through; the rest is done with its reason."""
        # Check inputs belong to no call and come complete; what is tried again has been read.
        if not group.calls or self._merge.is_read(group.inputs):
            self._inner.submit(group, done)
            return
        if not self._merge.is_wide(group.inputs):  # a copy of another version's rows
            group.inputs = self._merge.widen(group.inputs)
        arrived = [call.arrived_us for call in group.calls for _ in range(call.n_rows)]
        asked = self._merge.asks(group.inputs, arrived)
        left_s = min(call.deadline_s for call in group.calls) - self._clock.monotonic_s()
        self._reading_rows += group.n_rows

        def go_on(found: Found) -> None:
            self._reading_rows -= group.n_rows
            if found is not None:
                rows = [
                    each if index is None else each.take(index)
                    for each, (_, index) in zip(found, asked, strict=True)
                ]
                group.inputs = self._merge.merged(group.inputs, rows)
            self._go_on(group, done)

        self._source.read([ask for ask, _ in asked], timeout_s=min(self._read_s, left_s / 2), done=go_on)

    def _go_on(self, group: Group, done: Callable[[Group], None]) -> None:
        stopped = self._merge.refusals(group)
        if not stopped:
            self._inner.submit(group, done)
            return
        passed = [call for call in group.calls if call not in stopped]
        parts = [(group.part([call]), reason) for call, reason in stopped.items()]
        rest = group.part(passed) if passed else None
        for part, reason in parts:
            part.error = reason
            done(part)
        if rest is not None:
            self._inner.submit(rest, done)

    def close(self) -> None:
        self._inner.close()


class Store:
    """A store that is opened when it is first read, and again some time after it failed."""

    def __init__(self, open: Callable[[], OnlineStore], *, clock: Clock) -> None:
        self._open = open
        self._clock = clock
        self._store: OnlineStore | None = None
        self._blocks: Blocks | None = None
        self._retry_at_s = 0.0

    def read(self, asks: Sequence[Ask]) -> Found:
        """Return what is asked, or None where the store cannot be read."""
        if self._store is None and self._clock.monotonic_s() < self._retry_at_s:
            return None
        try:
            if self._store is None:
                self._store = store = self._open()
                self._blocks = Blocks(store, store) if isinstance(store, Versioned) else None
            if self._blocks is not None:
                self._blocks.refresh()
            return [
                read(ask.plan, self._store, ask.keys, at_us=ask.moments, blocks=self._blocks) for ask in asks
            ]
        except TidegateError as error:
            _log.error("features.not_read: %s", error.message)
            self.close()
            self._retry_at_s = self._clock.monotonic_s() + _RETRY_S
            return None

    def close(self) -> None:
        store, self._store, self._blocks = self._store, None, None
        if store is not None:
            try:
                store.close()
            except OnlineStoreUnavailable as error:
                _log.warning("features.not_closed: %s", error.message)


class InlineSource:
    """Reads in the loop: for a store in this machine's files, which takes a fraction of a millisecond."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, asks: Sequence[Ask], *, timeout_s: float, done: Callable[[Found], None]) -> None:
        done(self._store.read(asks))

    async def warm_up(self) -> None:
        self._store.read([])

    def close(self) -> None:
        self._store.close()


class SharedSource:
    """Reads beside the loop, in a thread: for a store on the network.

    One read is under way at a time; what is asked meanwhile goes together into the next one.
    """

    def __init__(self, store: Store, *, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._waiting: list[_Waiting] = []
        self._is_reading = False

    def read(self, asks: Sequence[Ask], *, timeout_s: float, done: Callable[[Found], None]) -> None:
        waiting = _Waiting(asks, done)
        waiting.timer = self._loop.call_later(max(0.0, timeout_s), waiting.finish, None)
        self._waiting.append(waiting)
        if not self._is_reading:
            self._start()

    async def warm_up(self) -> None:
        opened = self._loop.run_in_executor(self._thread, self._store.read, [])
        # what takes longer goes on beside the loop
        await asyncio.wait([opened], timeout=OPEN_S)

    def close(self) -> None:
        self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)

    def _start(self) -> None:
        waiting, self._waiting = [one for one in self._waiting if not one.is_done], []
        if not waiting:
            return
        self._is_reading = True
        future = self._loop.run_in_executor(self._thread, self._store.read, _together(waiting))
        future.add_done_callback(lambda done: self._finish(waiting, done))

    def _finish(self, waiting: list[_Waiting], future: asyncio.Future[Found]) -> None:
        self._is_reading = False
        if error := future.exception():
            _log.error("features.not_read", exc_info=error)
        found = None if error else future.result()
        self._start()  # the next ones are read while these go to their model
        begun = dict.fromkeys((id(ask.plan) for one in waiting for ask in one.asks), 0)
        rows = {} if found is None else dict(zip(begun, found, strict=True))
        for one in waiting:
            mine = []
            for ask in one.asks:
                start = begun[id(ask.plan)]
                begun[id(ask.plan)] = stop = start + len(ask.keys)
                if found is not None:
                    mine.append(rows[id(ask.plan)].take(slice(start, stop)))
            one.finish(None if found is None else mine)


class _Waiting:
    """Somebody who has asked."""

    __slots__ = ("_done", "asks", "is_done", "timer")

    def __init__(self, asks: Sequence[Ask], done: Callable[[Found], None]) -> None:
        self.asks = asks
        self.is_done = False
        self.timer: asyncio.TimerHandle
        self._done = done

    def finish(self, found: Found) -> None:
        """Answer, unless the time was over before."""
        if not self.is_done:
            self.is_done = True
            self.timer.cancel()
            self._done(found)


def _together(waiting: Sequence[_Waiting]) -> list[Ask]:
    """Return one ask a view. Views of one name may differ between versions: each is asked by itself."""
    by_view: dict[int, Ask] = {}
    for ask in (ask for one in waiting for ask in one.asks):
        whole = by_view.setdefault(id(ask.plan), Ask(ask.plan, [], []))
        whole.keys.extend(ask.keys)
        whole.moments.extend(ask.moments)
    return list(by_view.values())


def _error(service: str, plan: Plan, state: State, row: int, *, is_final: bool) -> FeatureMissing:
    names = ", ".join(field.name for field in plan.entity)
    said = _SAID[state].format(names=names, row=row)
    return _ERRORS[state](
        f"View {plan.name!r} of service {service!r} {said}.",
        hint="Its policy asks for a value: see that its events are put into the online store.",
        is_final=is_final,
        service=service,
        view=plan.name,
        state=state.name.lower(),
    )
