"""Where things are kept: caches outside the checkout, state in one folder per cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["cache_root", "default_state_dir", "sources_of_binaries"]


def cache_root(env: Mapping[str, str]) -> Path:
    """Return the folder that outlives checkouts: programs, base images, build layers."""
    if chosen := env.get("MODELYARD_CACHE"):
        return Path(chosen)
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelyard"


def default_state_dir(env: Mapping[str, str]) -> Path:
    """Return the folder of the developer's own cluster, the one that `scripts/cluster` handles."""
    if chosen := env.get("MODELYARD_CLUSTER_STATE"):
        return Path(chosen).absolute()
    base = Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "modelyard" / "cluster"


def sources_of_binaries() -> Path:
    """Return the Go module that pins the programs of the cluster."""
    return Path(os.path.abspath(__file__)).parent.parent / "binaries"
