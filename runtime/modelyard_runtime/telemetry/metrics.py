"""Metrics: Prometheus' own client with a registry of our own, and the same numbers as JSON."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from modelyard_runtime.telemetry.request_counts import REQUESTS_TOTAL, SECONDS_SUM, RequestCounts

__all__ = ["UNRESOLVED", "Counts", "Exposition", "Metrics"]

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
UNRESOLVED = ""
"""The labels of requests that name no model of ours: one time series, whatever names clients make up."""


@dataclass(frozen=True)
class Counts:
    """Requests in numbers; an error is any answer of 400 or above."""

    request_count: int = 0
    error_count: int = 0
    error_rate: float = 0.0
    avg_latency_ms: float = 0.0


class Exposition(ABC):
    """Metrics in the forms in which they are read."""

    @abstractmethod
    def collect(self) -> Iterable[Metric]:
        """Give the metric families."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics where `accept` asks for it, else Prometheus text."""
        encoder, content_type = choose_encoder(accept)
        return encoder(cast("CollectorRegistry", self)), content_type

    def counts(self) -> tuple[Counts, dict[str, Counts]]:
        """Return the counts in all and by model, from the very counters that Prometheus reads."""
        requests: dict[str, float] = defaultdict(float)
        errors: dict[str, float] = defaultdict(float)
        seconds: dict[str, float] = defaultdict(float)
        for metric in self.collect():
            for sample in metric.samples:
                if sample.name == REQUESTS_TOTAL:
                    requests[sample.labels["model"]] += sample.value
                    errors[sample.labels["model"]] += sample.value if int(sample.labels["code"]) >= 400 else 0
                elif sample.name == SECONDS_SUM:
                    seconds[sample.labels["model"]] += sample.value
        by_model = {
            name: _counts(requests[name], errors[name], seconds[name])
            for name in sorted(requests)
            if name != UNRESOLVED
        }
        return _counts(sum(requests.values()), sum(errors.values()), sum(seconds.values())), by_model

    def counts_json(self) -> dict[str, object]:
        """Return the counts as the JSON object of `/metrics`."""
        total, by_model = self.counts()
        return {**asdict(total), "models": {name: asdict(counts) for name, counts in by_model.items()}}


class Metrics(Exposition):
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._request_counts = RequestCounts()
        self.registry.register(self._request_counts)
        self._hits = Counter("modelyard_cache_hits", "Answers from the cache.", ["model"], registry=self.registry)
        self._misses = Counter(
            "modelyard_cache_misses", "Answers asked of the cache in vain.", ["model"], registry=self.registry
        )
        self._in_flight = Gauge("modelyard_in_flight_requests", "Requests being answered.", registry=self.registry)
        self._queue_rows = Gauge(
            "modelyard_queue_rows", "Rows that wait for compute or are in it.", registry=self.registry
        )
        self._stuck_threads = Gauge(
            "modelyard_stuck_threads", "Threads in a call of a model that does not return.", registry=self.registry
        )
        self._batch_rows = Histogram(
            "modelyard_batch_rows",
            "Rows computed together by a model that computes in a thread.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        self._info = Gauge(
            "modelyard_model_info",
            "1 for each model served.",
            ["model", "version", "format", "digest"],
            registry=self.registry,
        )
        self._load_seconds = Gauge(
            "modelyard_model_load_seconds", "Loading and warm-up.", ["model", "version"], registry=self.registry
        )

    def observe(self, model: str, version: str, protocol: str, code: int, seconds: float) -> None:
        """Count a request; `model` is a name of ours or UNRESOLVED, never one that a client made up."""
        self._request_counts.observe(model, version, protocol, code, seconds)

    def batch(self, rows: int) -> None:
        """Count a batch that is computed in a thread."""
        self._batch_rows.observe(rows)

    def cache(self, model: str, *, hit: bool) -> None:
        """Count a look into the cache."""
        (self._hits if hit else self._misses).labels(model).inc()

    def watch(
        self,
        *,
        in_flight: Callable[[], float],
        queue_rows: Callable[[], float],
        stuck_threads: Callable[[], float] = lambda: 0,
    ) -> None:
        """Take the gauges from functions, which are called when somebody reads the metrics."""
        self._stuck_threads.set_function(stuck_threads)
        self._in_flight.set_function(in_flight)
        self._queue_rows.set_function(queue_rows)

    def loaded(self, model: str, version: str, format: str, digest: str, seconds: float) -> None:
        """Note a model that is served from now on, and how long it took to load and warm up."""
        self.active(model, version, format, digest)
        self._load_seconds.labels(model, version).set(seconds)

    def active(self, model: str, version: str, format: str, digest: str) -> None:
        """Note that this version of a model is the one that answers."""
        self._info.labels(model, version, format, digest).set(1)

    def unloaded(self, model: str, version: str, format: str, digest: str) -> None:
        """Note that this version of a model does not answer, or no longer."""
        with contextlib.suppress(KeyError):
            self._info.remove(model, version, format, digest)

    def collect(self) -> Iterable[Metric]:
        """Give the metric families."""
        return self.registry.collect()


def _counts(requests: float, errors: float, seconds: float) -> Counts:
    if not requests:
        return Counts()
    return Counts(int(requests), int(errors), errors / requests, round(seconds / requests * 1000, 3))
