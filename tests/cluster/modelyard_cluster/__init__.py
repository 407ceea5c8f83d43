"""Real Kubernetes for tests and for hand work, on this very machine.

`ControlPlane` needs no root; `Cluster` adds a node that runs pods, and does. `scripts/cluster` is the command.
"""

from __future__ import annotations

from .api import Api, ApiError
from .binaries import Binaries
from .cluster import Cluster, down
from .control_plane import ControlPlane
from .errors import BuildFailed, ClusterError, CommandFailed, ComponentFailed, MissingPrerequisite, NotReady
from .images import BASE_IMAGE, base_image, build_image
from .run import wait_until

__all__ = [
    "BASE_IMAGE",
    "Api",
    "ApiError",
    "Binaries",
    "BuildFailed",
    "Cluster",
    "ClusterError",
    "CommandFailed",
    "ComponentFailed",
    "ControlPlane",
    "MissingPrerequisite",
    "NotReady",
    "base_image",
    "build_image",
    "down",
    "wait_until",
]
