"""How many threads a library may use for one prediction, and what to say when it is not installed."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from modelyard_runtime.errors import LoadFailed

__all__ = ["library", "thread_count"]


def thread_count() -> int:
    """Return OMP_NUM_THREADS, which the server sets from its container's limit, else the processors at hand."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else len(os.sched_getaffinity(0))


def library(name: str, extra: str) -> Any:
    """Import a library. Raises LoadFailed that names the extra to install."""
    try:
        return import_module(name)
    except ImportError:
        raise LoadFailed(f"{name.partition('.')[0]} is not installed; pip install 'modelyard[{extra}]'") from None
    except OSError as exc:
        # LightGBM's wheel needs the system's OpenMP.
        raise LoadFailed(f"{name} can't be loaded ({exc}); on Debian: apt-get install libgomp1") from None
