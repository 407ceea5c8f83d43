"""file:// -- a file or folder of this machine, or of the runtime's image. It has no credentials."""

from __future__ import annotations

from pathlib import Path

from modelyard_runtime.artifacts.copy import Copied, copy_tree
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

__all__ = ["fetch"]


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Copy the file or folder at `uri` into the folder `target`. Raises as `copy_tree` does."""
    return copy_tree(Path(uri.path), None, target, transfer.budget)
