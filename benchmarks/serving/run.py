"""Requests per second of several model servers on one core, as ratios to a bare uvicorn in the same minute.

`scripts/bench serving` installs what is needed and runs it. Each request has another body, out of 256, and fresh ids.
The machine's speed drifts by a quarter within minutes, so the echo is measured before and after every figure and only
ratios are compared. The processor time of a request is steadier still, also on a machine that is not quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks.serving import report
from benchmarks.serving.load import Load, Pool, ask, load
from benchmarks.serving.process import Process, started
from benchmarks.serving.protocols import PROTOCOLS
from benchmarks.serving.servers import ECHO, GRPC_ECHO, SERVERS

BODIES = 256
"""Different bodies of one figure."""
CHECKED = 3
"""Bodies whose answers are compared with scikit-learn's before the load."""


@dataclass(frozen=True)
class Target:
    """A server, asked in one protocol."""

    server: str
    protocol: str


@dataclass(frozen=True)
class Cell:
    """So many rows a request, over so many connections, for one of the models, of some targets."""

    name: str
    model: str
    rows: int
    connections: int
    targets: tuple[Target, ...]
    quick: tuple[str, ...] = ()
    """Our protocols that `--quick` measures."""


def _targets(*names: tuple[str, str]) -> tuple[Target, ...]:
    return tuple(Target(server, protocol) for server, protocols in names for protocol in protocols.split(", "))


OURS = ("modelyard", "predict, v2, v1")
ALL_OF_OURS = ("modelyard", "predict, v2, v1, v2 binary, gRPC")
PEERS = (("mlserver", "v2"), ("kserve", "v1"), ("bentoml", "its own"))
GRPC_PEERS = (("mlserver", "v2, gRPC"), ("kserve", "v1"), ("bentoml", "its own"))
CELLS = (
    Cell(
        "1 row x 4, 8 connections",
        "logistic",
        1,
        8,
        _targets(("modelyard, native format", "predict"), ALL_OF_OURS, *GRPC_PEERS),
        quick=("predict", "v2", "v1", "gRPC"),
    ),
    Cell(
        "100 rows x 4, 8 connections",
        "logistic",
        100,
        8,
        _targets(ALL_OF_OURS, *GRPC_PEERS),
        quick=("v2", "v2 binary"),
    ),
    Cell("1000 rows x 20, 8 connections", "logistic20", 1000, 8, _targets(ALL_OF_OURS, *GRPC_PEERS)),
    Cell(
        "forest of 100, 1 row, 1 connection",
        "forest",
        1,
        1,
        _targets(("modelyard, without batching", "predict"), OURS, *PEERS),
    ),
    Cell("forest of 100, 1 row, 64 connections", "forest", 1, 64, _targets(OURS, *PEERS)),
)


@dataclass(frozen=True)
class Settings:
    """How a run is made."""

    cache: Path
    rounds: int
    seconds: int
    repeated: bool
    """Whether the first request, over and over, is measured as well."""


@dataclass(frozen=True)
class Model:
    """A model in a folder, and the rows to ask it for, of shape (bodies, rows, features)."""

    folder: Path
    estimator: Any
    features: int

    def bodies(self, rows: int) -> NDArray[np.float64]:
        """Return rows of one request after another; they are the same in every run."""
        return np.random.default_rng(1).normal(size=(BODIES, rows, self.features)).round(6)


def _train(folder: Path) -> dict[str, Model]:
    """Write the models."""
    random = np.random.default_rng(0)
    models = {}
    for name, features, estimator in (
        ("logistic", 4, LogisticRegression()),
        ("logistic20", 20, LogisticRegression()),
        ("forest", 4, RandomForestClassifier(n_estimators=100, random_state=0)),
    ):
        rows = random.normal(size=(2000, features))
        estimator.fit(rows, (rows.sum(axis=1) + random.normal(size=2000) > 0).astype(int))
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        if isinstance(estimator, LogisticRegression):
            native = {
                "type": "logistic",
                "weights": estimator.coef_[0].tolist(),
                "bias": float(estimator.intercept_[0]),
            }
            (home / "model.json").write_text(json.dumps(native))
        skops.io.dump(estimator, home / "model.skops")
        joblib.dump(estimator, home / "model.joblib")
        models[name] = Model(home, estimator, features)
    (folder / "forest/batched").touch()
    return models


