"""Requests counted and timed, at half a microsecond each.

prometheus_client's own counters and histograms take a lock and check their arguments at every request; here numbers are
added up in the event loop's thread, and take the library's form when they are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["REQUESTS_TOTAL", "SECONDS_SUM", "RequestCounts"]

_REQUESTS = "modelyard_requests"
_SECONDS = "modelyard_request_duration_seconds"
REQUESTS_TOTAL = f"{_REQUESTS}_total"
SECONDS_SUM = f"{_SECONDS}_sum"
_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NAMES = [*map(floatToGoString, _BOUNDS), "+Inf"]


class _Durations:
    """Durations of one kind of request: their number by bucket, and the sum."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * len(_NAMES)
        self.seconds = 0.0


class _Requests:
    """Requests that were answered alike."""

    __slots__ = ("count", "durations")

    def __init__(self, durations: _Durations) -> None:
        self.count = 0
        self.durations = durations


class RequestCounts(Collector):
    """`modelyard_requests_total` and `modelyard_request_duration_seconds`. For the event loop's thread."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, int], _Requests] = {}
        self._durations: dict[tuple[str, str, str], _Durations] = {}

    def observe(self, model: str, version: str, protocol: str, code: int, seconds: float) -> None:
        """Count a request."""
        found = self._requests.get((model, version, protocol, code))
        if found is None:
            durations = self._durations.setdefault((model, version, protocol), _Durations())
            found = self._requests[model, version, protocol, code] = _Requests(durations)
        found.count += 1
        durations = found.durations
        durations.seconds += seconds
        durations.buckets[bisect_left(_BOUNDS, seconds)] += 1

    def collect(self) -> Iterable[Metric]:
        """Give the two families."""
        labels = ["model", "version", "protocol"]
        requests = CounterMetricFamily(_REQUESTS, "Requests answered.", labels=[*labels, "code"])
        for (*names, code), found in list(self._requests.items()):
            requests.add_metric([*names, str(code)], found.count)
        seconds = HistogramMetricFamily(_SECONDS, "From a request's arrival to its answer.", labels=labels)
        for key, durations in list(self._durations.items()):
            buckets = [(name, float(count)) for name, count in zip(_NAMES, accumulate(durations.buckets), strict=True)]
            seconds.add_metric(key, buckets, durations.seconds)
        return [requests, seconds]
