"""Whether what we applied is still there, told by the API server's own record of who owns which field."""

import copy
from typing import Any

import pytest
from modelyard_operator.kube.ownership import applied_fields, has_field, owns, with_spec_taken_over, without_field

RENDERED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "churn", "namespace": "ns", "labels": {"a": "b"}},
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [
                    {"name": "c", "command": ["x"], "ports": [{"containerPort": 80}], "resources": {"limits": None}}
                ],
            }
        },
    },
}
CONTAINER: dict[str, Any] = {".": {}, "f:name": {}, "f:command": {}, "f:resources": {}}
CONTAINER["f:ports"] = {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}}
FIELDS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:template": {
            "f:spec": {
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
                "f:containers": {'k:{"name":"c"}': CONTAINER},
            }
        },
    },
}


def test_what_we_own_in_full_is_as_we_applied_it() -> None:
    assert owns(FIELDS, RENDERED)


@pytest.mark.parametrize(
    "path",
    [
        ("f:spec", "f:replicas"),
        ("f:metadata",),
        ("f:spec", "f:template", "f:spec", "f:volumes", 'k:{"name":"tmp"}', "f:emptyDir"),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"c"}', "f:command"),
        ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"c"}', "f:ports"),
    ],
)
def test_a_field_that_another_took_is_noticed(path: tuple[str, ...]) -> None:
    fields = copy.deepcopy(FIELDS)
    node = fields
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]

    assert not owns(fields, RENDERED)


def test_a_take_over_leaves_others_their_status_and_metadata() -> None:
    volume = 'k:{"name":"tmp"}'
    theirs = {
        "f:metadata": {"f:annotations": {"f:theirs": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:volumes": {volume: {"f:hostPath": {}}}}}},
    }
    managed = [
        {"manager": "modelyard", "operation": "Apply", "fieldsV1": FIELDS},
        {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": theirs},
        {"manager": "kcm", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}},
    ]

    taken = with_spec_taken_over(managed, "modelyard")

    ours = applied_fields({"metadata": {"managedFields": taken}}, "modelyard")
    assert ours["f:spec"]["f:template"]["f:spec"]["f:volumes"][volume] == {
        ".": {},
        "f:name": {},
        "f:emptyDir": {},
        "f:hostPath": {},
    }
    assert ours["f:spec"]["f:replicas"] == {}
    assert taken[1]["fieldsV1"] == {"f:metadata": {"f:annotations": {"f:theirs": {}}}}
    assert taken[2] == managed[2]


REPLICAS = ("f:spec", "f:replicas")


def _entry(manager: str, operation: str, **spec: object) -> dict[str, object]:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": spec}}


def test_a_field_is_given_up_by_its_manager_alone_and_the_rest_stays() -> None:
    managed = [
        _entry("modelyard", "Apply", **{"f:replicas": {}, "f:selector": {}}),
        _entry("modelyard", "Update", **{"f:replicas": {}}),
        _entry("other", "Apply", **{"f:replicas": {}}),
    ]

    left = without_field(managed, "modelyard", REPLICAS)

    assert left == [_entry("modelyard", "Apply", **{"f:selector": {}}), *managed[1:]]
    assert "f:replicas" in str(managed[0])


def test_a_field_that_is_not_owned_is_none_to_give_up() -> None:
    managed = [_entry("modelyard", "Apply", **{"f:selector": {}})]

    assert without_field(managed, "modelyard", REPLICAS) == managed
    assert not has_field({}, REPLICAS)
