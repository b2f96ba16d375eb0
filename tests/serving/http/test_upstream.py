"""A model that another server runs is asked as a model of one's own; real sockets, the other server ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.serving.plane import CONTRACT, Harness, Told, answers
from tests.serving.test_chain import broken
from tests.serving.test_dataplane import always, in_loop
from tidegate.contract.batch import Batch
from tidegate.core.error import InvalidSetting
from tidegate.predictor.protocol import PredictorError, Spec
from tidegate.predictor.remote import RemoteOptions, RemotePredictor, decode_rows, read_options
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.face import resources
from tidegate.serving.http.site import Site
from tidegate.serving.http.upstream import UpstreamExecutor


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@asynccontextmanager
async def other(folder: Path, model: Told) -> AsyncIterator[tuple[int, Site]]:
    """Serve a model on a port of its own."""
    harness = Harness(made(folder))
    harness.serve(model)
    site = Site()
    site.publish(resources(harness.plane, metrics=folder))
    server = await harness.loop.create_server(lambda: Connection(site), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], site
    finally:
        server.close()
        for connection in list(site.connections):
            connection.time_out()


def upstream(harness: Harness, port: int, **more: Any) -> UpstreamExecutor:
    effects = more.pop("side_effects", False)
    options = RemoteOptions(f"http://127.0.0.1:{port}", "svc", **more)
    return UpstreamExecutor(CONTRACT, options, loop=harness.loop, side_effects=effects)


@in_loop
async def test_answers_what_the_other_server_answers_over_one_kept_connection(tmp_path: Path) -> None:
    async with other(tmp_path / "other", Told(lambda x: x * 2)) as (port, site):
        harness = Harness(tmp_path)
        executor = upstream(harness, port)
        harness.serve(executor)

        for number in range(5):
            (call,) = await harness.ask([float(number), 1.0])
            assert answers(call) == [number * 2.0, 2.0]

        assert len(site.connections) == 1
        executor.close()


@in_loop
async def test_a_failing_server_is_a_failing_model_and_the_fallback_answers(tmp_path: Path) -> None:
    async with other(tmp_path / "other", Told(broken)) as (port, _):
        harness = Harness(tmp_path)
        executor = upstream(harness, port)
        harness.serve(executor, fallbacks=[("constant", always(7.0))])

        (call,) = await harness.ask([1.0])

        assert answers(call) == [7.0]
        assert call.group.error is not None
        assert call.group.error.code == "remote_unavailable"
        executor.close()


@in_loop
async def test_a_server_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(upstream(harness, 1))

    (call,) = await harness.ask([1.0])

    assert call.error is not None
    assert "cannot be reached" in str(call.error)


@asynccontextmanager
async def slow_at_first(n_slow: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve a constant; the first `n_slow` requests after the twentieth are never answered."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            seen.append(await reader.readexactly(length))
            if 20 < len(seen) <= 20 + n_slow:
                continue
            body = msgspec.json.encode({"outputs": [{"name": "y", "shape": [1], "data": [5.0]}]})
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


@in_loop
async def test_asks_again_where_an_answer_takes_longer_than_most_and_the_first_one_wins(
    tmp_path: Path,
) -> None:
    async with slow_at_first(1) as (port, seen):
        harness = Harness(tmp_path)
        executor = upstream(harness, port, hedge=True)
        harness.serve(executor)
        for number in range(20):
            await harness.ask([float(number)])

        (call,) = await harness.ask([99.0])

        assert answers(call) == [5.0]
        assert executor.n_hedged == 1
        assert len(seen) == 22
        assert seen[20] == seen[21]
        executor.close()


@in_loop
async def test_a_service_with_side_effects_is_never_asked_twice(tmp_path: Path) -> None:
    async with slow_at_first(1) as (port, seen):
        harness = Harness(tmp_path)
        executor = upstream(harness, port, hedge=True, side_effects=True)
        harness.serve(executor, fallbacks=[("constant", always(7.0))])
        for number in range(20):
            await harness.ask([float(number)])

        (call,) = await harness.ask([99.0], timeout_s=0.1)

        assert answers(call) == [7.0]
        assert len(seen) == 21
        executor.close()


@in_loop
async def test_the_predictor_for_trials_gets_the_same_answers(tmp_path: Path) -> None:
    async with other(tmp_path / "other", Told(lambda x: x + 1)) as (port, _):
        predictor = RemotePredictor(CONTRACT, RemoteOptions(f"http://127.0.0.1:{port}", "svc"))
        inputs = Batch({"x": np.array([1.0, 2.0])}, 2)
        loop = asyncio.get_running_loop()

        found = await loop.run_in_executor(None, predictor.predict, inputs)

        assert found["y"].tolist() == [2.0, 3.0]
        predictor.close()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"outputs": []}', b'{"outputs": [{"name": "y", "shape": [1], "data": ["a"]}]}']
)
def test_an_answer_that_is_none_is_the_servers_failure(body: bytes) -> None:
    with pytest.raises(PredictorError, match="cannot be read"):
        decode_rows(CONTRACT, body, 1)


@pytest.mark.parametrize(
    "url", ["", "models.example", "ftp://a", "http://", "http://u:p@a", "http://a?b=c", "http://a:99999"]
)
def test_what_is_no_servers_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="not the address"):
        read_options(Spec("remote", options={"url": url, "model": "m"}))
