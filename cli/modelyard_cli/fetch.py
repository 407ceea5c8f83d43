"""`modelyard fetch`: what the init container of model pods does."""

from __future__ import annotations

import argparse
import os

from modelyard_runtime.artifacts.__main__ import main as fetch
from modelyard_runtime.contract import Env

__all__ = ["fetch_to", "run"]


def fetch_to(options: argparse.Namespace, folder: str) -> int:
    """Fetch the artifact that the options name; return the exit code."""
    # Outside a pod nobody reads termination messages, and root would make the file.
    os.environ.setdefault(Env.TERMINATION_LOG, os.devnull)
    arguments = [options.uri, "--to", folder, "--output", getattr(options, "output", "text")]
    for flag, value in (
        ("--digest", options.digest),
        ("--format", options.format),
        ("--version", options.model_version),
    ):
        if value is not None:
            arguments += [flag, value]
    if getattr(options, "allow_pickle", False):
        arguments.append("--allow-pickle")
    return fetch(arguments)


def run(options: argparse.Namespace) -> int:
    """Fetch into the folder that is asked for."""
    return fetch_to(options, options.to)
