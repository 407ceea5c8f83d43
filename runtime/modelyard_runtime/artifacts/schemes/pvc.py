"""pvc:// -- a file or folder of a PersistentVolumeClaim, which the pod mounts. It has no credentials."""

from __future__ import annotations

from pathlib import Path

from modelyard_runtime.artifacts.copy import Copied, copy_tree
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

__all__ = ["fetch"]


def fetch(uri: ArtifactURI, target: Path, transfer: Transfer) -> Copied:
    """Copy the file or folder at `uri` into the folder `target`, following no link out of the claim.

    The claim itself is mounted at `transfer.claim_root`. Raises as `copy_tree` does.
    """
    return copy_tree(transfer.claim_root / uri.path, transfer.claim_root, target, transfer.budget)
