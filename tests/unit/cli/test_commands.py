"""The command line itself: what it offers, what it costs to ask, and what a wrong line gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelyard_cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_help_imports_nothing_heavy() -> None:
    """So that it answers at once."""
    code = (
        "import sys\n"
        "from modelyard_cli.main import main\n"
        "try: main(['local', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'yaml', 'aiohttp', 'asyncio', 'kubernetes', 'importlib.metadata', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)

    assert done.stderr == "[]\n"
    assert "apply" in done.stdout


def test_commands_that_ask_an_installation_are_light() -> None:
    """No control plane is imported to send a request."""
    code = (
        "import sys\n"
        "from modelyard_cli.main import main\n"
        "try: main(['local', 'get', '--state', '/nothing'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pydantic', 'aiohttp', 'asyncio', 'yaml'} & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)

    assert done.stdout == "[]\n"
    assert done.stderr == "error: modelyard local does not run on /nothing: start it with `modelyard local up`\n"


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["local"], ["local", "apply"], ["serve"], ["local", "get", "-o", "x"]]
)
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    """And shows how it is meant."""
    done = run(*words)

    assert done.returncode == 2
    assert "usage: modelyard" in done.stderr


def test_version() -> None:
    """The distribution's."""
    assert run("--version").stdout.startswith("modelyard 0.")


def test_fetch_fills_a_folder(tmp_path: Path) -> None:
    """With what the init container of a model pod would put there."""
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"type": "linear", "weights": [1, 2], "bias": 0}))

    done = run("fetch", f"file://{model}", "--to", str(tmp_path / "out"), "--version", "7")

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "artifact.json").read_text())["version"] == "7"


def test_fetch_prints_its_report_as_json(tmp_path: Path) -> None:
    """The same as in artifact.json, and nothing else."""
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"type": "linear", "weights": [1, 2], "bias": 0}))

    done = run("fetch", f"file://{model}", "--to", str(tmp_path / "out"), "--output", "json")

    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "artifact.json").read_text())


def test_fetch_says_what_is_wrong(tmp_path: Path) -> None:
    """In one line, with exit code 1."""
    done = run("fetch", f"file://{tmp_path}/nothing", "--to", str(tmp_path / "out"))

    assert done.returncode == 1
    assert "ArtifactNotFound" in done.stderr
    assert "Traceback" not in done.stderr
