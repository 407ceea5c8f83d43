"""The first load of a file that a native library reads: in a child process, which the library may take down.

Libraries in C++ end the whole process for some damaged files, by abort or by an access outside of their memory; no
exception tells of it. In a child that costs nothing but the load, and is LoadFailed here.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelyard_runtime.errors import LoadFailed, OutOfMemory, StartupFailure
from modelyard_runtime.formats.base import Model, Rows
from modelyard_runtime.formats.format import format_named

__all__ = ["check_in_child", "main"]


def check_in_child(format: str, path: Path) -> None:
    """Load a file in a child process, and predict a few rows there. Raises LoadFailed and OutOfMemory if it crashes.

    A load that fails in an orderly way is no crash: the same failure is raised here next, by the load itself.
    """
    command = [sys.executable, "-m", __name__, format, str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode >= 0:
        return
    if done.returncode == -signal.SIGKILL:
        raise OutOfMemory("the model does not fit into memory; raise spec.resources.limits.memory")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    detail = f": {said[-1][:200]}" if said else ""
    raise LoadFailed(
        f"{path.name} is damaged: loading it ends the process ({signal.Signals(-done.returncode).name}){detail}; "
        "save it again, and copy it as a binary file"
    )


def main(arguments: Sequence[str]) -> int:
    """Load the file of `arguments`, FORMAT PATH, and predict rows. Returns 1 where the file is refused."""
    name, path = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here: no dump of it
    try:
        model = format_named(name).load(Path(path))
    except StartupFailure:
        return 1
    for rows in _rows(model):
        try:
            model.predict(rows)
        except Exception:
            return 0  # what refuses made-up rows is the warm-up's to judge
    return 0


def _rows(model: Model) -> list[Rows]:
    """Return rows that reach many of a model's nodes: its samples, and random ones of numbers."""
    samples = model.sample_rows()
    if not model.features or model.text_features:
        return samples
    random = np.random.default_rng(0)
    scales = np.repeat([0.1, 1.0, 10.0, 1000.0], 32)[:, np.newaxis]
    return [*samples, random.normal(size=(len(scales), model.features)) * scales]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
