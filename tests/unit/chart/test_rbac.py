"""The rights that the chart gives: exactly those that the code uses."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from modelyard_operator.api.kinds import API_GROUP, CUSTOM_KINDS
from modelyard_operator.kube.lease import LEASE_NAME
from modelyard_operator.kube.paths import collection_path, watched_kinds
from modelyard_operator.reconcile.children import CHILD_KINDS

from .harness import Chart

Right = tuple[str, str, str]

# A verb of reconcile -> the verbs that the API server asks for. Applying creates what is not there yet.
_ASKED = {
    "get": {"get"},
    "list": {"list"},
    "annotate": {"patch"},
    "apply": {"create", "patch"},
    "delete": {"delete"},
}


def rights(role: dict[str, Any]) -> list[Right]:
    return [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def resource_of(kind: str) -> tuple[str, str]:
    """Return the API group and the plural of a kind, from the URL that the operator asks."""
    parts = collection_path(kind).strip("/").split("/")
    return ("" if parts[0] == "api" else parts[1]), parts[-1]


def named_in_code(repository: Path) -> set[tuple[str, str]]:
    """Return (verb, kind) of every call of a verb that names its kind outright."""
    found = set()
    for source in (repository / "operator/modelyard_operator/reconcile").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ASKED):
                continue
            kind = node.args[0] if node.args else None
            if ast.unparse(node.func.value) in ("cluster", "context.cluster") and isinstance(kind, ast.Constant):
                found.add((node.func.attr, str(kind.value)))
    return found


@pytest.fixture
def used(repository: Path) -> set[Right]:
    """What the operator does to the API server."""
    result = {(*resource_of(kind), verb) for kind in watched_kinds() for verb in ("list", "watch")}
    for kind in CHILD_KINDS:
        for verb in ("get", "list", "apply", "delete"):
            result |= {(*resource_of(kind), asked) for asked in _ASKED[verb]}
    for custom in CUSTOM_KINDS.values():
        result |= {(API_GROUP, custom.plural, verb) for verb in ("get", "list", "watch")}
        result.add((API_GROUP, f"{custom.plural}/status", "patch"))
        result.add((API_GROUP, f"{custom.plural}/finalizers", "update"))  # for blockOwnerDeletion
    result.add((*resource_of("Lease"), "get"))  # another installation's
    named = named_in_code(repository)
    assert ("annotate", "Pod") in named  # else the search above finds nothing at all
    return result | {(*resource_of(kind), asked) for verb, kind in named for asked in _ASKED[verb]}


def test_the_cluster_role_holds_what_the_code_uses_and_nothing_more(chart: Chart, used: set[Right]) -> None:
    rendered = chart.defaults

    [role] = [role for role in rendered.of_kind("ClusterRole") if role["metadata"]["name"] == "modelyard-operator"]
    given = rights(role)
    assert set(given) == used
    assert len(given) == len(used)
    [binding] = rendered.of_kind("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "modelyard-operator"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "modelyard-operator", "namespace": "modelyard-system"}
    ]
    assert [role["metadata"]["name"] for role in rendered.of_kind("Role")] == ["modelyard-operator-lease"]


def test_named_namespaces_get_roles_and_the_cluster_none(chart: Chart, used: set[Right]) -> None:
    rendered = chart.render(watchNamespaces=["team-a", "team-b"])

    roles = [role for role in rendered.of_kind("Role") if role["metadata"]["name"] == "modelyard-operator"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(set(rights(role)) == used for role in roles)
    bindings = rendered.of_kind("RoleBinding")
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["modelyard-system", "team-a", "team-b"]
    assert {binding["subjects"][0]["namespace"] for binding in bindings} == {"modelyard-system"}
    assert rendered.of_kind("ClusterRoleBinding") == []
    assert rendered.names("ClusterRole") == {"modelyard-view", "modelyard-edit"}
    assert rendered.env["MODELYARD_NAMESPACES"] == "team-a,team-b"


def test_a_release_can_do_without_any_object_of_the_cluster(chart: Chart) -> None:
    rendered = chart.render(watchNamespaces=["team-a"], rbac={"aggregate": False}, crds={"install": False})

    assert all("namespace" in obj["metadata"] for obj in rendered.objects)
    assert len(rendered.objects) == 7


def test_the_lease_is_the_releases_own_whatever_is_watched(chart: Chart) -> None:
    rendered = chart.render(watchNamespaces=["team-a"])

    [role] = [role for role in rendered.of_kind("Role") if role["metadata"]["name"] == "modelyard-operator-lease"]
    assert role["metadata"]["namespace"] == "modelyard-system"
    leases = ("coordination.k8s.io", "leases")
    assert rights(role) == [(*leases, "create"), (*leases, "get"), (*leases, "update")]
    assert role["rules"][1]["resourceNames"] == [LEASE_NAME]


def test_who_may_view_or_edit_a_namespace_may_do_so_with_models(chart: Chart) -> None:
    rendered = chart.defaults

    roles = {role["metadata"]["name"]: role for role in rendered.of_kind("ClusterRole")}
    aggregated = {
        name: {label.rsplit("-", 1)[1] for label in role["metadata"]["labels"] if "aggregate-to" in label}
        for name, role in roles.items()
    }
    assert aggregated == {
        "modelyard-view": {"view", "edit", "admin"},
        "modelyard-edit": {"edit", "admin"},
        "modelyard-operator": set(),
    }
    assert {verb for _, _, verb in rights(roles["modelyard-view"])} == {"get", "list", "watch"}
    plurals = {custom.plural for custom in CUSTOM_KINDS.values()}
    edited = {resource for group, resource, _ in rights(roles["modelyard-edit"]) if group == API_GROUP}
    assert edited == plurals | {f"{custom.plural}/scale" for custom in CUSTOM_KINDS.values() if custom.scalable}


def test_no_rights_are_made_where_others_make_them(chart: Chart) -> None:
    rendered = chart.render(
        rbac={"create": False, "aggregate": False}, serviceAccount={"create": False, "name": "ours"}
    )

    kinds = {obj["kind"] for obj in rendered.objects}
    assert kinds == {"CustomResourceDefinition", "Deployment", "Service"}
    assert rendered.pod["spec"]["serviceAccountName"] == "ours"
