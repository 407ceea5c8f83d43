"""Equal requests at one time: one computes, whoever gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.dataplane.response_cache import ResponseCache, ResponseStore
from modelyard_runtime.errors import ModelFailed
from modelyard_runtime.telemetry.metrics import Metrics
from unit.runtime.cached_answers.support import ASK, INFER, Serve, outputs, tensor
from unit.runtime.support import FakeModel
from waiting import eventually_async


def test_equal_requests_in_flight_are_computed_once(serve: Serve) -> None:
    gate, calls = threading.Event(), []

    def answer(rows: Any) -> Any:
        calls.append(len(rows))
        assert gate.wait(30)
        return rows.sum(axis=1)

    api = serve({"m": FakeModel(answer=answer, inline=False)})

    async def scenario() -> list[httpx.Response]:
        bodies = [{"id": str(index), "inputs": [tensor([1, 2])], **ASK} for index in range(4)]
        tasks = [asyncio.create_task(api.request("POST", INFER, json=body)) for body in bodies]
        await eventually_async(lambda: bool(calls) and api.app.plane.in_flight == 4)
        gate.set()
        return await asyncio.gather(*tasks)

    answers = [response.json() for response in asyncio.run(scenario())]

    assert calls == [1]
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3"]
    assert [answer["parameters"]["cached"] for answer in answers] == [False, True, True, True]
    assert [outputs(answer) for answer in answers] == [[[3.0]]] * 4


class TestCancelled:
    """Requests whose clients go: gRPC cancels them."""

    def answers(self) -> tuple[ResponseCache, ServedModel]:
        registry = Registry()
        served = ServedModel("m", "1", "linear", "sha256:00", "file:///m", FakeModel())
        registry.activate(served)
        return ResponseCache(ResponseStore(ttl=9, max_bytes=9999, clock=lambda: 0), registry, Metrics()), served

    def ask(self, compute: Callable[[], Awaitable[bytes]]) -> Callable[[], asyncio.Task[bytes]]:
        answers, served = self.answers()

        def start() -> asyncio.Task[bytes]:
            call = Call("predict", now=asyncio.get_running_loop().time(), timeout=30)
            return asyncio.create_task(answers.get(call, served, "", {"": np.zeros(1)}, compute))

        return start

    def test_another_computes_what_the_first_gave_up_on(self) -> None:
        calls = []

        async def compute() -> bytes:
            calls.append(1)
            await asyncio.sleep(60 if len(calls) == 1 else 0)
            return b"x"

        async def scenario() -> bytes:
            start = self.ask(compute)
            first, second = start(), start()
            await eventually_async(lambda: bool(calls))
            first.cancel()
            return await second

        assert asyncio.run(scenario()) == b"x"
        assert len(calls) == 2

    def test_all_may_be_cancelled_at_once(self) -> None:
        calls = []

        async def compute() -> bytes:
            calls.append(1)
            await asyncio.sleep(60)
            return b"x"

        async def scenario() -> list[bool]:
            start = self.ask(compute)
            tasks = [start() for _ in range(3)]
            await eventually_async(lambda: bool(calls))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return [task.cancelled() for task in tasks]

        assert asyncio.run(scenario()) == [True] * 3
        assert len(calls) == 1

    def test_an_error_reaches_all_that_wait(self) -> None:
        async def compute() -> bytes:
            await asyncio.sleep(0.01)
            raise ModelFailed("no")

        async def scenario() -> list[Any]:
            start = self.ask(compute)
            return list(await asyncio.gather(start(), start(), return_exceptions=True))

        assert [str(error) for error in asyncio.run(scenario())] == ["no", "no"]
