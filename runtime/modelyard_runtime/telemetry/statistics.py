"""What each model version has done, in the terms of the Open Inference Protocol's statistics extension.

Source: Triton's statistics extension, which the protocol's clients read; durations in nanoseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["CacheLookup", "Duration", "ModelStatistics", "Stages", "Statistics"]

_MAX_BATCH_SIZES = 256
"""Sizes of batches that are told apart: a client could send as many as it likes."""


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0


@dataclass(slots=True)
class CacheLookup:
    """One request's look into the response cache; durations in nanoseconds of `clock`."""

    clock: Callable[[], int] = time.perf_counter_ns

    cached: bool = False
    """Whether the answer was computed for an earlier request."""
    look_ns: int = 0
    """The look itself, with the wait for an equal request that was being computed."""
    keep_ns: int = 0
    """Putting the answer there."""
    _mark: int = 0

    def on_lookup(self) -> None:
        """The cache is asked."""
        self._mark = self.clock()

    def on_found(self) -> None:
        """The answer was computed for an earlier request."""
        self.cached = True
        self.look_ns = self.clock() - self._mark

    def on_missed(self) -> None:
        """The answer is to be computed."""
        self.look_ns = self.clock() - self._mark

    def on_keep(self) -> None:
        """The answer, just computed, is put into the cache."""
        self._mark = self.clock()

    def on_kept(self) -> None:
        """The answer is there."""
        self.keep_ns = self.clock() - self._mark


class Stages:
    """The stages of one request; times in nanoseconds of `clock`, 0 for those that it did not reach."""

    __slots__ = (
        "arrived",
        "batch",
        "clock",
        "computed",
        "ended",
        "leads",
        "lookup",
        "model",
        "parsed",
        "protocol",
        "rows",
        "started",
        "version",
    )

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns, protocol: str = "") -> None:
        """`protocol` is the metrics' label."""
        self.clock = clock
        self.protocol = protocol
        self.model = self.version = ""
        """The model that is asked, once it is known."""
        self.arrived = clock()
        self.parsed = self.started = self.computed = self.ended = self.batch = self.rows = 0
        self.leads = False
        self.lookup: CacheLookup | None = None
        """Of a request that asks for the cache."""

    def on_parsed(self, rows: int) -> None:
        """The inputs are tensors, of this number of rows."""
        self.parsed = self.clock()
        self.rows = rows

    def on_start(self, batch: int, leads: bool) -> None:
        """The model begins to compute a batch of so many rows, of which this request is the first or not."""
        self.started = self.clock()
        self.batch = batch
        self.leads = leads

    def on_computed(self) -> None:
        """The outputs are there."""
        self.computed = self.clock()

    def on_ended(self) -> None:
        """The request is answered."""
        self.ended = self.clock()

    @property
    def cached(self) -> bool | None:
        """Whether the answer came from the cache; None for a request that does not ask for it."""
        return None if self.lookup is None else self.lookup.cached

    @property
    def seconds(self) -> float:
        """The seconds from the request's arrival to its answer."""
        return (self.ended - self.arrived) / 1e9


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one size: the times of a batch are those of its first request."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelStatistics:
    """The statistics of one model version, of all protocols.

    What the cache answered is in `success`, `queue` and `cache_hit`, and in nothing that tells of the model's work;
    `cache_miss` is of requests that asked for the cache and were computed: the look, and putting the answer there.
    """

    name: str
    version: str
    last_inference: int = 0
    """Milliseconds since the epoch."""
    inference_count: int = 0
    """Rows."""
    execution_count: int = 0
    """Batches."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    batches: dict[int, BatchStatistics] = field(default_factory=lambda: defaultdict(BatchStatistics))

    def add(self, stages: Stages, *, success: bool, now_ms: int) -> None:
        """Count a request that was answered, well or not."""
        # Written out, as every request comes by here: a call for each duration would cost a microsecond.
        end = stages.ended
        if not success:
            self.fail.count += 1
            self.fail.ns += end - stages.arrived
            return
        self.last_inference = now_ms
        self.success.count += 1
        self.success.ns += end - stages.arrived
        self.queue.count += 1
        lookup = stages.lookup
        if lookup is not None:
            if lookup.cached:
                self.cache_hit.count += 1
                self.cache_hit.ns += lookup.look_ns
                return
            self.cache_miss.count += 1
            self.cache_miss.ns += lookup.look_ns + lookup.keep_ns
            self.queue.ns -= lookup.look_ns
            end -= lookup.keep_ns
        self.inference_count += stages.rows
        self.queue.ns += stages.started - stages.parsed
        _add(self, stages, end)
        if not stages.leads:
            return
        self.execution_count += 1
        if stages.batch in self.batches or len(self.batches) < _MAX_BATCH_SIZES:
            _add(self.batches[stages.batch], stages, end)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another process counted of the same version, in plain data."""
        self.last_inference = max(self.last_inference, other["last_inference"])
        self.inference_count += other["inference_count"]
        self.execution_count += other["execution_count"]
        _merge_durations(self, other)
        for size, batch in other["batches"].items():
            _merge_durations(self.batches[int(size)], batch)


def _add(to: ModelStatistics | BatchStatistics, stages: Stages, end: int) -> None:
    to.compute_input.count += 1
    to.compute_input.ns += stages.parsed - stages.arrived
    to.compute_infer.count += 1
    to.compute_infer.ns += stages.computed - stages.started
    to.compute_output.count += 1
    to.compute_output.ns += end - stages.computed


def _merge_durations(into: ModelStatistics | BatchStatistics, other: Mapping[str, Any]) -> None:
    for found in fields(into):
        duration = getattr(into, found.name)
        if isinstance(duration, Duration):
            duration.count += other[found.name]["count"]
            duration.ns += other[found.name]["ns"]


class Statistics:
    """The statistics of every version that has been asked, by name and version. For the event loop's thread."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        """`wall` gives seconds since the epoch."""
        self._wall = wall
        self._models: dict[tuple[str, str], ModelStatistics] = {}

    def add(self, name: str, version: str, stages: Stages, *, success: bool) -> None:
        """Count a request that was answered."""
        self.of(name, version).add(stages, success=success, now_ms=int(self._wall() * 1000))

    def of(self, name: str, version: str) -> ModelStatistics:
        """Return the statistics of a version that is or was served, zeros where nobody has asked it."""
        found = self._models.get((name, version))
        if found is None:
            found = self._models[name, version] = ModelStatistics(name, version)
        return found

    def all(self) -> list[ModelStatistics]:
        """Return the statistics of every version that has been asked."""
        return list(self._models.values())
