"""The store: identity, generations, what survives, who owns whom; and the verbs of reconcile on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from manifest_cases import abtest, model_deployment
from modelyard_local.addresses import AddressBlock, ServiceAddresses
from modelyard_local.cluster import LocalCluster
from modelyard_local.database import Database
from modelyard_local.errors import LocalError
from modelyard_local.installation import set_conditions_unknown
from modelyard_local.objects import Key
from modelyard_local.store import Change, Store
from modelyard_local.table import find_kind, rows
from modelyard_operator.reconcile.verbs import Cluster, Rejected

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
MODEL = Key("ModelDeployment", "default", "churn")


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    database = Database(folder / "store.db")
    try:
        yield Store(database, lambda: NOW)
    finally:
        database.close()


def manifest(**spec: Any) -> dict[str, Any]:
    made = model_deployment(**spec)
    made["metadata"]["namespace"] = "default"
    return made


def child(kind: str, name: str, owner: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": name},
            "ownerReferences": [
                {
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {},
    }


def test_a_new_object_gets_an_identity(folder: Path) -> None:
    """As from an API server."""
    with opened(folder) as store:
        live, result = store.put(manifest())

    assert result == "created"
    assert live["metadata"]["generation"] == 1
    assert live["metadata"]["creationTimestamp"] == "2026-05-01T12:00:00Z"
    assert live["metadata"]["uid"]


def test_the_generation_rises_with_the_spec_alone(folder: Path) -> None:
    """Not with labels, status or the same manifest again."""
    with opened(folder) as store:
        first, _ = store.put(manifest())
        labelled = manifest()
        labelled["metadata"]["labels"] = {"team": "a"}

        results = [store.put(manifest())[1], store.put(labelled)[1]]
        store.put_status(MODEL, first["metadata"]["uid"], {"url": "http://x"})
        before = store.find(MODEL)
        after, result = store.put(manifest(replicas=2))

    assert results == ["unchanged", "configured"]
    assert before is not None
    assert before["metadata"]["generation"] == 1
    assert (result, after["metadata"]["generation"], after["status"]) == ("configured", 2, {"url": "http://x"})
    assert after["metadata"]["uid"] == first["metadata"]["uid"]


def test_custom_resources_survive_and_children_do_not(folder: Path) -> None:
    """With status and generation; children are rendered anew."""
    with opened(folder) as store:
        owner, _ = store.put(manifest())
        store.put(manifest(replicas=2))
        store.put_status(MODEL, owner["metadata"]["uid"], {"readyReplicas": 2})
        store.put(child("ConfigMap", "settings", owner))

    with opened(folder) as store:
        again = store.find(MODEL)
        children = store.select("ConfigMap")

    assert again is not None
    assert again["metadata"]["uid"] == owner["metadata"]["uid"]
    assert (again["metadata"]["generation"], again["status"]) == (2, {"readyReplicas": 2})
    assert children == []


def test_deleting_an_owner_deletes_what_it_owns(folder: Path) -> None:
    """Children of children too; pods are marked, since their processes have to end first."""
    with opened(folder) as store:
        owner, _ = store.put(manifest())
        deployment, _ = store.put(child("Deployment", "churn", owner))
        pod, _ = store.put(child("Pod", "churn-1", deployment))
        told: list[tuple[str, str]] = []
        store.subscribe(lambda change: told.append((change.what, change.object["kind"])))

        removed = store.remove(MODEL)
        marked = store.find(Key("Pod", "default", "churn-1"))
        store.purge(Key("Pod", "default", "churn-1"))

    assert removed
    assert marked is not None
    assert marked["metadata"]["deletionTimestamp"] == "2026-05-01T12:00:00Z"
    assert marked["metadata"]["uid"] == pod["metadata"]["uid"]
    assert told == [
        ("deleted", "ModelDeployment"),
        ("deleted", "Deployment"),
        ("configured", "Pod"),
        ("deleted", "Pod"),
    ]


def test_what_callers_get_is_theirs(folder: Path) -> None:
    """Changing it changes nothing in the store, nor what other subscribers see later."""
    with opened(folder) as store:
        changes: list[Change] = []
        store.subscribe(changes.append)
        live, _ = store.put(manifest())
        live["spec"]["replicas"] = 99
        changes[0].object["spec"]["replicas"] = 98
        kept = store.find(MODEL)

    assert kept is not None
    assert "replicas" not in kept["spec"]


def test_conditions_are_in_doubt_after_a_restart(folder: Path) -> None:
    """Nothing that was true is believed; the rest stays."""
    conditions = [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Ready",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "x",
        },
        {
            "type": "UpToDate",
            "status": "False",
            "reason": "R",
            "message": "m",
            "observedGeneration": 1,
            "lastTransitionTime": "x",
        },
    ]
    with opened(folder) as store:
        live, _ = store.put(manifest())
        store.put_status(MODEL, live["metadata"]["uid"], {"conditions": conditions})

        set_conditions_unknown(store, NOW)
        after = store.find(MODEL)

    assert after is not None
    ready, up_to_date = after["status"]["conditions"]
    assert (ready["status"], ready["reason"]) == ("Unknown", "Restarting")
    assert up_to_date == conditions[1]


def test_a_database_of_a_newer_version_is_refused(folder: Path) -> None:
    """And one that is none at all; both by name."""
    newer = sqlite3.connect(folder / "newer.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    (folder / "broken.db").write_bytes(b"this is not a database" * 100)

    with pytest.raises(LocalError, match="written by a newer modelyard"):
        Database(folder / "newer.db")
    with pytest.raises(LocalError, match=r"broken\.db cannot be read"):
        Database(folder / "broken.db")


def test_a_service_keeps_its_address(folder: Path) -> None:
    """Over restarts, and while other Services come and go."""
    block = AddressBlock.claim(None)
    database = Database(folder / "store.db")
    given = ServiceAddresses(block, database, lambda *_: True)
    first = [given.of("default", name) for name in ("a", "b", "a")]
    again = ServiceAddresses(block, database, lambda *_: True)
    second = [again.of("default", name) for name in ("b", "c", "a")]
    database.close()
    block.release()

    assert first[0] == first[2] != first[1]
    assert second[::2] == [first[1], first[0]]
    assert len({*first, *second}) == 3


def test_two_installations_never_share_addresses() -> None:
    """The second gets another block, and the first's when that is gone."""
    one = AddressBlock.claim(None)
    two = AddressBlock.claim(one.number)
    numbers = (one.number, two.number)
    one.release()
    three = AddressBlock.claim(numbers[0])
    two.release()
    three.release()

    assert numbers[0] != numbers[1]
    assert three.number == numbers[0]


