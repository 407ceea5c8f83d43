"""Fixtures: a collector of traces, and a server that exports to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.runtime.support import LOGISTIC, Server
from unit.runtime.tracing.otlp import Collector, collect_http
from unit.runtime.tracing.support import traced_server


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collect_http() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with traced_server(folder, collector, LOGISTIC, MODELYARD_MODEL_VERSION="7") as started:
        yield started
