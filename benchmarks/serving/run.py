"""Requests per second of several model servers on one core, as ratios to a bare uvicorn in the same minute.

`scripts/bench serving` installs the peers and runs it. The machine's speed drifts by a quarter within minutes, so the
echo is measured before and after every figure and only ratios are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io
from measure import Load, Started, load, started
from servers import ECHO, GRPC_ECHO, SERVERS, Request, Server
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Cell:
    """One figure: so many rows a request, over so many connections, for one of the models, of some servers."""

    name: str
    model: str
    rows: int
    connections: int
    servers: tuple[str, ...]


PEERS = ("mlserver", "kserve", "bentoml")
OURS = ("modelyard", "modelyard, v2", "modelyard, v1")
CELLS = (
    Cell("1 row x 4, 8 connections", "logistic", 1, 8, ("modelyard, native format", *OURS, *PEERS)),
    Cell("100 rows x 4, 8 connections", "logistic", 100, 8, (*OURS, *PEERS)),
    Cell("1000 rows x 20, 8 connections", "logistic20", 1000, 8, (*OURS, *PEERS)),
    Cell("1000 rows x 20 as binary, 8 connections", "logistic20", 1000, 8, ("modelyard, v2 binary",)),
    Cell("forest of 100, 1 row, 1 connection", "forest", 1, 1, ("modelyard, without batching", *OURS, *PEERS)),
    Cell("forest of 100, 1 row, 64 connections", "forest", 1, 64, (*OURS, *PEERS)),
    Cell("1 row x 4 over gRPC, 8 connections", "logistic", 1, 8, ("modelyard, gRPC", "mlserver, gRPC")),
)


def _train(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write the models; return rows to ask each for."""
    random = np.random.default_rng(0)
    asked = {}
    for name, features, model in (
        ("logistic", 4, LogisticRegression()),
        ("logistic20", 20, LogisticRegression()),
        ("forest", 4, RandomForestClassifier(n_estimators=100, random_state=0)),
    ):
        rows = random.normal(size=(2000, features))
        model.fit(rows, (rows.sum(axis=1) + random.normal(size=2000) > 0).astype(int))
        (folder / name).mkdir(parents=True, exist_ok=True)
        if isinstance(model, LogisticRegression):
            native = {"type": "logistic", "weights": model.coef_[0].tolist(), "bias": float(model.intercept_[0])}
            (folder / name / "model.json").write_text(json.dumps(native))
        skops.io.dump(model, folder / name / "model.skops")
        joblib.dump(model, folder / name / "model.joblib")
        asked[name] = rows
    (folder / "forest/batched").touch()
    return asked


