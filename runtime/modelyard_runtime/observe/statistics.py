"""What each model version has done, in the terms of the Open Inference Protocol's statistics extension.

Source: Triton's statistics extension, which the protocol's clients read; durations in nanoseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Duration", "Look", "ModelStatistics", "Stages", "Statistics"]

_MAX_BATCH_SIZES = 256
"""Sizes of batches that are told apart: a client could send as many as it likes."""


@dataclass
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += ns


@dataclass
class Look:
    """One request's look into the cache; durations in nanoseconds of `clock`."""

    clock: Callable[[], int] = time.perf_counter_ns
    cached: bool = False
    """Whether the answer was computed for an earlier request."""
    look_ns: int = 0
    """What looking took, with the wait for an equal request that was being computed."""
    keep_ns: int = 0
    """What putting the answer there took."""
    _mark: int = 0

    def on_look(self) -> None:
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


@dataclass
class Stages:
    """The stages of one request; times in nanoseconds of `clock`, 0 for those that it did not reach."""

    clock: Callable[[], int] = time.perf_counter_ns
    arrived: int = 0
    parsed: int = 0
    started: int = 0
    computed: int = 0
    batch: int = 0
    leads: bool = False
    rows: int = 0
    look: Look | None = None
    """Of a request that asks for the cache."""

    def __post_init__(self) -> None:
        self.arrived = self.clock()

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

    @property
    def cached(self) -> bool | None:
        """Whether the answer came from the cache; None for a request that does not ask for it."""
        return None if self.look is None else self.look.cached


@dataclass
class BatchStatistics:
    """Executions of one size: the times of a batch are those of its first request."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass
class ModelStatistics:
    """The statistics of one model version: of OIP v2, REST and gRPC, and of V1. The seed API counts in the metrics.

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
        end = stages.clock()
        if not success:
            self.fail.add(end - stages.arrived)
            return
        self.last_inference = now_ms
        self.success.add(end - stages.arrived)
        looked = kept = 0
        if stages.look is not None:
            looked, kept = stages.look.look_ns, stages.look.keep_ns
            if stages.look.cached:
                self.queue.add(0)
                self.cache_hit.add(looked)
                return
            self.cache_miss.add(looked + kept)
        output = end - stages.computed - kept
        self.inference_count += stages.rows
        self.queue.add(stages.started - stages.parsed - looked)
        self.compute_input.add(stages.parsed - stages.arrived)
        self.compute_infer.add(stages.computed - stages.started)
        self.compute_output.add(output)
        if not stages.leads:
            return
        self.execution_count += 1
        if stages.batch in self.batches or len(self.batches) < _MAX_BATCH_SIZES:
            batch = self.batches[stages.batch]
            batch.compute_input.add(stages.parsed - stages.arrived)
            batch.compute_infer.add(stages.computed - stages.started)
            batch.compute_output.add(output)


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
