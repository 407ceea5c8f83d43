"""The benchmark's results as tables: in results/serving.md, and in docs/performance.md between two marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["keep", "line", "table", "write"]

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs/performance.md"
BEGIN, END = "<!-- figures: scripts/bench serving --report -->", "<!-- end of figures -->"
Row = dict[str, Any]


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


def _base(row: Row, found: dict[tuple[str, str, str], Row]) -> Row | None:
    """Return our answer to a peer's requests."""
    if row["server"].startswith("modelyard"):
        return None
    protocol = "predict" if row["protocol"] == "bentoml" else row["protocol"]
    return found.get((row["cell"], "modelyard", protocol))


def table(results: list[Row]) -> str:
    """Return the results as Markdown, each peer beside our answer to the same requests."""
    lines = [
        "| | server | requests/s | of echo (lowest to highest) | ours is | CPU us a request | of echo "
        "| the load's own us | repeated: of echo | p50 / p99 ms | errors | start s | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(row["cell"], row["server"], row["protocol"]): row for row in results}
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


def keep(document: dict[str, Any]) -> None:
    """Write results/serving.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving.json").write_text(json.dumps(document, indent=1) + "\n")


def write() -> None:
    """Write results/serving.md from results/serving.json."""
    results = json.loads((RESULTS / "serving.json").read_text())["results"]
    (RESULTS / "serving.md").write_text(table(results))
