"""The benchmark's results as tables: in results/serving.md, and in docs/performance.md between two marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["keep", "line", "summary", "table", "write"]

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs/performance.md"
BEGIN, END = "<!-- figures: scripts/bench serving --report -->", "<!-- end of figures -->"
Row = dict[str, Any]
PEERS = (("mlserver", "v2"), ("mlserver", "gRPC"), ("kserve", "v1"), ("bentoml", "its own"))
OURS = (
    ("modelyard, native format", "predict"),
    *(("modelyard", protocol) for protocol in ("predict", "v2", "v1", "v2 binary", "gRPC")),
)
COMPARED = (("modelyard, native format", "predict"), ("modelyard", "v2"), ("mlserver", "v2"), ("kserve", "v1"))


def line(row: Row) -> str:
    """Return one row for a terminal."""
    text = (
        f"{row['cell']:30} {row['server']:>12}, {row['protocol']:9} {row['requests_per_second']:6.0f}/s "
        f"{row['of_echo']:.3f} of echo ({row['of_echo_lowest']:.3f}-{row['of_echo_highest']:.3f})  "
        f"CPU {row['cpu_us']:6.1f} us, {row['cpu_of_echo']:.3f} of echo  p99 {row['p99_ms']:.2f} ms  "
        f"errors {row['errors']}  {row['rss_mib']:.0f} MiB"
    )
    if "stages" in row:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in row["stages"].items())
        text += f"\n    {stages} us"
    if "repeated_of_echo" in row:
        text += f"; repeated: {row['repeated_of_echo']:.3f} of echo, CPU {row['repeated_cpu_us']:.1f} us"
    return text


def _index(results: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["cell"], row["server"], row["protocol"]): row for row in results}


def _base(row: Row, found: dict[tuple[str, str, str], Row]) -> Row | None:
    """Return our answer to a peer's requests."""
    if row["server"].startswith("modelyard"):
        return None
    protocol = "predict" if row["protocol"] == "its own" else row["protocol"]
    return found.get((row["cell"], "modelyard", protocol))


def table(results: list[Row]) -> str:
    """Return the results as Markdown, each peer beside our answer to the same requests."""
    lines = [
        "| | server | requests/s | of echo (lowest to highest) | ours is | CPU us a request | of echo "
        "| the load's own us | repeated: of echo | p50 / p99 ms | errors | start s | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = _index(results)
    for row in results:
        base = _base(row, found)
        factor = f"{base['of_echo'] / row['of_echo']:.1f}x" if base else ""
        repeated = f"{row['repeated_of_echo']:.3f}" if "repeated_of_echo" in row else ""
        spread = f"{row['of_echo']:.3f} ({row['of_echo_lowest']:.3f} to {row['of_echo_highest']:.3f})"
        lines.append(
            f"| {row['cell']} | {row['server']}, {row['protocol']} | {row['requests_per_second']:.0f} | {spread} "
            f"| {factor} | {row['cpu_us']:.1f} | {row['cpu_of_echo']:.3f} | {row['load_cpu_us']:.1f} | {repeated} "
            f"| {row['p50_ms']:.2f} / {row['p99_ms']:.2f} | {row['errors']} "
            f"| {row['start_seconds']:.1f} | {row['rss_mib']:.0f} |"
        )
    lines += ["", "Mean microseconds of a request's stages, of ours:", ""]
    lines += ["| | server | parse | queue | compute | encode | CPU in all |", "|---|---|---|---|---|---|---|"]
    for row in results:
        if "stages" in row:
            stages = " | ".join(f"{value:.1f}" for value in row["stages"].values())
            lines.append(f"| {row['cell']} | {row['server']}, {row['protocol']} | {stages} | {row['cpu_us']:.1f} |")
    return "\n".join(lines) + "\n"


def summary(results: list[Row]) -> str:
    """Return what docs/performance.md shows of the results, as Markdown."""
    cells = list(dict.fromkeys(row["cell"] for row in results))
    found = _index(results)

    def lines(head: str, rows: Iterable[tuple[str, Callable[[str], str]]]) -> list[str]:
        body = [f"| {title} | {' | '.join(map(cell, cells))} |" for title, cell in rows]
        return [f"| {head} | {' | '.join(cells)} |", "|---" * (len(cells) + 1) + "|", *body, ""]

    def factor(peer: str, protocol: str) -> Callable[[str], str]:
        def cell(name: str) -> str:
            row = found.get((name, peer, protocol))
            base = _base(row, found) if row else None
            return f"{base['of_echo'] / row['of_echo']:.1f}x" if row and base else ""

        return cell

    def of_echo(server: str, protocol: str) -> Callable[[str], str]:
        def cell(name: str) -> str:
            row = found.get((name, server, protocol))
            repeated = f" ({row['repeated_of_echo']:.2f})" if row and "repeated_of_echo" in row else ""
            return f"{row['of_echo']:.2f}{repeated}, {row['cpu_us']:.0f} us" if row else ""

        return cell

    def figures(title: str, cell: str, row_format: Callable[[Row], str]) -> str:
        servers = {(server, protocol): row for (name, server, protocol), row in found.items() if name == cell}
        seen = [servers.get(pair) for pair in COMPARED]
        return f"| {title} | {' | '.join(row_format(row) if row else '' for row in seen)} |"

    first = cells[0]
    text = lines(
        "ours is so many times as fast as",
        [(f"{server}, {protocol}", factor(server, protocol)) for server, protocol in PEERS],
    )
    text += lines(
        "of the echo (one request, repeated), processor time of a request",
        [(f"{server}, {protocol}", of_echo(server, protocol)) for server, protocol in OURS],
    )
    names = [f"{server}, {protocol}" for server, protocol in COMPARED]
    text += [f"| {first} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    text.append(
        figures("median and 99th percentile, ms", first, lambda row: f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f}")
    )
    text.append(figures("start until ready, s", first, lambda row: f"{row['start_seconds']:.1f}"))
    text.append(figures("memory, MiB", first, lambda row: f"{row['rss_mib']:.0f}"))
    text.append(figures("of the load's core, %", first, lambda row: f"{_load_busy(row):.0f}"))
    return "\n".join(text) + "\n"


def _load_busy(row: Row) -> float:
    """Return the percentage of its core that the load generator used: near 100, it was what was measured."""
    return float(row["load_cpu_us"] * row["requests_per_second"] / 1e4)


def keep(document: dict[str, Any]) -> None:
    """Write results/serving.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving.json").write_text(json.dumps(document, indent=1) + "\n")


def write() -> None:
    """Write results/serving.md and the figures in docs/performance.md, from results/serving.json."""
    results = json.loads((RESULTS / "serving.json").read_text())["results"]
    (RESULTS / "serving.md").write_text(table(results))
    before, rest = DOCS.read_text().split(BEGIN)
    _, after = rest.split(END)
    DOCS.write_text(f"{before}{BEGIN}\n\n{summary(results)}\n{END}{after}")
