"""Micro-batching: who is computed together, who is not, and what becomes of a batch that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import uvloop
from modelyard_runtime.dataplane.batching import Batcher, Tensors
from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.executor import Executor
from modelyard_runtime.errors import BadRequest, DeadlineExceeded, QueueFull, WrongInput
from modelyard_runtime.formats import TensorSpec
from unit.runtime.support import FakeModel
from waiting import eventually_async

FOREVER = 1e9


class Recorder:
    """Doubles its input, waits at a gate, and notes the rows of every call."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[list[float]] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        self.calls.append(tensors[0].ravel().tolist())
        assert self.gate.wait(30)
        if 13.0 in tensors[0]:
            raise BadRequest("thirteen")
        return (tensors[0] * 2,)


def patient() -> Call:
    return Call("predict", now=0, timeout=FOREVER)


def column(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values).reshape(-1, 1)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def one(**options: Any) -> Batcher:
        made.append(Batcher(**{"threads": 1, "max_queue": 100, "max_rows": 4, **options}))
        return made[-1]

    yield one
    for batcher in made:
        batcher.close()


def ask(
    batcher: Batcher, call: Recorder, rows: np.ndarray[Any, Any], group: Any = "g", deadline: float = FOREVER
) -> asyncio.Task[Tensors]:
    request = Call("predict", now=0, timeout=deadline)
    coroutine: Coroutine[Any, Any, Tensors] = batcher.run(request, call, (rows,), rows=len(rows), group=group)
    return asyncio.ensure_future(coroutine)


