"""A version that stops answering its check inputs is unwell after two rounds, and well again after one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from tidegate.bootstrap.pulse import ROUND_TICKS, Pulse
from tidegate.serving.readiness import CheckFailed


class Loader:
    """Answers checks as it is told to."""

    def __init__(self) -> None:
        self.why = ""
        self.checked: list[str] = []

    async def check(self, version, *, timeout_s: float) -> None:
        self.checked.append(version.service)
        if self.why and version.service == "bad":
            raise CheckFailed(self.why)


class Version(SimpleNamespace):
    __hash__ = object.__hash__


def version(service: str, *, is_there: bool = True) -> Version:
    return Version(service=service, number=1, executor=SimpleNamespace(is_there=is_there))


def test_each_version_is_asked_once_a_round_and_told_unwell_after_two(tmp_path) -> None:
    async def run() -> None:
        loader, unwell = Loader(), {}
        versions = [version("good"), version("bad"), version("gone", is_there=False)]
        pulse = Pulse(loader, lambda: versions, unwell=unwell)

        async def go_round() -> None:
            for _ in range(ROUND_TICKS):
                pulse.tick()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        await go_round()
        assert loader.checked == ["good", "bad"]
        loader.why = "it answers 2"
        await go_round()
        assert ("bad", 1) not in unwell, "once may be a moment of overload"
        assert unwell == {("gone", 1): "The process that runs it is not there."}
        await go_round()
        assert unwell["bad", 1] == "it answers 2"
        loader.why = ""
        await go_round()
        assert ("bad", 1) not in unwell
        versions.pop()
        await go_round()
        assert unwell == {}

    asyncio.run(run())