def _measure_cell(
    cell: Cell, model: Path, rows: list[list[float]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    servers = [SERVERS[name] for name in cell.servers if not options.only or name in options.only]
    return [_measure(cell, server, model, rows, options) for server in servers]


def _measure(
    cell: Cell, server: Server, model: Path, rows: list[list[float]], options: argparse.Namespace
) -> dict[str, Any]:
    request = server.request(rows)
    echo = GRPC_ECHO if request.grpc else ECHO
    limit = replace(request, path="/") if echo is ECHO else request
    with started(echo, model, options.cache) as bare, started(server, model, options.cache) as running:

        def ask(who: Started, what: Request, seconds: int) -> Load:
            return load(who, what, connections=cell.connections, seconds=seconds)

        ask(running, request, 1)  # warm
        ask(bare, limit, 1)
        rounds: list[tuple[Load, float]] = []
        before = ask(bare, limit, options.seconds).requests_per_second
        for _ in range(options.rounds):
            seen = ask(running, request, options.seconds)
            after = ask(bare, limit, options.seconds).requests_per_second
            rounds.append((seen, seen.requests_per_second / ((before + after) / 2)))
            before = after
        summary = _summary(cell, server, rounds, running.start_seconds, running.rss_mib())
        print(_line(summary), flush=True)
        if server.statistics:
            summary["stages"] = _stages(running.url(server.statistics))
            print("    " + _stages_line(summary), flush=True)
    return summary


def _stages(url: str) -> dict[str, float]:
    """Return the mean microseconds of each stage of a request, from the protocol's own statistics."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own loopback address
        stats = json.load(answer)["model_stats"][0]["inference_stats"]
    names = {"compute_input": "parse", "queue": "queue", "compute_infer": "compute", "compute_output": "encode"}
    return {new: stats[old]["ns"] / max(1, stats[old]["count"]) / 1000 for old, new in names.items()}


def _stages_line(row: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {value:.1f}" for name, value in row["stages"].items())
    return f"a request: {1e6 / row['requests_per_second']:.1f} us of the core; {stages} us, the rest HTTP and sockets"


def _summary(
    cell: Cell, server: Server, rounds: list[tuple[Load, float]], start_seconds: float, rss_mib: float
) -> dict[str, Any]:
    ratios = [ratio for _, ratio in rounds]
    loads = [seen for seen, _ in rounds]
    return {
        "cell": cell.name,
        "server": server.name,
        "requests_per_second": statistics.median(seen.requests_per_second for seen in loads),
        "of_echo": statistics.median(ratios),
        "of_echo_lowest": min(ratios),
        "of_echo_highest": max(ratios),
        "p50_ms": statistics.median(seen.p50_ms for seen in loads),
        "p99_ms": statistics.median(seen.p99_ms for seen in loads),
        "errors": sum(seen.errors for seen in loads),
        "start_seconds": start_seconds,
        "rss_mib": rss_mib,
        "rounds": [asdict(seen) for seen in loads],
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['cell']:37} {row['server']:24} {row['requests_per_second']:7.0f}/s  {row['of_echo']:.3f} of echo "
        f"({row['of_echo_lowest']:.3f}-{row['of_echo_highest']:.3f})  p50 {row['p50_ms']:.2f} p99 {row['p99_ms']:.2f}"
        f" ms  errors {row['errors']}  start {row['start_seconds']:.1f} s  {row['rss_mib']:.0f} MiB"
    )


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown, each peer beside our answer to the same requests."""
    lines = [
        "| | server | requests/s | of echo (lowest to highest) | ours is | p50 / p99 ms | errors | start s | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {(row["cell"], row["server"]): row for row in results}
    for row in results:
        base = found.get((row["cell"], SERVERS[row["server"]].like))
        factor = f"{base['of_echo'] / row['of_echo']:.1f}x" if base else ""
        spread = f"{row['of_echo']:.3f} ({row['of_echo_lowest']:.3f} to {row['of_echo_highest']:.3f})"
        lines.append(
            f"| {row['cell']} | {row['server']} | {row['requests_per_second']:.0f} | {spread} | {factor} "
            f"| {row['p50_ms']:.2f} / {row['p99_ms']:.2f} | {row['errors']} "
            f"| {row['start_seconds']:.1f} | {row['rss_mib']:.0f} |"
        )
    lines += ["", "Mean microseconds of a request's stages, of ours:", ""]
    lines += ["| | server | parse | queue | compute | encode | in all |", "|---|---|---|---|---|---|---|"]
    for row in results:
        if "stages" in row:
            stages = " | ".join(f"{value:.1f}" for value in row["stages"].values())
            whole = 1e6 / row["requests_per_second"]
            lines.append(f"| {row['cell']} | {row['server']} | {stages} | {whole:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write results/serving.json and results/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the peers' environments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each run of wrk")
    parser.add_argument("--only", action="append", help="a server; may be given more than once")
    parser.add_argument("--cells", help="only those whose name holds this")
    options = parser.parse_args()
    models = options.cache / "models"
    asked = _train(models)
    results = []
    for cell in CELLS:
        if options.cells and options.cells not in cell.name:
            continue
        rows = asked[cell.model][: cell.rows].round(6).tolist()
        results += _measure_cell(cell, models / cell.model, rows, options)
    text = table(results)
    print("\n" + text)
    if options.only or options.cells:
        return  # a part is for reading, not for keeping
    RESULTS.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
    (RESULTS / "serving.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    (RESULTS / "serving.md").write_text(text)


if __name__ == "__main__":
    main()
