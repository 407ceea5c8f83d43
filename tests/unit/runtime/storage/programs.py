"""The storage servers that tests fetch from: built from Go modules or installed by npm into the cache, once.

`tests/servers/go.sum` and `tests/servers/azurite/package-lock.json` vouch for what is compiled and installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard_cluster.errors import BuildFailed, ClusterError, MissingPrerequisite
from modelyard_cluster.go_toolchain import find_go
from modelyard_cluster.paths import cache_root
from modelyard_cluster.run import run, say

SOURCES = Path(__file__).parents[3] / "servers"
_BUILD_LIMIT = 30 * 60.0
_GO = {
    "versitygw": "github.com/versity/versitygw/cmd/versitygw",
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server",
    "registry": "github.com/distribution/distribution/v3/cmd/registry",
}


def go_program(name: str) -> Path:
    """Return a server's program, built from its Go module unless that was done before (a minute or two each).

    Raises MissingPrerequisite without a Go toolchain, BuildFailed.
    """
    folder = _cache("go.mod", "go.sum")
    program = folder / name
    with one_at_a_time(folder, program) as missing:
        if missing:
            go = find_go(os.environ, cache_root(os.environ), SOURCES / "go.mod", say)
            say(f"building {name} into {folder}: a minute or two, once")
            new = folder / f".{name}.{os.getpid()}"
            flags = ("-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", new)
            env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
            try:
                run(go, "build", *flags, _GO[name], cwd=SOURCES, env=env, timeout=_BUILD_LIMIT)
            except ClusterError as exc:
                raise BuildFailed(f"{name} could not be built: {exc}") from exc
            new.rename(program)
    return program


def azurite() -> list[str]:
    """Return the command of the Azure storage server, installed by npm unless that was done before.

    Raises MissingPrerequisite without Node.js and npm, or where the packages can't be had.
    """
    folder = _cache("azurite/package.json", "azurite/package-lock.json")
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingPrerequisite("the Azure storage server needs Node.js and npm, which are not on PATH")
    script = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    with one_at_a_time(folder, folder / ".complete") as missing:
        if missing:
            say(f"installing azurite into {folder}: half a minute, once")
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCES / "azurite" / name, folder)
            try:
                run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder, timeout=600)
            except ClusterError as exc:
                raise MissingPrerequisite(f"npm could not install azurite: {exc}") from exc
            (folder / ".complete").touch()
    return [node, str(script)]


def _cache(*pins: str) -> Path:
    digest = hashlib.sha256(b"".join((SOURCES / pin).read_bytes() for pin in pins)).hexdigest()[:12]
    folder = cache_root(os.environ) / "servers" / digest
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def one_at_a_time(folder: Path, made: Path) -> Iterator[bool]:
    """Hold the folder's lock where something is to be made; yield whether it is missing."""
    if made.exists():
        yield False
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not made.exists()


def main() -> None:
    """Make all of them now, so that a long build shows its progress; name what this machine can't have."""
    for name in _GO:
        try:
            go_program(name)
        except ClusterError as exc:
            say(f"{name}: {exc}")
    try:
        azurite()
    except ClusterError as exc:
        say(f"azurite: {exc}")


if __name__ == "__main__":
    main()
