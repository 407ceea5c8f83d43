"""Looks into the cache are counted truly, and their times add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelyard_runtime.telemetry.statistics import CacheLookup, Stages, Statistics
from unit.runtime.cached_answers.support import Serve, infer, predict
from unit.runtime.support import Api, FakeModel


def counts(api: Api) -> dict[str, int]:
    lines = (
        line.split() for line in api.send("GET", "/metrics").text.splitlines() if line.startswith("modelyard_cache")
    )
    return {name.removeprefix("modelyard_cache_"): int(float(value)) for name, value in lines if "_total" in name}


def statistics(api: Api) -> Any:
    return api.send("GET", "/v2/models/m/stats").json()["model_stats"][0]


def test_the_counts_are_those_of_the_looks(serve: Serve) -> None:
    outcomes: list[Callable[[], Any]] = [lambda: 1 / 0]
    api = serve({"m": FakeModel(answer=lambda rows: outcomes.pop()() if outcomes else rows.sum(axis=1))})

    failed = infer(api, [1, 2], [3, 4])
    for _ in range(3):
        infer(api, [1, 2], [3, 4])
        predict(api, [1, 2])
    infer(api, parameters={})

    assert failed.status_code == 500
    assert counts(api) == {'hits_total{model="m"}': 4, 'misses_total{model="m"}': 3}
    found = statistics(api)
    assert (found["inference_count"], found["execution_count"]) == (4, 3)
    assert {key: value["count"] for key, value in found["inference_stats"].items()} == {
        "success": 7,
        "fail": 1,
        "queue": 7,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 4,
        "cache_miss": 2,
    }
    assert all(value["ns"] > 0 for key, value in found["inference_stats"].items() if key != "queue")


def test_the_times_of_a_request_add_up() -> None:
    times = iter([100, 110, 115, 120, 130, 230, 231, 234, 240, 300, 310, 311, 318, 330])

    def clock() -> int:
        return next(times)

    statistics = Statistics(lambda: 5.0)

    missed = Stages(clock)
    missed.on_parsed(2)
    missed.lookup = CacheLookup(clock)
    missed.lookup.on_lookup()
    missed.lookup.on_missed()
    missed.on_start(2, True)
    missed.on_computed()
    missed.lookup.on_keep()
    missed.lookup.on_kept()
    missed.on_ended()
    statistics.add("m", "1", missed, success=True)
    after_miss = {name: getattr(statistics.of("m", "1"), name).ns for name in ("cache_miss", "queue", "compute_output")}
    found = Stages(clock)
    found.on_parsed(2)
    found.lookup = CacheLookup(clock)
    found.lookup.on_lookup()
    found.lookup.on_found()
    found.on_ended()
    statistics.add("m", "1", found, success=True)

    numbers = statistics.of("m", "1")
    assert after_miss == {"cache_miss": 5 + 3, "queue": 130 - 110 - 5, "compute_output": 240 - 230 - 3}
    assert (numbers.success.ns, numbers.success.count) == (140 + 30, 2)
    assert (numbers.cache_hit.ns, numbers.cache_hit.count, numbers.queue.count) == (7, 1, 2)
    stages = (numbers.compute_input, numbers.queue, numbers.compute_infer, numbers.compute_output, numbers.cache_miss)
    assert sum(stage.ns for stage in stages) == 140
    assert (numbers.inference_count, numbers.execution_count, numbers.last_inference) == (2, 1, 5000)
