"""The server: `python -m modelyard_runtime`, with its settings in the environment (contract.Env)."""

from __future__ import annotations

import os
import sys

from modelyard_runtime.dataplane.cpus import available_cpus, limit_thread_pools
from modelyard_runtime.errors import SettingsError
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.settings import Settings, termination_log
from modelyard_runtime.workers.supervisor import supervise
from modelyard_runtime.workers.worker import Worker

__all__ = ["main"]


def main() -> int:
    """Serve until told to stop; return the exit code."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as exc:
        write_termination_message(exc.failure, termination_log(os.environ))
        print(f"modelyard: {exc.message}", file=sys.stderr)
        return 1
    worker = Worker.from_env(os.environ)
    if worker is not None:
        worker.end_with_supervisor()
    elif settings.workers > 1:
        return supervise(settings, os.environ, [sys.executable, "-m", "modelyard_runtime"])
    limit_thread_pools(os.environ, available_cpus())
    from modelyard_runtime.transport.process import serve  # noqa: PLC0415 - numpy makes its thread pools at import

    return serve(settings, worker=worker)


if __name__ == "__main__":
    sys.exit(main())
