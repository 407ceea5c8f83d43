"""The wheel and the source distribution: installed into an environment of nothing else, and used as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard_cluster.errors import MissingPrerequisite
from modelyard_local.addresses import AddressBlock
from waiting import eventually

REPOSITORY = Path(__file__).parents[3]
_MODEL = {"type": "linear", "weights": [1, 2], "bias": 0.5}
_FEATURES, _PREDICTION = [10, 100], 210.5
# Nothing of the checkout, or of the environment that runs these tests, may help.
_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"} and not name.startswith("MODELYARD_")
}


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=_ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False)


def _ok(*command: str | Path, cwd: Path) -> str:
    done = _run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _uv() -> Path:
    uv = Path(sys.prefix) / "bin/uv"
    if not uv.exists():
        missing = MissingPrerequisite("uv, which scripts/test puts into the virtual environment, is not there")
        if os.environ.get("MODELYARD_REQUIRE_ALL") == "1":
            pytest.fail(f"MODELYARD_REQUIRE_ALL=1, but {missing}", pytrace=False)
        pytest.skip(str(missing))
    return uv


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both: the wheel made from the source distribution, and `tree/` with one made from the checkout."""
    folder = tmp_path_factory.mktemp("distributions")
    _ok(_uv(), "build", "-q", "--out-dir", folder, REPOSITORY, cwd=folder)
    _ok(_uv(), "build", "-q", "--wheel", "--out-dir", folder / "tree", REPOSITORY, cwd=folder)
    return folder


def _wheel(folder: Path) -> Path:
    return next(folder.glob("*.whl"))


def _install(folder: Path, *requirements: str | Path) -> Path:
    """Make an environment with some requirements, in the versions of our lock; return its folder of commands."""
    _ok(_uv(), "venv", "-q", "--python", sys.executable, folder / "env", cwd=folder)
    command: list[str | Path] = [_uv(), "pip", "install", "-q", "--python", folder / "env/bin/python"]
    _ok(*command, "-c", REPOSITORY / "requirements/local.lock", *requirements, cwd=folder)
    return folder / "env/bin"


@pytest.fixture(scope="module")
def local_commands(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel and its extra `local`."""
    return _install(tmp_path_factory.mktemp("local"), f"modelyard[local] @ {_wheel(distributions).as_uri()}")


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(_MODEL))
    return folder


def _predict(url: str) -> Any:
    request = urllib.request.Request(f"{url}/predict", json.dumps({"features": _FEATURES}).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["prediction"]


def test_the_source_distribution_holds_all_that_the_wheel_needs(distributions: Path) -> None:
    from_source = zipfile.ZipFile(_wheel(distributions))
    from_tree = zipfile.ZipFile(_wheel(distributions / "tree"))

    content = {name: from_source.read(name) for name in from_source.namelist()}

    assert content == {name: from_tree.read(name) for name in from_tree.namelist()}


def test_the_wheel_holds_our_packages_alone_and_says_that_they_are_typed(distributions: Path) -> None:
    names = zipfile.ZipFile(_wheel(distributions)).namelist()

    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}

    assert packages == {
        "modelyard_operator",
        "modelyard_runtime",
        "modelyard_router",
        "modelyard_local",
        "modelyard_cli",
    }
    assert {f"{package}/py.typed" for package in packages} <= set(names)


def test_the_source_distribution_without_extras_names_the_one_that_a_command_needs(
    distributions: Path, tmp_path: Path
) -> None:
    commands = _install(tmp_path, next(distributions.glob("*.tar.gz")))

    version = _ok(commands / "modelyard", "--version", cwd=tmp_path)
    usage = _ok(commands / "modelyard", "--help", cwd=tmp_path)
    refused = _run(commands / "modelyard", "serve", _model(tmp_path / "sum"), cwd=tmp_path)

    assert version.startswith("modelyard ")
    assert "serve" in usage
    assert refused.returncode == 1
    assert "pip install 'modelyard[runtime]'" in refused.stderr


def test_serve_answers_from_the_installed_wheel(local_commands: Path, tmp_path: Path) -> None:
    block = AddressBlock.claim(None)
    command: list[str | Path] = [
        local_commands / "modelyard",
        "serve",
        _model(tmp_path / "sum"),
        "--host",
        block.pod(1),
    ]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=_ENVIRONMENT, stdout=output, stderr=output)

    def answer() -> Any:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            return _predict(f"http://{block.pod(1)}:8080")

    try:
        prediction = eventually(answer, lambda seen: seen is not None, what="an answer")
    finally:
        process.terminate()
        code = process.wait(60)
        block.release()

    assert prediction == _PREDICTION
    assert code == 0, log.read_text()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder, on a path that is short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="myl-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_local_mode_runs_from_the_installed_wheel(local_commands: Path, state: Path, tmp_path: Path) -> None:
    def local(command: str, *words: str | Path) -> str:
        return _ok(local_commands / "modelyard", "local", command, "--state", state, *words, cwd=tmp_path)

    _model(tmp_path / "models/sum/1")
    manifest = tmp_path / "sum.yaml"
    model = {"uri": "pvc://models/sum/1", "version": "1"}
    spec = {"model": model, "serving": {"drainDelay": "0s"}}
    document = {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "sum"}}
    manifest.write_text(yaml.safe_dump({**document, "spec": spec}))

    local("up", "--detach", "--claim", f"models={tmp_path}/models")
    try:
        applied = local("apply", "-f", manifest)
        local("wait", "--for=condition=Ready", "mdep/sum", "--timeout=100s")
        status = json.loads(local("get", "mdep", "sum", "-o", "json"))["status"]
        prediction = _predict(status["url"])
    finally:
        local("down")

    assert applied == "modeldeployment.modelyard.dev/sum created\n"
    assert status["model"]["version"] == "1"
    assert prediction == _PREDICTION
    assert _run(local_commands / "modelyard", "local", "get", "--state", state, cwd=tmp_path).returncode == 1
