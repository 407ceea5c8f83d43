"""The queue's promises, with real tasks and no waiting for the clock beyond fractions of a second."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from modelyard_operator.reconcile.queue import WorkQueue
from waiting import eventually_async


async def _run(queue: WorkQueue[str], scenario: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(queue.run())
    try:
        await scenario()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_many_adds_of_one_key_before_it_runs_are_one_run() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, workers=2)
        for _ in range(1000):
            queue.add("a")

        await _run(queue, lambda: eventually_async(lambda: bool(done)))

    asyncio.run(main())

    assert done == ["a"]


def test_a_key_added_while_it_runs_runs_once_more_and_never_twice_at_once() -> None:
    running = 0
    most = 0
    runs = 0

    async def main() -> None:
        async def work(key: str) -> None:
            nonlocal running, most, runs
            running += 1
            most = max(most, running)
            runs += 1
            if runs == 1:
                for _ in range(10):
                    queue.add(key)
            await asyncio.sleep(0.01)
            running -= 1

        queue: WorkQueue[str] = WorkQueue(work, workers=4)
        queue.add("a")

        await _run(queue, lambda: eventually_async(lambda: runs == 2 and running == 0))

    asyncio.run(main())

    assert (runs, most) == (2, 1)


def test_a_failing_key_is_tried_again_and_the_others_go_on() -> None:
    tries: dict[str, int] = {"bad": 0, "good": 0}

    async def work(key: str) -> None:
        tries[key] += 1
        if key == "bad" and tries[key] < 3:
            raise RuntimeError("not yet")

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, workers=1)
        queue.add("bad")
        queue.add("good")

        await _run(queue, lambda: eventually_async(lambda: tries["bad"] == 3))

    asyncio.run(main())

    assert tries == {"bad": 3, "good": 1}


def test_a_later_time_does_not_push_back_an_earlier_one() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("a", after=0.01)
        queue.add("a", after=3600)

        await _run(queue, lambda: eventually_async(lambda: bool(done)))

    asyncio.run(main())

    assert done == ["a"]


def test_an_event_runs_a_key_at_once_that_was_to_wait() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work)
        queue.add("a", after=3600)
        queue.add("a")

        await _run(queue, lambda: eventually_async(lambda: bool(done)))

    asyncio.run(main())

    assert done == ["a"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_key_is_running_for_as_long_as_its_work_takes(workers: int) -> None:
    release = asyncio.Event()

    async def work(_key: str) -> None:
        await release.wait()

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, workers=workers)
        queue.add("a")

        async def scenario() -> None:
            await eventually_async(lambda: queue.oldest_seconds() > 0)
            release.set()
            await eventually_async(lambda: queue.oldest_seconds() == 0)

        await _run(queue, scenario)

    asyncio.run(main())


def test_keys_that_hang_hold_up_no_other() -> None:
    done: list[str] = []

    async def main() -> None:
        async def work(key: str) -> None:
            if key.startswith("hangs"):
                await asyncio.Event().wait()
            done.append(key)

        queue: WorkQueue[str] = WorkQueue(work, workers=2)
        for key in ("hangs-1", "hangs-2", "hangs-3", "good"):
            queue.add(key)

        await _run(queue, lambda: eventually_async(lambda: bool(done)))

    asyncio.run(main())

    assert done == ["good"]
