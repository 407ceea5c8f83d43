"""`modelyard serve`: the server of model pods, on this machine."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from modelyard_runtime.__main__ import main as serve
from modelyard_runtime.contract import Env

from modelyard_cli.fetch import fetch_to

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Fetch the artifact into a folder that goes away again, and serve it until told to stop."""
    with tempfile.TemporaryDirectory(prefix="modelyard-") as folder:
        code = fetch_to(options, folder)
        if code != 0:
            return code
        name = options.name or _name_of(options.uri)
        settings = {
            Env.MODEL_NAME: name,
            Env.MODEL_URI: options.uri,
            Env.MODEL_DIR: folder,
            Env.HOST: options.host,
            Env.PORT: str(options.port),
            # A person who presses Ctrl-C is not a balancer that has to take note first.
            Env.DRAIN_DELAY: os.environ.get(Env.DRAIN_DELAY, "0"),
        }
        os.environ.update({str(key): value for key, value in settings.items()})
        print(f"modelyard: serving {name} on http://{options.host}:{options.port} (Ctrl-C stops)", flush=True)
        return serve()


def _name_of(uri: str) -> str:
    name = PurePosixPath(urlsplit(uri).path).name
    for suffix in (".tar.gz", ".tgz", ".zip", ".tar"):
        name = name.removesuffix(suffix)
    return name or "model"
