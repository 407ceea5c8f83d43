"""The lowest grpcio that we allow, in an environment of its own in the cache; `requirements/grpcio.lock` says which."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from modelyard_cluster.errors import ClusterError, MissingPrerequisite
from modelyard_cluster.paths import cache_root
from modelyard_cluster.run import run
from unit.runtime.storage.programs import one_at_a_time

__all__ = ["LOCK", "lowest_grpcio"]

LOCK = Path(__file__).parents[5] / "requirements" / "grpcio.lock"


def lowest_grpcio() -> Path:
    """Return the environment's Python, which is made unless that was done before. Raises MissingPrerequisite."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_root(os.environ) / "grpcio" / digest
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "env" / "bin" / "python"
    with one_at_a_time(folder, folder / ".complete") as missing:
        if missing:
            uv = Path(sys.prefix) / "bin" / "uv"
            if not uv.exists():
                raise MissingPrerequisite("grpcio is installed by uv, which scripts/test puts beside the tests' Python")
            try:
                run(uv, "venv", "-q", "--clear", "--python", sys.executable, folder / "env", timeout=120)
                run(uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", LOCK, timeout=300)
            except ClusterError as exc:
                raise MissingPrerequisite(f"grpcio could not be installed: {exc}") from exc
            (folder / ".complete").touch()
    return python
