"""The benchmark's report: what it makes of results, and where it puts that."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
CELL = "1 row x 4, 8 connections"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return importlib.import_module("benchmarks.serving.report")


def row(server: str, protocol: str, of_echo: float, **more: Any) -> dict[str, Any]:
    return {
        "cell": CELL,
        "server": server,
        "protocol": protocol,
        "requests_per_second": of_echo * 40_000,
        "of_echo": of_echo,
        "of_echo_lowest": of_echo,
        "of_echo_highest": of_echo,
        "cpu_us": 25 / of_echo,
        "cpu_of_echo": of_echo,
        "load_cpu_us": 16.0,
        "p50_ms": 0.2,
        "p99_ms": 0.5,
        "errors": 0,
        "start_seconds": 1.2,
        "rss_mib": 161,
        **more,
    }


ROWS = [row("modelyard", "v2", 0.5, repeated_of_echo=0.75), row("mlserver", "v2", 0.04)]


def test_a_peer_is_compared_with_our_answer_to_the_same_requests(report: Any) -> None:
    summary = report.summary(ROWS)
    table = report.table(ROWS)

    assert "| mlserver, v2 | 12.5x |" in summary
    assert "| modelyard, v2 | 0.50 (0.75), 50 us |" in summary
    assert "| of the load's core, % |  | 32 | 3 |  |" in summary
    assert "| 12.5x |" in table


def test_the_figures_are_written_between_their_marks(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text((REPOSITORY / "docs/performance.md").read_text())
    monkeypatch.setattr(report, "DOCS", page)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    before = page.read_text()

    report.keep({"results": ROWS})
    report.write()
    once = page.read_text()
    report.write()

    assert page.read_text() == once
    assert once.split(report.BEGIN)[0] == before.split(report.BEGIN)[0]
    assert once.split(report.END)[1] == before.split(report.END)[1]
    assert report.summary(ROWS) in once
    assert json.loads((tmp_path / "results/serving.json").read_text())["results"] == ROWS
    assert (tmp_path / "results/serving.md").read_text() == report.table(ROWS)
