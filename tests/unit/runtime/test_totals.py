"""The numbers of several processes as one."""

from __future__ import annotations

from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Stages, Statistics
from modelyard_runtime.telemetry.totals import Combined, Share, combine, combined_statistics, share_of


def one(requests: int, in_flight: float, load_seconds: float) -> Share:
    """Return the share of a process that has answered `requests`, the last of them badly."""
    metrics, statistics = Metrics(), Statistics(lambda: 1000.0 + requests)
    metrics.watch(in_flight=lambda: in_flight, queue_rows=lambda: 2)
    metrics.loaded("m", "1", "linear", "sha256:00", load_seconds)
    ticks = iter(range(0, 10**6, 100))
    for number in range(requests):
        good = number < requests - 1
        metrics.observe("m", "1", "v2", 200 if good else 400, 0.5)
        stages = Stages(clock=lambda: next(ticks))
        stages.on_parsed(3)
        stages.on_start(requests, True)
        stages.on_computed()
        statistics.add("m", "1", stages, success=good)
    return Share.from_json(share_of(metrics, statistics).to_json())


def values(share: Share, *names: str) -> dict[str, float]:
    return {name: value for family in share.families for name, _, value in family.samples if name in names}


def test_counters_and_histograms_are_sums() -> None:
    total, by_model = Combined([one(4, 0, 1), one(6, 0, 1)]).counts()

    assert (total.request_count, total.error_count, total.avg_latency_ms) == (10, 2, 500.0)
    assert by_model == {"m": total}


def test_a_label_that_one_process_alone_has_stays() -> None:
    metrics = Metrics()
    metrics.observe("other", "2", "v1", 200, 0.001)

    text, _ = Combined([one(2, 0, 1), share_of(metrics, Statistics())]).render("")

    assert b'modelyard_requests_total{code="200",model="other",protocol="v1",version="2"} 1.0' in text
    assert text.count(b'modelyard_request_duration_seconds_bucket{le="+Inf",model="other"') == 1
    assert text.count(b"# TYPE modelyard_request_duration_seconds histogram") == 1


def test_gauges_are_sums_but_for_what_is_the_same_in_each() -> None:
    names = (
        "modelyard_in_flight_requests",
        "modelyard_queue_rows",
        "modelyard_model_info",
        "modelyard_model_load_seconds",
    )

    both = combine([one(1, 3, 0.5), one(1, 4, 0.7)])

    assert [values(both, *names)[name] for name in names] == [7, 4, 1, 0.7]


def test_of_a_process_that_is_gone_counters_stay_and_gauges_do_not() -> None:
    both = combine([one(5, 3, 0.5).lasting, one(1, 4, 0.7)])

    assert values(both, "modelyard_in_flight_requests", "modelyard_request_duration_seconds_count") == {
        "modelyard_in_flight_requests": 4,
        "modelyard_request_duration_seconds_count": 6,
    }


def test_the_start_is_the_first_ones_and_the_memory_is_that_of_all() -> None:
    single = one(1, 0, 0)
    names = ("process_start_time_seconds", "process_resident_memory_bytes", "process_max_fds")
    start, memory, files = (values(single, *names)[name] for name in names)

    both = values(combine([single, single]), *names)

    assert [both[name] for name in names] == [start, 2 * memory, files]


def test_statistics_are_sums_and_the_last_inference_is_the_last() -> None:
    numbers = combined_statistics([one(4, 0, 1), one(2, 0, 1), one(2, 0, 1)]).of("m", "1")

    assert (numbers.inference_count, numbers.execution_count, numbers.last_inference) == (15, 5, 1_004_000)
    assert (numbers.success.count, numbers.fail.count) == (5, 3)
    assert numbers.compute_infer.ns == 5 * 100
    assert {size: batch.compute_infer.count for size, batch in numbers.batches.items()} == {4: 3, 2: 2}


def test_adding_up_in_steps_is_adding_up_at_once() -> None:
    first, second, third = one(4, 1, 1), one(2, 2, 2), one(3, 3, 3)

    steps = combine([combine([first, second]), third])

    assert steps == combine([first, second, third])
