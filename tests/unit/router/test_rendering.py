"""The files as text: what is refused, and what a change touches."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from modelyard_operator.experiment.buckets import Segment, from_json, next_map
from modelyard_operator.manifests.envoy import RouterConfig, Upstream, envoy_command, render_router_files
from modelyard_runtime.contract import ROUTER_RUN_MOUNT, RouterFile

CONFIG = RouterConfig(
    name="churn-test",
    epoch=3,
    salt="churn-test",
    header="X-User-Id",
    override_header="x-modelyard-variant",
    upstreams=(Upstream("a", "a-pods.default.svc", 8080, 30.0), Upstream("b", "b-pods.default.svc", 8080, 30.0)),
    buckets=next_map((), {"a": 90, "b": 10}),
)


def test_the_keys_are_those_of_the_contract_and_the_map_is_in_it() -> None:
    files = render_router_files(CONFIG)

    assert files.keys() == {file.value for file in RouterFile}
    assert from_json(files["buckets.json"]) == CONFIG.buckets
    assert {json.loads(files[name])["version_info"] for name in ("cds.json", "rds.json")} == {files["version"]}


def test_the_same_config_is_the_same_text() -> None:
    turned = replace(CONFIG, upstreams=CONFIG.upstreams[::-1], header="x-user-id")

    assert render_router_files(turned) == render_router_files(CONFIG)


def test_a_shift_changes_the_routes_alone() -> None:
    old = render_router_files(CONFIG)
    new = render_router_files(replace(CONFIG, epoch=4, buckets=next_map(CONFIG.buckets, {"a": 50, "b": 50})))

    assert old["version"] != new["version"]
    assert old["bootstrap.json"] == new["bootstrap.json"]
    assert json.loads(old["cds.json"])["resources"] == json.loads(new["cds.json"])["resources"]


def test_the_split_is_the_bucket_map_in_its_order() -> None:
    buckets = (Segment("b", 1000), Segment("a", 8000), Segment("b", 1000))

    rds = json.loads(render_router_files(replace(CONFIG, buckets=buckets))["rds.json"])

    route = rds["resources"][0]["virtual_hosts"][0]["routes"][-1]
    assert route["route"]["weighted_clusters"] == {
        "clusters": [{"name": "b", "weight": 1000}, {"name": "a", "weight": 8000}, {"name": "b", "weight": 1000}],
        "use_hash_policy": True,
    }
    assert route["route"]["hash_policy"] == [
        {
            "header": {
                "header_name": "x-user-id",
                "regex_rewrite": {"pattern": {"regex": "^"}, "substitution": "churn-test:"},
            },
            "terminal": True,
        }
    ]
    assert route["metadata"] == {"filter_metadata": {"modelyard": {"epoch": 3, "rule": "split"}}}


def test_nothing_in_the_bootstrap_depends_on_the_pod() -> None:
    text = render_router_files(CONFIG)["bootstrap.json"]

    assert ROUTER_RUN_MOUNT not in text
    assert "${MODELYARD_HOST}" in text
    assert "${MODELYARD_RUN}/admin.sock" in text
    assert f"{ROUTER_RUN_MOUNT}/bootstrap.json" in envoy_command()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"salt": ""}, "salt"),
        ({"salt": "a\nb"}, "salt"),
        ({"header": "x user"}, "not the name of an HTTP header"),
        ({"header": ":path"}, "not the name of an HTTP header"),
        ({"header": ""}, "not the name of an HTTP header"),
        ({"header": "Host"}, "does not reach the router"),
        ({"header": "x-request-id"}, "does not reach the router"),
        ({"override_header": "x-envoy-retry-on"}, "does not reach the router"),
        ({"override_header": "X-User-ID"}, "can't both"),
        ({"header": "x-modelyard-variant", "override_header": None}, "can't both"),
        ({"upstreams": CONFIG.upstreams[:1]}, "no upstream: b"),
        ({"upstreams": CONFIG.upstreams * 2}, "name of its own"),
        ({"upstreams": (replace(CONFIG.upstreams[0], port=0),)}, "not an address"),
        ({"upstreams": (replace(CONFIG.upstreams[0], timeout_seconds=0),)}, "not an address"),
        ({"buckets": (Segment("a", 9999),)}, "9999"),
        ({"buckets": ()}, "has a total of 0"),
    ],
)
def test_what_envoy_could_not_use_as_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render_router_files(replace(CONFIG, **changes))
