"""How many processors this process may use: what it was given, not what the machine has.

Thread pools of BLAS and OpenMP count the machine's processors. In a container with a limit, so many threads only wait
for each other, and the kernel stops all of them for the rest of each period. Standard library only: it has to run
before numpy is imported, which makes its pools at import.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

__all__ = ["available_cpus", "limit_thread_pools", "quota_cpus"]

_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_cpus(workers: int = 1) -> int:
    """Return the processors that this process may use: its affinity, and no more than its control group's quota.

    Where `workers` processes share them, each has its part, and one at least.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cpus()
    return max(1, (count if quota is None else min(count, math.ceil(quota))) // workers)


def quota_cpus(root: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """Return the tightest CPU quota of our control group and those above it, in processors; None where there is none.

    Args:
        root: where the control groups are mounted, version 1 or 2.
        own: the file that names ours, /proc/self/cgroup. In a container it may name a path that only the host has:
            the mount's own root is ours then.
    """
    quotas: list[float] = []
    for controllers, path in _memberships(own):
        if not controllers:
            quotas += _along(root, path, _quota_v2)
        elif "cpu" in controllers:
            for mount in (root / ",".join(controllers), root / "cpu"):
                quotas += _along(mount, path, _quota_v1)
    return min(quotas, default=None)


def limit_thread_pools(environ: MutableMapping[str, str], cpus: int) -> None:
    """Tell the thread pools of numerical libraries to have `cpus` threads, unless the user said otherwise."""
    for name in _POOLS:
        environ.setdefault(name, str(cpus))


def _memberships(own: Path) -> list[tuple[tuple[str, ...], str]]:
    """Return the controllers and the path of each of our control groups; no controllers: version 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return [((), "/")]
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.append((tuple(filter(None, controllers.split(","))), path))
    return found


def _along(mount: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """Return the quotas from the mount's root down to `path`."""
    folders = [mount]
    for part in path.strip("/").split("/"):
        folders.append(folders[-1] / part)
    return [quota for folder in folders if (quota := read(folder)) is not None]


def _quota_v2(folder: Path) -> float | None:
    """Read `cpu.max`: "max 100000" or "150000 100000", microseconds in a period."""
    fields = _fields(folder / "cpu.max")
    return None if len(fields) != 2 else _ratio(fields[0], fields[1])


def _quota_v1(folder: Path) -> float | None:
    """Read `cpu.cfs_quota_us` (-1 for none) and `cpu.cfs_period_us`."""
    fields = _fields(folder / "cpu.cfs_quota_us") + _fields(folder / "cpu.cfs_period_us")
    return None if len(fields) != 2 else _ratio(fields[0], fields[1])


def _fields(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)
