"""PyTorch in an environment of its own, in the cache: it is no dependency of ours, and takes 4 GB.

`requirements/torch.lock` (written by scripts/lock) vouches for what is installed; our own code comes by PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from modelyard_cluster.errors import ClusterError, MissingPrerequisite
from modelyard_cluster.paths import cache_root
from modelyard_cluster.run import run, say
from unit.runtime.storage.programs import one_at_a_time

REPOSITORY = Path(__file__).parents[4]
_LOCK = REPOSITORY / "requirements" / "torch.lock"


def torch_python() -> Path:
    """Return the environment's Python, which is installed unless that was done before (a minute or more, 4 GB).

    Raises MissingPrerequisite where it can't be.
    """
    digest = hashlib.sha256(_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_root(os.environ) / "torch" / digest
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "env" / "bin" / "python"  # uv locks an environment's folder itself
    with one_at_a_time(folder, folder / ".complete") as missing:
        if missing:
            _install(folder, python)
            (folder / ".complete").touch()
    return python


def ask(program: Path, *arguments: str | Path) -> None:
    """Run a program of these tests' in the environment. Raises CommandFailed."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "runtime"), "PYTHONWARNINGS": "ignore"}
    run(torch_python(), program, *arguments, env=env, timeout=300)


def _install(folder: Path, python: Path) -> None:
    for old in folder.parent.iterdir():  # of another list, and as large
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        raise MissingPrerequisite("PyTorch is installed by uv, which scripts/test puts into the virtual environment")
    say(f"installing PyTorch into {folder}: a minute or more and 4 GB, once")
    try:
        run(uv, "venv", "-q", "--clear", "--python", sys.executable, folder / "env", timeout=120)
        run(uv, "pip", "install", "-q", "--python", python, "--no-deps", "--require-hashes", "-r", _LOCK, timeout=1500)
        # Libraries compile on first use: not while a test waits.
        run(python, "-c", "import torch.export", timeout=300)
    except ClusterError as exc:
        raise MissingPrerequisite(f"PyTorch could not be installed: {exc}") from exc


def main() -> None:
    """Install it now, so that the download shows its progress; say what is in the way."""
    try:
        torch_python()
    except ClusterError as exc:
        say(f"torch: {exc}")


if __name__ == "__main__":
    main()
