"""The context that every reconcile works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from modelyard_operator.manifests.settings import Settings
from modelyard_operator.reconcile.conditions import StatusWriter
from modelyard_operator.reconcile.routers import RouterPoll
from modelyard_operator.reconcile.verbs import Cluster

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """The cluster and what goes with it; one for all reconciles."""

    cluster: Cluster
    settings: Settings
    now: Callable[[], datetime]
    status: StatusWriter
    routers: RouterPoll
