"""Metrics and statistics of several processes as one: what each gives, and how they are added up.

Counters and histograms are sums, and those of processes that are gone stay in them. Gauges are those of the processes
that live: sums too (requests in flight, rows, memory, open files), but for what is the same in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson
from prometheus_client.metrics_core import Metric

from modelyard_runtime.telemetry.metrics import Exposition, Metrics
from modelyard_runtime.telemetry.statistics import Statistics

__all__ = ["Combined", "Family", "OwnTotals", "Share", "Totals", "combine", "combined_statistics", "share_of"]

_ONE_OF: dict[str, Callable[[float, float], float]] = {
    "modelyard_model_info": max,
    "modelyard_model_load_seconds": max,
    "process_max_fds": max,
    "process_start_time_seconds": min,
    "python_info": max,
}
"""What is not added up."""
_LASTING = ("counter", "histogram")


@dataclass(frozen=True)
class Family:
    """A metric family in plain data; each sample has a name, labels and a value."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


@dataclass(frozen=True)
class Share:
    """What one process gives to the totals."""

    families: list[Family] = field(default_factory=list)
    statistics: list[dict[str, Any]] = field(default_factory=list)
    """ModelStatistics in plain data."""

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Share:
        """Read a share. Raises ValueError."""
        plain = orjson.loads(data)
        return cls([Family(**family) for family in plain["families"]], plain["statistics"])

    @property
    def lasting(self) -> Share:
        """What stays of it when its process is gone."""
        return replace(self, families=[family for family in self.families if family.type in _LASTING])


class Combined(Exposition):
    """Metrics of several processes, read as those of one are."""

    def __init__(self, shares: Iterable[Share]) -> None:
        self.families = _add_families(family for share in shares for family in share.families)

    def collect(self) -> Iterable[Metric]:
        """Give the families as Prometheus' client does."""
        for family in self.families:
            metric = Metric(family.name, family.documentation, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


class Totals(Protocol):
    """Where routes take numbers from that are those of the whole server."""

    async def start(self) -> None:
        """Begin to add up."""

    def close(self) -> None:
        """End, and leave the numbers to those who go on."""

    async def metrics(self) -> Exposition:
        """Return the metrics."""

    async def statistics(self) -> Statistics:
        """Return the statistics of the models."""


class OwnTotals:
    """The totals of a server of one process."""

    def __init__(self, metrics: Metrics, statistics: Statistics) -> None:
        self._metrics = metrics
        self._statistics = statistics

    async def start(self) -> None:
        """Do nothing: one process has nobody to add up with."""

    def close(self) -> None:
        """Do nothing: the numbers end with the process."""

    async def metrics(self) -> Exposition:
        """Return the process's metrics."""
        return self._metrics

    async def statistics(self) -> Statistics:
        """Return the process's statistics."""
        return self._statistics


def share_of(metrics: Metrics, statistics: Statistics) -> Share:
    """Return what this process has counted."""
    families = [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
        )
        for metric in metrics.collect()
    ]
    return Share(families, _plain(statistics))


def combine(shares: Iterable[Share]) -> Share:
    """Add shares up."""
    shares = list(shares)
    return Share(Combined(shares).families, _plain(combined_statistics(shares)))


def combined_statistics(shares: Iterable[Share]) -> Statistics:
    """Return the statistics of several processes, read as those of one are."""
    total = Statistics()
    for share in shares:
        for numbers in share.statistics:
            total.of(numbers["name"], numbers["version"]).merge(numbers)
    return total


def _add_families(families: Iterable[Family]) -> list[Family]:
    first: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in families:
        first.setdefault(family.name, family)
        found = values.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = (name, tuple(labels.items()))
            add = min if name.endswith("_created") else _ONE_OF.get(family.name, _plus)
            found[key] = add(found[key], value) if key in found else value
    return [
        replace(family, samples=[(name, dict(labels), value) for (name, labels), value in values[key].items()])
        for key, family in first.items()
    ]


def _plain(statistics: Statistics) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = orjson.loads(orjson.dumps(statistics.all(), option=orjson.OPT_NON_STR_KEYS))
    return plain


def _plus(one: float, other: float) -> float:
    return one + other