def _measure_cell(cell: Cell, model: Model, settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure the targets of a cell, those of one server while it runs."""
    bodies = model.bodies(cell.rows)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        pools: dict[str, Pool] = {}
        for name in dict.fromkeys(target.protocol for target in cell.targets):
            protocol = PROTOCOLS[name]
            requests = [protocol.request(rows) for rows in bodies]
            pools[name] = Pool.write(Path(scratch, name.replace(" ", "-")), protocol, requests)
        echo = {
            is_grpc: stack.enter_context(started(GRPC_ECHO if is_grpc else ECHO, model.folder, settings.cache))
            for is_grpc in sorted({pool.protocol.grpc for pool in pools.values()})
        }
        for name, targets in itertools.groupby(cell.targets, key=lambda target: target.server):
            with started(SERVERS[name], model.folder, settings.cache) as running:
                for target in targets:
                    pool = pools[target.protocol]
                    _check(running, target, pool, model, bodies)
                    bare = echo[pool.protocol.grpc]
                    yield _measure(cell, target, running, bare, pool, settings)


def _check(running: Process, target: Target, pool: Pool, model: Model, bodies: NDArray[np.float64]) -> None:
    """Raise RuntimeError where a server's predictions are not scikit-learn's."""
    for rows in bodies[:CHECKED]:
        seen = ask(running, pool.protocol, pool.protocol.request(rows))
        expected = model.estimator.predict(rows).tolist()
        if seen != expected:
            raise RuntimeError(f"{target} predicts {seen[:5]} and not {expected[:5]}")


def _measure(  # noqa: PLR0917 - six nouns of one measurement
    cell: Cell, target: Target, running: Process, bare: Process, pool: Pool, settings: Settings
) -> dict[str, Any]:
    def run(process: Process, seconds: int = settings.seconds, *, repeated: bool = False) -> Load:
        return load(process, pool, connections=cell.connections, seconds=seconds, repeated=repeated)

    run(running, 1)  # warm
    echoes = [run(bare)]
    rounds: list[Load] = []
    for _ in range(settings.rounds):
        rounds.append(run(running))
        echoes.append(run(bare))
    row = _summary(cell, target, rounds, echoes) | {
        "start_seconds": running.start_seconds,
        "rss_mib": running.rss_mib(),
    }
    statistics = SERVERS[target.server].statistics
    if statistics:
        row["stages"] = _stages(running.url(statistics))
    if statistics and settings.repeated:
        repeated = run(running, repeated=True)
        after = run(bare, repeated=True)
        row["repeated_of_echo"] = repeated.requests_per_second / after.requests_per_second
        row["repeated_cpu_us"] = repeated.server_cpu_us
    print(report.line(row), flush=True)
    return row


def _stages(url: str) -> dict[str, float]:
    """Return the mean microseconds of each stage of a request, from the protocol's own statistics."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own loopback address
        stats = json.load(answer)["model_stats"][0]["inference_stats"]
    names = {"compute_input": "parse", "queue": "queue", "compute_infer": "compute", "compute_output": "encode"}
    return {new: stats[old]["ns"] / max(1, stats[old]["count"]) / 1000 for old, new in names.items()}


def _summary(cell: Cell, target: Target, rounds: list[Load], echoes: list[Load]) -> dict[str, Any]:
    around = [
        (before.requests_per_second + after.requests_per_second) / 2 for before, after in itertools.pairwise(echoes)
    ]
    ratios = [seen.requests_per_second / echo for seen, echo in zip(rounds, around, strict=True)]
    cpu = statistics.median(seen.server_cpu_us for seen in rounds)
    echo_cpu = statistics.median(seen.server_cpu_us for seen in echoes)
    return {
        "cell": cell.name,
        "server": target.server,
        "protocol": target.protocol,
        "requests_per_second": statistics.median(seen.requests_per_second for seen in rounds),
        "of_echo": statistics.median(ratios),
        "of_echo_lowest": min(ratios),
        "of_echo_highest": max(ratios),
        "cpu_us": cpu,
        "echo_cpu_us": echo_cpu,
        "cpu_of_echo": echo_cpu / cpu,
        "load_cpu_us": statistics.median(seen.load_cpu_us for seen in rounds),
        "echo_load_cpu_us": statistics.median(seen.load_cpu_us for seen in echoes),
        "echo_requests_per_second": statistics.median(seen.requests_per_second for seen in echoes),
        "p50_ms": statistics.median(seen.p50_ms for seen in rounds),
        "p99_ms": statistics.median(seen.p99_ms for seen in rounds),
        "errors": sum(seen.errors for seen in rounds),
        "rounds": [asdict(seen) for seen in rounds],
    }


def _chosen(options: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for, with the targets that were asked for."""
    chosen = []
    for cell in CELLS:
        if options.cells and options.cells not in cell.name:
            continue
        targets = tuple(
            target
            for target in cell.targets
            if (not options.quick or (target.server == "modelyard" and target.protocol in cell.quick))
            and (not options.only or target.server in options.only)
            and (not options.protocol or target.protocol in options.protocol)
        )
        if targets:
            chosen.append(Cell(cell.name, cell.model, cell.rows, cell.connections, targets))
    return chosen


def main() -> None:
    """Measure and print; of a whole run, write results/serving.json and what is drawn from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the servers' environments")
    parser.add_argument("--quick", action="store_true", help="a few cells of ours and the echo, in 90 s, not kept")
    parser.add_argument("--rounds", type=int, help="of each figure; 3, or 2 with --quick")
    parser.add_argument("--seconds", type=int, help="of each run of the load generator; 4, or 1 with --quick")
    parser.add_argument("--only", action="append", help="a server; may be given more than once")
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS, help="may be given more than once")
    parser.add_argument("--cells", help="only those whose name holds this")
    parser.add_argument("--environments", action="store_true", help="print the environments that are needed, and end")
    parser.add_argument("--report", action="store_true", help="write the tables from results/serving.json, and end")
    options = parser.parse_args()
    if options.report:
        report.write()
        return
    cells = _chosen(options)
    if options.environments:
        print(*dict.fromkeys(SERVERS[target.server].home for cell in cells for target in cell.targets))
        return
    seconds = options.seconds or (1 if options.quick else 4)
    rounds = options.rounds or (2 if options.quick else 3)
    settings = Settings(options.cache, rounds, seconds, repeated=not options.quick)
    models = _train(options.cache / "models")
    results = [row for cell in cells for row in _measure_cell(cell, models[cell.model], settings)]
    print("\n" + report.table(results))
    if options.quick or options.only or options.cells or options.protocol:
        return  # a part is for reading, not for keeping
    machine = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
    report.keep({"machine": machine, "bodies": BODIES, "results": results})
    report.write()


if __name__ == "__main__":
    main()
