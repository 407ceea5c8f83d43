"""The verbs that reconcile needs of a cluster: a real API server implements them, and so does local mode's store.

Objects are plain dicts in the form of the Kubernetes API, so that what is rendered, applied and observed looks the same
in a test, in a cluster and on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Cluster", "ClusterError", "Forbidden", "Object", "Rejected", "Unavailable"]

Object = dict[str, Any]


class ClusterError(Exception):
    """Base of what a verb may raise.

    ClusterError
    +-- Rejected      the API server refused the object: trying again without a change is pointless
    |   +-- Forbidden the operator lacks a right
    +-- Unavailable   no answer, or one that says "later": worth trying again
    """


class Rejected(ClusterError):
    """The cluster refused the request for what it holds."""


class Forbidden(Rejected):
    """The operator may not do this: a Role is missing a rule."""


class Unavailable(ClusterError):
    """The cluster did not answer, or asked for patience (timeouts, 409, 429, 5xx)."""


class Cluster(Protocol):
    """A few verbs on objects named by kind (`Deployment`), namespace and name.

    Every verb raises Rejected or Unavailable, and nothing else, for what goes wrong on the cluster's side.
    """

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return the live object, or None when there is none."""
        ...

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Return the live objects that carry all these labels."""
        ...

    async def apply(self, obj: Object) -> Object:
        """Create or change an object by server-side apply, taking ownership of the given fields; return it live."""
        ...

    async def apply_status(self, obj: Object) -> None:
        """Write `obj["status"]` to the status subresource; a vanished object is not an error."""
        ...

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Merge annotations into an object; a vanished object is not an error."""
        ...

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid, its dependents in the background; a vanished one is not an error."""
        ...

    async def other_operator(self, obj: Object) -> str | None:
        """Return which other installation, of those that run, takes care of an object; None when none does."""
        ...

    async def router_state(self, pod: Object) -> Object | None:
        """Ask a router pod what Envoy has acknowledged: `{"version", "error"}`; None while it does not answer."""
        ...
