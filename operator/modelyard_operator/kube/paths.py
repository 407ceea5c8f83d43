"""URLs of the kinds that the operator touches."""

from __future__ import annotations

from modelyard_operator.api.kinds import CUSTOM_KINDS, GROUP_VERSION

__all__ = ["path_of", "watched_kinds"]

_PREFIXES = {
    "Deployment": ("apis/apps/v1", "deployments"),
    "Service": ("api/v1", "services"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Pod": ("api/v1", "pods"),
    **{kind.kind: (f"apis/{GROUP_VERSION}", kind.plural) for kind in CUSTOM_KINDS.values()},
}
_API_VERSIONS = {"Deployment": "apps/v1", "Service": "v1", "ConfigMap": "v1", "Pod": "v1"}


def path_of(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    """Return the path of a collection, an object or a subresource."""
    prefix, plural = _PREFIXES[kind]
    return "/".join(part for part in (f"/{prefix}/namespaces/{namespace}/{plural}", name, subresource) if part)


def watched_kinds() -> dict[str, tuple[str, str]]:
    """Return kind -> (apiVersion, plural) of the children that the operator watches."""
    return {kind: (version, _PREFIXES[kind][1]) for kind, version in _API_VERSIONS.items()}
