"""What answers rare routes is made once, beside the event loop, and again after a failure."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from modelyard_runtime.http.asgi import Application
from modelyard_runtime.http.lazy_application import LazyApplication
from modelyard_runtime.http.response import json_response
from waiting import eventually_async


async def ask(app: LazyApplication) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:  # type: ignore[arg-type]
        return await client.get("/models")


async def made(scope: Any, receive: Any, send: Any) -> None:
    await json_response(200, {"made": True}).send(send)


class Maker:
    """Makes the application once it is released; fails as often as it is told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self.released = threading.Event()

    def __call__(self) -> Application:
        self.calls += 1
        self.released.wait()
        if self.calls <= self.failures:
            raise ImportError("no such package")
        return made


def test_first_requests_share_what_is_made_while_the_event_loop_goes_on() -> None:
    maker = Maker()
    app = LazyApplication(maker)

    async def run() -> list[httpx.Response]:
        asked = [asyncio.create_task(ask(app)) for _ in range(5)]
        await eventually_async(lambda: maker.calls == 1)  # only an event loop that goes on comes to release it
        maker.released.set()
        return [*await asyncio.gather(*asked), await ask(app)]

    answers = asyncio.run(run())

    assert [answer.json() for answer in answers] == [{"made": True}] * 6
    assert maker.calls == 1


def test_a_client_that_goes_away_takes_nobody_elses_application() -> None:
    maker = Maker()
    app = LazyApplication(maker)

    async def run() -> httpx.Response:
        first, second = (asyncio.create_task(ask(app)) for _ in range(2))
        await eventually_async(lambda: maker.calls == 1)
        first.cancel()
        await asyncio.wait([first])
        maker.released.set()
        return await second

    assert asyncio.run(run()).json() == {"made": True}
    assert maker.calls == 1


def test_a_failure_is_logged_told_to_all_that_wait_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    maker = Maker(failures=1)
    app = LazyApplication(maker)

    async def run() -> list[httpx.Response]:
        asked = [asyncio.create_task(ask(app)) for _ in range(2)]
        await eventually_async(lambda: maker.calls == 1)
        maker.released.set()
        return [*await asyncio.gather(*asked), await ask(app)]

    answers = asyncio.run(run())

    failed = {"error": "the server failed; its log says why"}
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (500, failed),
        (500, failed),
        (200, {"made": True}),
    ]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such package"