async def settle(tasks: list[asyncio.Task[Tensors]]) -> list[Any]:
    """Return each task's rows, or what it raised."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result if isinstance(result, BaseException) else result[0].ravel().tolist() for result in results]


def run(
    batcher: Batcher, recorder: Recorder, requests: list[tuple[np.ndarray[Any, Any], Any]]
) -> tuple[list[Any], list[list[float]]]:
    """Send 0 first, which holds the thread, then `requests`; return their results and the calls after the first."""

    async def scenario() -> list[Any]:
        first = ask(batcher, recorder, column(0))
        await eventually_async(lambda: len(recorder.calls) == 1)
        tasks = [ask(batcher, recorder, rows, group) for rows, group in requests]
        await asyncio.sleep(0)
        recorder.gate.set()
        await first
        return await settle(tasks)

    return asyncio.run(scenario()), recorder.calls[1:]


def test_what_waits_is_computed_together_up_to_the_rows_of_a_batch(
    make: Callable[..., Batcher], recorder: Recorder
) -> None:
    results, calls = run(make(), recorder, [(column(value), "g") for value in range(1, 7)])

    assert calls == [[1, 2, 3, 4], [5, 6]]
    assert results == [[2], [4], [6], [8], [10], [12]]


def test_rows_count_and_a_request_is_never_split(make: Callable[..., Batcher], recorder: Recorder) -> None:
    requests = [column(1, 2, 3), column(4, 5), column(6, 7, 8, 9, 10), column(11)]

    results, calls = run(make(), recorder, [(rows, "g") for rows in requests])

    assert calls == [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]
    assert results == [[2, 4, 6], [8, 10], [12, 14, 16, 18, 20], [22]]


@pytest.mark.parametrize(
    "other",
    [
        (column(2), "h"),
        (np.array([[2.0, 2.0]]), "g"),
        (column(2).astype(np.float32), "g"),
        (np.array([2.0]), "g"),
        (column(2), None),
    ],
)
def test_only_what_agrees_is_gathered(
    other: tuple[np.ndarray[Any, Any], Any], make: Callable[..., Batcher], recorder: Recorder
) -> None:
    _, calls = run(make(), recorder, [(column(1), "g"), other, (column(3), "g")])

    assert calls[0] == [1, 3]
    assert len(calls) == 2


def test_the_lane_of_the_oldest_goes_first(make: Callable[..., Batcher], recorder: Recorder) -> None:
    requests = [(column(1), "a"), (column(2), "b"), (column(3), "c"), (column(4), "a")]

    _, calls = run(make(), recorder, requests)

    assert calls == [[1, 4], [2], [3]]


def test_a_failed_batch_is_tried_member_by_member(make: Callable[..., Batcher], recorder: Recorder) -> None:
    results, calls = run(make(), recorder, [(column(value), "g") for value in (1, 13, 3)])

    assert calls == [[1, 13, 3], [1], [13], [3]]
    assert [results[0], str(results[1]), results[2]] == [[2], "thirteen", [6]]


def test_an_idle_thread_is_used_at_once(make: Callable[..., Batcher], recorder: Recorder) -> None:
    recorder.gate.set()
    batcher = make()

    async def scenario() -> None:
        for value in range(5):
            await ask(batcher, recorder, column(value))

    asyncio.run(scenario())

    assert recorder.calls == [[0], [1], [2], [3], [4]]
    assert batcher.rows == 0


def test_a_delay_gathers_even_where_a_thread_is_idle(make: Callable[..., Batcher], recorder: Recorder) -> None:
    recorder.gate.set()
    full = make(max_delay=1000.0)
    early = make(max_delay=0.05)

    async def scenario() -> list[Any]:
        results = await settle([ask(full, recorder, column(value)) for value in range(4)])
        return results + await settle([ask(early, recorder, column(value)) for value in (7, 8)])

    results = asyncio.run(scenario())

    assert recorder.calls == [[0, 1, 2, 3], [7, 8]]
    assert results == [[0], [2], [4], [6], [14], [16]]


def test_a_short_delay_under_load_answers_everybody(make: Callable[..., Batcher], recorder: Recorder) -> None:
    recorder.gate.set()
    batcher = make(max_delay=0.0005)

    async def client(number: int) -> list[Any]:
        results = [await ask(batcher, recorder, column(20 + number), group=number % 3) for _ in range(200)]
        return [result[0].item() for result in results]

    async def scenario() -> list[list[Any]]:
        return list(await asyncio.gather(*(client(number) for number in range(8))))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(scenario())

    assert answers == [[2.0 * (20 + number)] * 200 for number in range(8)]


def test_cancelled_and_expired_members_are_not_computed(make: Callable[..., Batcher], recorder: Recorder) -> None:
    batcher = make()

    async def scenario() -> list[Any]:
        first = ask(batcher, recorder, column(0))
        await eventually_async(lambda: len(recorder.calls) == 1)
        tasks = [ask(batcher, recorder, column(value)) for value in (1, 2)]
        tasks.append(ask(batcher, recorder, column(3), deadline=asyncio.get_running_loop().time() + 0.02))
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[2:])
        recorder.gate.set()
        await first
        return await settle(tasks)

    results = asyncio.run(scenario())

    assert recorder.calls == [[0], [2]]
    assert [type(results[0]), results[1], type(results[2])] == [asyncio.CancelledError, [4], DeadlineExceeded]
    assert batcher.rows == 0


def test_a_full_queue_refuses(make: Callable[..., Batcher], recorder: Recorder) -> None:
    batcher = make(max_queue=2)

    async def scenario() -> list[Any]:
        first = ask(batcher, recorder, column(0))
        await eventually_async(lambda: len(recorder.calls) == 1)
        tasks = [ask(batcher, recorder, column(value)) for value in (1, 2, 3)]
        await asyncio.wait(tasks[2:])
        recorder.gate.set()
        return await settle([first, *tasks])

    results = asyncio.run(scenario())

    assert results[:3] == [[0], [2], [4]]
    assert isinstance(results[3], QueueFull)


def test_batches_and_rows_are_counted(make: Callable[..., Batcher], recorder: Recorder) -> None:
    sizes: list[int] = []

    run(make(on_batch=sizes.append), recorder, [(column(1, 2), "g"), (column(3), "g"), (column(4, 5), "g")])

    assert sizes == [1, 3, 2]


def test_models_never_share_a_batch_and_errors_stay_with_their_request() -> None:
    gate, started = threading.Event(), threading.Event()

    def answer(factor: float) -> Callable[[Any], Any]:
        def compute(rows: Any) -> Any:
            started.set()
            assert gate.wait(30)
            return np.where(rows[:, 0] < 0, np.nan, rows[:, 0] * factor)

        return compute

    one, two = (FakeModel(answer=answer(factor), features=1, inline=False) for factor in (1.0, 10.0))
    compute = Executor(max_queue=100, timeout=30, threads=1)

    async def scenario() -> list[Any]:
        asks = [(one, 1), (one, 2), (two, 3), (one, -1), (two, 4)]
        tasks = [asyncio.ensure_future(compute.predict(patient(), model, column(value))) for model, value in asks]
        await asyncio.to_thread(started.wait, 30)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(scenario())
    compute.close()

    assert [results[index].tolist() for index in (0, 1, 2, 4)] == [[1], [2], [30], [40]]
    assert isinstance(results[3], WrongInput)


def test_named_tensors_are_gathered_by_rows_alone() -> None:
    gate, shapes = threading.Event(), []

    class Infers(FakeModel):
        def infer(self, tensors: Any, wanted: Any = ()) -> Any:
            shapes.append(tensors["features"].shape)
            assert gate.wait(30)
            return {"prediction": tensors["features"].sum(axis=-1)}

    model = Infers(inline=False, outputs=(TensorSpec("prediction", "FP64", (-1,)),))
    compute = Executor(max_queue=100, timeout=30, threads=1)
    inputs = [np.ones((1, 2)), np.ones((2, 2)), np.array([1.0, 1.0]), np.ones((3, 2))]

    async def scenario() -> list[Any]:
        tasks = [asyncio.ensure_future(compute.infer(patient(), model, {"features": rows})) for rows in inputs]
        await eventually_async(lambda: len(shapes) == 1)
        gate.set()
        return await asyncio.gather(*tasks)

    results = asyncio.run(scenario())
    compute.close()

    assert shapes == [(1, 2), (5, 2), (2,)]
    assert [result["prediction"].tolist() for result in results] == [[2], [2, 2], 2, [2, 2, 2]]
