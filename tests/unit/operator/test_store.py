"""The store has the newest of what the watches and the answers to our writes say, in whatever order they come."""

from typing import Any

from modelyard_operator.kube.store import Store

LABELS = {"modelyard.dev/component": "runtime", "modelyard.dev/name": "churn"}


def _pod(version: int, name: str = "p", *, namespace: str = "ns", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version), "labels": LABELS}
    return {"metadata": metadata, "status": {"phase": "Running"}, **more}


def test_an_older_event_does_not_undo_the_answer_to_a_write() -> None:
    store = Store()
    store.deliver("Pod", "", _pod(5))
    store.remember("Pod", "", _pod(9, status={"phase": "Failed"}))

    assert not store.deliver("Pod", "", _pod(7))

    found = store.get("Pod", "ns", "p")
    assert found is not None
    assert found["status"] == {"phase": "Failed"}


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    store = Store()
    store.deliver("Pod", "", _pod(5))
    store.deliver("Pod", "", _pod(9), deleted=True)

    store.remember("Pod", "", _pod(7))

    assert store.get("Pod", "ns", "p") is None
    assert store.select("Pod", "ns", LABELS) == []


def test_a_list_drops_what_it_did_not_hold_but_not_what_is_newer() -> None:
    store = Store()
    store.put("Pod", _pod(5, "old"))
    store.put("Pod", _pod(6, "kept"))
    store.remember("Pod", "", _pod(12, "made-meanwhile"))

    gone = store.forget_others("Pod", "", [("ns", "kept")], version=10)

    assert [obj["metadata"]["name"] for obj in gone] == ["old"]
    assert [obj["metadata"]["name"] for obj in store.select("Pod", "ns", LABELS)] == ["kept", "made-meanwhile"]
    assert store.position("Pod", "") == "10"


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    store = Store()
    store.put("Pod", _pod(5, namespace="a"))
    store.put("Pod", _pod(5, namespace="b"))

    store.forget_others("Pod", "a", [], version=10)

    assert store.get("Pod", "a", "p") is None
    assert store.get("Pod", "b", "p") is not None


def test_a_change_of_what_nobody_reads_is_no_change() -> None:
    store = Store()
    store.deliver("Pod", "", _pod(5))

    assert not store.deliver("Pod", "", _pod(6, spec={"nodeName": "n"}))
    assert store.deliver("Pod", "", _pod(7, status={"phase": "Failed"}))


def test_a_reader_cannot_change_what_is_kept() -> None:
    store = Store()
    store.put("Pod", _pod(5))

    (store.get("Pod", "ns", "p") or {})["status"]["phase"] = "Failed"

    assert (store.get("Pod", "ns", "p") or {})["status"] == {"phase": "Running"}
