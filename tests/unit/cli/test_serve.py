"""`modelyard serve`: models of one process, and swaps while clients ask."""

from __future__ import annotations

import json
import queue
import shlex
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from modelyard_local.addresses import AddressBlock
from waiting import eventually


@dataclass
class Serving:
    """A server that runs, and the lines that it has printed."""

    process: subprocess.Popen[str]
    url: str
    lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def line(self, part: str) -> str:
        """Return the next line that holds `part`; the test's own timeout bounds the wait."""
        while True:
            line = self.lines.get(timeout=100)
            if part in line:
                return line

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    """Run `modelyard serve` on an address of our own, until the block ends."""
    block = AddressBlock.claim(None)
    command = [sys.executable, "-u", "-m", "modelyard_cli.main", "serve", *arguments, "--host", block.pod(1)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started = Serving(process, f"http://{block.pod(1)}:8080")

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            started.lines.put(line)
        started.lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield started
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
        block.release()


def write(folder: Path, weight: float, **model: Any) -> Path:
    """Write a model whose answer to [1, 1] is twice `weight`, at once."""
    folder.mkdir(exist_ok=True)
    new = folder.parent / ".new"
    new.write_text(json.dumps({"type": "linear", "weights": [weight, weight], **model}))
    new.replace(folder / "model.json")
    return folder


def test_a_model_is_served_until_interrupted(tmp_path: Path) -> None:
    """Under the name of its file, unless another is given."""
    write(tmp_path / "churn", 1.5)

    with serving(f"file://{tmp_path}/churn/model.json", "--name", "sum") as server:
        server.line("sum is ready")
        answer = server.ask("/predict", {"features": [1, 1]})

    assert (answer["prediction"], answer["model_name"]) == (3.0, "sum")


def test_a_command_is_printed_that_answers(tmp_path: Path) -> None:
    """With the model's own inputs."""
    write(tmp_path / "churn", 1, feature_names=["age", "it's"])

    with serving(str(tmp_path / "churn")) as server:
        server.line("churn is ready; try")
        words = shlex.split(server.line("curl"))
        body = json.loads(words[-1])
        answer = server.ask("/predict", body)

    assert words[:3] == ["curl", "-s", f"{server.url}/predict"]
    assert body == {"features": {"age": 0.0, "it's": 0.0}}
    assert answer["prediction"] == 0.0


def test_a_folder_of_folders_is_several_models(tmp_path: Path) -> None:
    """Each under the name of its own folder."""
    (tmp_path / "models").mkdir()
    for weight, name in enumerate(("a", "b"), start=1):
        write(tmp_path / "models" / name, weight)

    with serving(str(tmp_path / "models")) as server:
        server.line("b is ready")
        answers = [server.ask("/predict", {"model_name": name, "features": [1, 1]}) for name in ("a", "b")]

    assert [answer["prediction"] for answer in answers] == [2.0, 4.0]


def test_workers_serve_as_one(tmp_path: Path) -> None:
    """With one command to paste, and one line in the log, whatever their number."""
    write(tmp_path / "churn", 1.5)

    with serving(str(tmp_path / "churn"), "--workers", "3") as server:
        server.line("churn is ready; try")
        answers = [server.ask("/predict", {"features": [1, 1]})["prediction"] for _ in range(20)]
        metrics = server.ask("/metrics", method="GET", accept="application/json")
    lines = list(server.lines.queue)

    assert answers == [3.0] * 20
    assert metrics["request_count"] == 20
    assert [line for line in lines if "ready" in line or "serving" in line] == []


def test_watched_files_are_swapped_in_every_worker(tmp_path: Path) -> None:
    """Each looks for itself; a connection meets any of them."""
    folder = write(tmp_path / "m", 1)

    with serving(str(folder), "--watch", "--workers", "2") as server:
        server.line("m is ready")
        write(folder, 2)
        for _ in range(2):
            server.line("swapped m to version")
        answers = {server.ask("/predict", {"features": [1, 1]})["prediction"] for _ in range(20)}

    assert answers == {4.0}


def test_changes_need_the_token(tmp_path: Path) -> None:
    """And then work."""
    (tmp_path / "token").write_text("word")
    second = write(tmp_path / "second", 2)

    with serving(str(write(tmp_path / "first", 1)), "--admin-token-file", str(tmp_path / "token")) as server:
        server.line("first is ready")
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            server.ask("/models", {"name": "second", "uri": second.as_uri()})
        refused.value.close()
        server.ask("/models", {"name": "second", "uri": second.as_uri()}, authorization="Bearer word")
        answer = server.ask("/predict", {"model_name": "second", "features": [1, 1]})

    assert answer["prediction"] == 4.0


def test_a_swap_under_load_gives_every_answer_of_one_version_or_the_other(tmp_path: Path) -> None:
    """None is missing, and none mixes the two; what does not load changes nothing."""
    folder = write(tmp_path / "m", 1)
    stop = threading.Event()
    seen: list[tuple[float, str]] = []
    failures: list[str] = []

    def client(server: Serving, number: int) -> None:
        while not stop.is_set():
            try:
                body = server.ask("/predict", {"features": [1, 1], "use_cache": number % 2 == 0})
                seen.append((body["prediction"], body["model_version"]))
            except (OSError, ValueError) as exc:
                failures.append(repr(exc))

    def answered(count: int) -> None:
        enough = len(seen) + count
        eventually(lambda: len(seen) >= enough or failures, what="answers")

    with serving(str(folder), "--watch") as server:
        server.line("m is ready")
        clients = [threading.Thread(target=client, args=(server, number)) for number in range(6)]
        for thread in clients:
            thread.start()
        answered(50)
        (folder / "model.json").write_text('{"type": "linear"')
        server.line("m stays as it was: LoadFailed")
        for weight in (2, 3):
            write(folder, weight)
            server.line("swapped m to version")
            answered(50)
        stop.set()
        for thread in clients:
            thread.join()

    versions = {version: {answer for answer, own in seen if own == version} for _, version in seen}
    assert failures == []
    assert sorted(map(sorted, versions.values())) == [[2.0], [4.0], [6.0]]
    assert seen[-1][0] == 6.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/m", "b/m"], "several models would be named m"),
        (["a", "b", "--name", "x", "--digest", "y"], "--name, --digest can be given for one model only"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(arguments: list[str], message: str) -> None:
    """And ends with 2."""
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 2
    assert message in done.stderr


def test_models_that_are_changed_over_http_need_one_process(tmp_path: Path) -> None:
    """Those of several workers would differ."""
    arguments = [str(write(tmp_path / "m", 1)), "--workers", "2", "--admin-token-file", str(tmp_path / "token")]
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 1
    assert "leave out --admin-token-file (MODELYARD_ADMIN_TOKEN_FILE) or --workers" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_is_not_there_ends_with_a_reason(workers: str, tmp_path: Path) -> None:
    """And 1."""
    arguments = [str(tmp_path / "none"), "--port", "0", "--workers", workers]
    command = [sys.executable, "-m", "modelyard_cli.main", "serve", *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 1
    assert "ArtifactNotFound: " in done.stderr
    assert "Traceback" not in done.stderr


def test_output_as_json_says_where_the_server_answers(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"type": "linear", "weights": [1, 2], "bias": 0}))
    name = "a b:c%2Fd"

    with serving(str(model), "--name", name, "--grpc-port", "9123", "--output", "json") as server:
        lines = [server.line("{")]
        while lines[-1] != "}\n":
            lines.append(server.lines.get(timeout=100))
        told = json.loads("".join(lines))
        path = urllib.parse.quote(name, safe="")

        assert (told["url"], told["grpcPort"]) == (server.url, 9123)
        assert [(served["name"], served["format"]) for served in told["models"]] == [(name, "linear")]
        assert server.ask("/predict", told["models"][0]["example"])["prediction"] == 0
        for route in (f"/models/{path}", f"/v1/models/{path}", f"/v2/models/{path}/ready", f"/v2/models/{path}/stats"):
            server.ask(route, method="GET")
        with grpc.insecure_channel(f"{server.url.removeprefix('http://').removesuffix(':8080')}:9123") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
