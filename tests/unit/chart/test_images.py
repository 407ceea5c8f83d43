"""The image recipes hold what their commands import; scripts/images names images as the chart does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Chart

Run = Callable[..., subprocess.CompletedProcess[str]]
RECIPES = {"operator": "operator/Dockerfile", "runtime": "runtime/Dockerfile", "router": "runtime/router.Dockerfile"}

# Imports every module of the packages in the folder given, from there and from installed packages alone.
_IMPORT_ALL = """\
import importlib, pathlib, pkgutil, sys
tree, repository = sys.argv[1:]
installed = [place for place in sys.path if "site-packages" in place or not place.startswith(repository)]
sys.path[:] = [tree, *installed]
for package in sorted(pathlib.Path(tree).glob("modelyard_*")):
    for module in pkgutil.walk_packages([str(package)], f"{package.name}."):
        if not module.name.endswith("__main__"):
            assert importlib.import_module(module.name).__file__.startswith(tree), module.name
print(*(name for name in sys.modules if name.startswith("modelyard_")))
"""


def copies(recipe: Path) -> list[tuple[list[str], str]]:
    """Return (sources, target) of what a recipe copies from the repository."""
    found = re.findall(r"^COPY (?!--from)(.+) (\S+)$", recipe.read_text(), re.MULTILINE)
    return [(sources.split(), target) for sources, target in found]


@pytest.mark.parametrize("part", RECIPES)
def test_an_image_holds_every_module_that_its_own_import(repository: Path, tmp_path: Path, part: str) -> None:
    for sources, target in copies(repository / RECIPES[part]):
        place = tmp_path / target.strip("/")
        for source in (repository / name for name in sources):
            if source.is_dir():
                shutil.copytree(source, place)
            else:
                file = place / source.name if target.endswith("/") else place
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, file)
    tree = tmp_path / "opt" / "modelyard"

    done = subprocess.run(
        [sys.executable, "-I", "-c", _IMPORT_ALL, tree, repository], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages == {f"modelyard_{part}", "modelyard_runtime"}


@pytest.mark.parametrize("part", RECIPES)
def test_the_ignore_file_lets_through_what_a_recipe_copies(repository: Path, part: str) -> None:
    lines = (repository / ".dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]

    for sources, _ in copies(repository / RECIPES[part]):
        for source in sources:
            assert (repository / source).exists()
            assert any(Path(source).match(rule) or source.startswith(f"{rule}/") for rule in allowed), source


@pytest.mark.parametrize("part", RECIPES)
def test_images_run_as_no_one_and_install_only_what_is_pinned(repository: Path, part: str) -> None:
    recipe = (repository / RECIPES[part]).read_text()

    assert re.findall(r"^USER (.*)", recipe, re.MULTILINE) == ["65532:65532"]
    installs = re.findall(r"^RUN .*\binstall\b.*", recipe, re.MULTILINE)
    assert len(installs) == 1
    assert f"--require-hashes --only-binary :all: -r /tmp/{part}.lock" in installs[0]


@pytest.fixture
def images(repository: Path, tmp_path: Path) -> Run:
    """Run scripts/images with builders that only say what they were asked."""
    for builder in ("docker", "buildah"):
        program = tmp_path / builder
        program.write_text(f'#!/bin/sh\necho {builder} "$@"\n')
        program.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            [repository / "scripts" / "images", *arguments],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_default_names_are_those_that_the_chart_asks_for(chart: Chart, images: Run) -> None:
    rendered = chart.defaults

    done = images("--builder", "docker")

    names = re.findall(r"^  (\S+)$", done.stdout, re.MULTILINE)
    env = rendered.env
    assert names == [rendered.container["image"], env["MODELYARD_RUNTIME_IMAGE"], env["MODELYARD_ROUTER_IMAGE"]]


def test_options_reach_the_builder(images: Run) -> None:
    options = ("--builder", "buildah", "--registry", "r.example", "--repository", "p", "--tag", "t", "--base", "b:1")

    done = images(*options, "router", "--", "--isolation", "chroot")

    assert done.returncode == 0
    [command] = [line for line in done.stdout.splitlines() if line.startswith("buildah")]
    assert command.startswith("buildah bud --layers --build-arg BASE_IMAGE=b:1 --file runtime/router.Dockerfile")
    assert " --tag r.example/p/router:t " in command
    assert command.endswith(" --isolation chroot .")
    assert "--set image.registry=r.example --set image.repository=p --set image.tag=t" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "there are operator, runtime and router"),
        (("--tag",), "--tag needs a value"),
        (("--builder", "kaniko"), "docker or buildah"),
        (("--tga", "x"), "usage:"),
    ],
)
def test_a_wrong_argument_is_told(images: Run, arguments: tuple[str, ...], said: str) -> None:
    done = images(*arguments)

    assert done.returncode != 0
    assert said in done.stderr
    assert "docker build" not in done.stdout
