"""What each model version has done, in the terms of the Open Inference Protocol's statistics extension.

Source: Triton's statistics extension, which the protocol's clients read; durations in nanoseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Duration", "ModelStatistics", "Stages", "Statistics"]

_now = time.perf_counter_ns
_MAX_BATCH_SIZES = 256
"""Sizes of batches that are told apart: a client could send as many as it likes."""


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0


class Stages:
    """The stages of one request; times in nanoseconds of `time.perf_counter_ns`, 0 for those that it did not reach."""

    __slots__ = ("arrived", "batch", "computed", "leads", "parsed", "rows", "started")

    def __init__(self) -> None:
        self.arrived = _now()
        self.parsed = self.started = self.computed = self.batch = self.rows = 0
        self.leads = False

    def on_parsed(self, rows: int) -> None:
        """The inputs are tensors, of this number of rows."""
        self.parsed = _now()
        self.rows = rows

    def on_start(self, batch: int, leads: bool) -> None:
        """The model begins to compute a batch of so many rows, of which this request is the first or not."""
        self.started = _now()
        self.batch = batch
        self.leads = leads

    def on_computed(self) -> None:
        """The outputs are there."""
        self.computed = _now()


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one size: the times of a batch are those of its first request."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelStatistics:
    """The statistics of one model version, of all protocols. The cache is the seed API's alone: its counts stay 0."""

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
        end = _now()
        if not success:
            self.fail.count += 1
            self.fail.ns += end - stages.arrived
            return
        self.last_inference = now_ms
        self.inference_count += stages.rows
        self.success.count += 1
        self.success.ns += end - stages.arrived
        self.queue.count += 1
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
