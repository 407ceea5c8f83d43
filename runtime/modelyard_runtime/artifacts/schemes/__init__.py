"""The storage schemes, one file each: its fetch and its credentials. The forms of their URIs are in the contract.

The credentials of a scheme are environment variables, under the names that the storage's own tools use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from modelyard_runtime.artifacts.copy import Copied
from modelyard_runtime.artifacts.schemes import az, file, gs, hf, https, oci, pvc, s3
from modelyard_runtime.artifacts.transfer import Transfer
from modelyard_runtime.artifacts.uri import ArtifactURI

__all__ = ["FETCHES"]

FETCHES: Mapping[str, Callable[[ArtifactURI, Path, Transfer], Copied]] = {
    "file": file.fetch,
    "pvc": pvc.fetch,
    "https": https.fetch,
    "s3": s3.fetch,
    "gs": gs.fetch,
    "az": az.fetch,
    "hf": hf.fetch,
    "oci": oci.fetch,
}
"""By scheme: copies what is at a URI into a folder, which exists and is empty. Raises a StartupFailure."""
