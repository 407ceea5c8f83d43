"""Secrets: folders of files that become the variables of one container and of no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from modelyard_local.secrets import Secrets, environment_of
from modelyard_local.volumes import VolumeMissing
from unit.local.support import container, deployment, http_get, rig
from waiting import eventually_async

FROM = {"envFrom": [{"secretRef": {"name": "s3-read"}}]}
CHECK = "import os; raise SystemExit(0 if os.environ['AWS_ACCESS_KEY_ID'] == 'right' else 3)"


def _write(folder: Path, value: str) -> None:
    secret = folder / "secrets" / "s3-read"
    secret.mkdir(parents=True, exist_ok=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(value)


async def test_a_secret_reaches_the_init_container_alone(folder: Path) -> None:
    """The server beside it does not see the variable."""
    _write(folder, "right\n")
    init = {"name": "fetch", "command": ["python", "-c", CHECK], **FROM}
    async with rig(folder) as world:
        world.store.put(deployment("web", container(), initContainers=[init]))
        await eventually_async(lambda: world.rolled_out("web"))
        (pod,) = world.ready("web")
        _, seen = await http_get(pod["status"]["podIP"], 8080, "/env")

    assert "AWS_ACCESS_KEY_ID" not in ast.literal_eval(seen.decode())


async def test_a_missing_secret_is_named_and_a_wrong_one_can_be_put_right(folder: Path) -> None:
    """The pod waits for the folder, and reads the file anew at each start of the container."""
    init = {"name": "fetch", "command": ["python", "-c", CHECK], **FROM}
    async with rig(folder) as world:
        world.store.put(deployment("web", container(), initContainers=[init]))

        def unschedulable() -> object:
            return [
                entry["message"]
                for pod in world.pods("web")
                for entry in pod.get("status", {}).get("conditions", [])
                if entry.get("reason") == "Unschedulable"
            ]

        def failed() -> bool:
            return any(
                entry["restartCount"] or "waiting" in entry["state"] or "terminated" in entry["state"]
                for pod in world.pods("web")
                for entry in pod["status"]["initContainerStatuses"]
                if entry["lastState"] or "terminated" in entry["state"]
            )

        (message,) = await eventually_async(unschedulable)
        _write(folder, "wrong")
        await eventually_async(failed)
        _write(folder, "right")
        await eventually_async(lambda: world.rolled_out("web"))

    assert 'secret "s3-read" not found' in message
    assert f"{folder}/secrets/s3-read" in message


async def test_single_keys_are_taken_and_optional_ones_may_be_missing(tmp_path: Path) -> None:
    """`env` wins over `envFrom`, as under a kubelet."""
    (tmp_path / "s3-read").mkdir()
    (tmp_path / "s3-read" / "A").write_text("from the secret")
    ref = {"name": "s3-read", "key": "A"}
    env = [{"name": "B", "valueFrom": {"secretKeyRef": ref}}, {"name": "A", "value": "/mnt/x"}]
    optional = {"name": "C", "valueFrom": {"secretKeyRef": {**ref, "key": "none", "optional": True}}}
    secrets = Secrets(tmp_path)

    assert environment_of({**FROM, "env": [*env, optional]}, secrets, str.upper) == {
        "A": "/MNT/X",
        "B": "from the secret",
    }
    with pytest.raises(VolumeMissing):
        environment_of({"env": [{"name": "C", "valueFrom": {"secretKeyRef": {**ref, "key": "none"}}}]}, secrets, str)
