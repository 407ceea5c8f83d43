"""Writes kubeconfigs: the administrator's, those of the cluster's own programs, and those of service accounts."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

__all__ = ["write_kubeconfig"]


def write_kubeconfig(
    path: Path, *, server: str, ca_file: Path, user: str, token: str, namespace: str = "default"
) -> Path:
    """Write a kubeconfig that only this user can read, with the authority inside so that the file can be moved.

    It is JSON, which is YAML too: kubectl and every client library read it.
    """
    authority = base64.b64encode(ca_file.read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "modelyard", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [
            {"name": "modelyard", "context": {"cluster": "modelyard", "user": user, "namespace": namespace}},
        ],
        "current-context": "modelyard",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file, indent=1)
    return path