async def test_the_verbs_are_those_of_reconcile(folder: Path) -> None:
    """Get, list, apply, status, annotate, delete; a vanished object is no error."""
    with opened(folder) as store:
        cluster: Cluster = LocalCluster(store)
        owner, _ = store.put(manifest())
        made = await cluster.apply(child("ConfigMap", "one", owner))
        await cluster.apply(child("ConfigMap", "two", owner))
        await cluster.annotate("ConfigMap", "default", "one", {"seen": "yes"})
        await cluster.annotate("ConfigMap", "default", "none", {"seen": "yes"})
        status = {"kind": "ModelDeployment", "metadata": {**owner["metadata"]}, "status": {"url": "http://x"}}
        await cluster.apply_status(status)
        await cluster.apply_status({**status, "metadata": {**owner["metadata"], "uid": "another"}, "status": {}})

        listed = await cluster.list("ConfigMap", "default", {"app": "one"})
        live = await cluster.get("ModelDeployment", "default", "churn")
        await cluster.delete("ConfigMap", "default", "one", "another")
        kept = await cluster.get("ConfigMap", "default", "one")
        await cluster.delete("ConfigMap", "default", "one", made["metadata"]["uid"])
        await cluster.delete("ConfigMap", "default", "one", made["metadata"]["uid"])
        gone = await cluster.get("ConfigMap", "default", "one")

    assert [obj["metadata"]["name"] for obj in listed] == ["one"]
    assert listed[0]["metadata"]["annotations"] == {"seen": "yes"}
    assert live is not None
    assert live["status"] == {"url": "http://x"}
    assert kept is not None
    assert gone is None


async def test_a_child_of_a_deleted_owner_is_not_made(folder: Path) -> None:
    """A reconcile that was under way when its object went must leave nothing behind."""
    with opened(folder) as store:
        cluster = LocalCluster(store)
        owner, _ = store.put(manifest())
        store.remove(MODEL)

        with pytest.raises(Rejected, match="was deleted meanwhile"):
            await cluster.apply(child("ConfigMap", "late", owner))
        store.put({**abtest(), "metadata": {"name": "churn-test", "namespace": "default"}})
        left = store.select("ConfigMap")

    assert left == []


def test_a_service_says_which_port_stands_for_one_that_is_not_free(tmp_path: Path) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "churn", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }
    kind = find_kind("services")
    assert kind is not None
    with opened(tmp_path) as store:
        store.give_addresses(lambda _namespace, _name: "127.0.9.1", lambda port: port + 8000)

        made, _ = store.put(service)

    assert made["spec"] == {"clusterIP": "127.0.9.1", "ports": [{"name": "http", "port": 80, "nodePort": 8080}]}
    assert "80:8080/TCP" in rows(kind, [made], NOW, wide=False)[1][0]
