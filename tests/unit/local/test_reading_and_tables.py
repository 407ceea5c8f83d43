"""Manifests as kubectl reads them, tables as it prints them, and what is ignored by name."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from modelyard_local.documents import read_documents
from modelyard_local.errors import LocalError
from modelyard_local.table import age, find_kind, json_path, rows
from modelyard_local.unsupported import unsupported_in
from modelyard_local.volumes import PodVolumes, rewrite
from unit.local.support import container, deployment

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def read(text: str) -> list[dict[str, Any]]:
    return [document.object for document in read_documents(["-"], io.StringIO(text))]


def test_documents_lists_and_empty_parts() -> None:
    """Several in a file, a List, comments and empty documents."""
    text = "---\n# nothing\n---\nkind: A\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n"

    assert read(text) == [{"kind": "A"}, {"kind": "B"}, {"kind": "C"}]


def test_json_and_scalars_are_read_as_kubectl_reads_them() -> None:
    """A date stays text, and a number as key becomes text."""
    assert read('{"kind": "A", "n": 1.5}') == [{"kind": "A", "n": 1.5}]
    assert read("kind: A\nversion: 2026-05-01\n1: x\n") == [{"kind": "A", "version": "2026-05-01", "1": "x"}]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: A\nkind: B\n", "standard input, line 2: not valid YAML: key 'kind' is there twice"),
        ("a: [1, 2\n", "standard input, line 2: not valid YAML: expected ',' or ']'"),
        ("- 1\n", "an object with apiVersion, kind, metadata and spec was expected"),
        ("", "there is no object in what was given"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_is_no_manifest_is_said_in_one_line(text: str, complaint: str) -> None:
    """With the line, where there is one."""
    with pytest.raises(LocalError) as caught:
        read(text)

    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_its_manifests_in_order(folder: Path) -> None:
    """And neither other files nor folders in it."""
    (folder / "b.yaml").write_text("kind: B")
    (folder / "a.json").write_text('{"kind": "A"}')
    (folder / "notes.txt").write_text("kind: C")

    found = read_documents([str(folder)], io.StringIO())

    assert [(document.source, document.object["kind"]) for document in found] == [
        (f"{folder}/a.json", "A"),
        (f"{folder}/b.yaml", "B"),
    ]
    with pytest.raises(LocalError, match="no such file"):
        read_documents([str(folder / "none.yaml")], io.StringIO())


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (timedelta(seconds=0), "0s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(seconds=120), "2m"),
        (timedelta(seconds=150), "2m30s"),
        (timedelta(minutes=10), "10m"),
        (timedelta(minutes=179), "179m"),
        (timedelta(hours=3), "3h"),
        (timedelta(hours=7, minutes=5), "7h5m"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=2), "2d"),
        (timedelta(days=3, hours=4), "3d4h"),
        (timedelta(days=400), "400d"),
        (timedelta(days=731), "2y1d"),
    ],
)
def test_ages_are_kubectls(span: timedelta, shown: str) -> None:
    """The cases of duration.HumanDuration."""
    assert age((NOW - span).strftime("%Y-%m-%dT%H:%M:%SZ"), NOW) == shown


def test_columns_of_a_custom_resource() -> None:
    """Name, its own columns in capitals; what is not known yet is blank."""
    kind = find_kind("mdep")
    assert kind is not None
    fresh = {"metadata": {"name": "new", "creationTimestamp": "2026-05-01T11:59:00Z"}}
    ready = {
        "metadata": {"name": "churn", "creationTimestamp": "2026-05-01T09:00:00Z"},
        "status": {
            "url": "http://127.0.3.1",
            "model": {"version": "4"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}],
        },
    }

    header, cells = rows(kind, [fresh, ready], NOW, wide=False)

    assert header == ["NAME", "URL", "VERSION", "READY", "REASON", "AGE"]
    assert cells == [["new", "", "", "", "", "60s"], ["churn", "http://127.0.3.1", "4", "True", "Ready", "3h"]]


@pytest.mark.parametrize("word", ["mdep", "ModelDeployment", "modeldeployments", "modeldeployments.modelyard.dev"])
def test_a_kind_has_many_names(word: str) -> None:
    """The ones that kubectl takes."""
    found = find_kind(word)

    assert found is not None
    assert found.kind == "ModelDeployment"


def test_a_path_that_leads_nowhere_is_blank() -> None:
    """Also one through a list without the entry."""
    obj = {"status": {"conditions": [{"type": "A", "status": "True"}]}}

    assert json_path(obj, '.status.conditions[?(@.type=="A")].status') == "True"
    assert json_path(obj, '.status.conditions[?(@.type=="B")].status') is None
    assert json_path(obj, ".status.nothing.below") is None


@pytest.mark.parametrize(
    ("status", "leaving", "shown"),
    [
        ({}, False, "Pending"),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, False, "Running"),
        ({"phase": "Running"}, True, "Terminating"),
        (
            {
                "initContainerStatuses": [
                    {
                        "name": "i",
                        "ready": False,
                        "started": False,
                        "restartCount": 1,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    }
                ]
            },
            False,
            "Init:CrashLoopBackOff",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "i", "ready": False, "started": False, "restartCount": 0, "state": {"running": {}}}
                ]
            },
            False,
            "Init:0/1",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "c",
                        "ready": False,
                        "started": False,
                        "restartCount": 3,
                        "state": {"terminated": {"reason": "Error"}},
                    }
                ]
            },
            False,
            "Error",
        ),
    ],
)
def test_the_status_of_a_pod_in_one_word(status: dict[str, Any], leaving: bool, shown: str) -> None:
    """As kubectl sums it up."""
    metadata = {"name": "p", "creationTimestamp": "2026-05-01T12:00:00Z"} | (
        {"deletionTimestamp": "x"} if leaving else {}
    )
    kind = find_kind("po")
    assert kind is not None

    _, ((_, _, word, _, _),) = rows(
        kind, [{"metadata": metadata, "spec": {"containers": [{}]}, "status": status}], NOW, wide=False
    )

    assert word == shown


def test_only_whole_path_components_are_rewritten() -> None:
    """At the beginning of a value; the inner one of nested mounts counts."""
    mounts = {"/mnt/model": Path("/s/a"), "/mnt/model/deep": Path("/s/b")}

    rewritten = [
        rewrite(value, mounts)
        for value in ("/mnt/model", "/mnt/model/x", "/mnt/model/deep/y", "/mnt/modelling", "file:///mnt/model")
    ]

    assert rewritten == ["/s/a", "/s/a/x", "/s/b/y", "/mnt/modelling", "file:///mnt/model"]


def test_a_config_map_volume_is_swapped_as_a_whole(folder: Path) -> None:
    """By one rename of the link `..data`, as a kubelet does; keys that are gone disappear."""
    data = {"a": "1", "b": "1"}
    spec = {"volumes": [{"name": "config", "configMap": {"name": "c"}}]}
    volumes = PodVolumes(folder, spec, None, lambda _name: {"data": data})  # type: ignore[arg-type]
    volumes.prepare()
    first = (folder / "config" / "..data").readlink()
    volumes.refresh()
    same = (folder / "config" / "..data").readlink()
    data.clear()
    data.update({"a": "2", "c": "2"})
    volumes.refresh()
    second = (folder / "config" / "..data").readlink()

    assert first == same != second
    names = {
        entry.name: entry.read_text() for entry in (folder / "config").iterdir() if not entry.name.startswith("..")
    }
    assert names == {"a": "2", "c": "2"}


def test_what_is_ignored_is_named() -> None:
    """Fields of the pod that one machine does nothing with, and kinds it does not know."""
    obj = deployment("web", container() | {"resources": {"limits": {"memory": "1Gi"}}}, nodeSelector={"disk": "fast"})

    assert unsupported_in(obj) == ["containers.resources", "nodeSelector"]
    assert unsupported_in(deployment("web", container() | {"image": "mine:2"}, {"name": "proxy", "image": "p"})) == [
        "containers[proxy]",
        "containers[runtime].image",
    ]
    assert unsupported_in({"kind": "PodDisruptionBudget", "spec": {}}) == ["PodDisruptionBudget"]
    assert unsupported_in({"kind": "ConfigMap", "data": {"a": "b"}}) == []
