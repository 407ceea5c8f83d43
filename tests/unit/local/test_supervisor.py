"""Deployments as processes: order, environment, probes, rolling updates, back-off, ends."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

from modelyard_local.objects import Key, Object
from modelyard_local.store import Change
from modelyard_operator.reconcile.conditions import condition_of
from unit.local.support import Load, container, deployment, http_get, rig, service
from waiting import eventually_async


async def test_a_pod_becomes_ready_on_an_address_of_its_own(folder: Path) -> None:
    """Two replicas listen on the same port."""
    async with rig(folder) as world:
        world.store.put(deployment("web", container(VERSION="1"), replicas=2))
        await eventually_async(lambda: world.rolled_out("web"))
        addresses = [pod["status"]["podIP"] for pod in world.ready("web")]
        answers = [await http_get(address, 8080, "/") for address in addresses]

    assert len(set(addresses)) == 2
    assert answers == [(200, b"1"), (200, b"1")]


async def test_paths_of_mounts_are_rewritten_and_init_containers_come_first(folder: Path) -> None:
    """An init container fills an emptyDir by its mount path, and the container after it reads there."""
    mounts = [{"name": "data", "mountPath": "/mnt/data"}, {"name": "tmp", "mountPath": "/tmp"}]
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('filled')"
    init = {"name": "fill", "command": ["python", "-c", write], "args": ["/mnt/data/text"], "volumeMounts": mounts}
    main = container(CONFIG="/mnt/data") | {"volumeMounts": mounts}
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    async with rig(folder) as world:
        world.store.put(deployment("web", main, initContainers=[init], volumes=volumes))
        await eventually_async(lambda: world.rolled_out("web"))
        (pod,) = world.ready("web")
        address = pod["status"]["podIP"]
        _, text = await http_get(address, 8080, "/config")
        _, environment = await http_get(address, 8080, "/env")

    seen = ast.literal_eval(environment.decode())
    assert text == b"filled"
    assert seen["MODELYARD_HOST"] == address
    assert seen["MODELYARD_DNS"] == "127.0.0.1:1"
    assert seen["TMPDIR"].startswith(str(folder))
    assert [entry["state"]["terminated"]["exitCode"] for entry in pod["status"]["initContainerStatuses"]] == [0]


async def test_a_changed_config_map_reaches_a_running_pod(folder: Path) -> None:
    """Its volume is swapped at once, and the process is the same."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default"},
        "data": {"text": "one"},
    }
    main = container(CONFIG="/etc/app") | {"volumeMounts": [{"name": "config", "mountPath": "/etc/app"}]}
    volumes = [{"name": "config", "configMap": {"name": "settings"}}]
    async with rig(folder) as world:
        world.store.put(deployment("web", main, volumes=volumes))
        await eventually_async(lambda: world.pods("web"))
        world.store.put(config)
        await eventually_async(lambda: world.rolled_out("web"))
        (pod,) = world.ready("web")
        address = pod["status"]["podIP"]
        before = await http_get(address, 8080, "/config")
        world.store.put({**config, "data": {"text": "two"}})
        after = await http_get(address, 8080, "/config")
        restarts = world.ready("web")[0]["status"]["containerStatuses"][0]["restartCount"]

    assert (before, after, restarts) == ((200, b"one"), (200, b"two"), 0)


async def test_a_rolling_update_under_load_loses_no_request(folder: Path) -> None:
    """Through the Service's address, to the last answer of the old version and the first of the new."""
    async with rig(folder, proxy=True) as world:
        world.store.put(service("web"))
        world.store.put(deployment("web", container(VERSION="1", DRAIN="0.5"), replicas=2))
        await eventually_async(lambda: world.rolled_out("web"))
        async with Load(*world.url("web")) as load:
            await eventually_async(lambda: "1" in load.answers)
            world.store.put(deployment("web", container(VERSION="2", DRAIN="0.5"), replicas=2))
            await eventually_async(lambda: world.rolled_out("web") and len(world.pods("web")) == 2)
            seen = len(load.answers)
            await eventually_async(lambda: len(load.answers) > seen + 50)

    assert load.failures == []
    assert load.answers[0] == "1"
    assert set(load.answers[seen + 10 :]) == {"2"}


async def test_a_container_that_crashes_backs_off_and_says_why(folder: Path) -> None:
    """The termination message stands in the status, and the old pods go on serving."""
    fail = "import os; open(os.environ['MODELYARD_TERMINATION_LOG'], 'w').write('the reason'); raise SystemExit(3)"
    async with rig(folder) as world:
        world.store.put(deployment("web", container()))
        await eventually_async(lambda: world.rolled_out("web"))
        (before,) = world.ready("web")
        world.store.put(deployment("web", container(fail)))

        def backing_off() -> object:
            for pod in world.pods("web"):
                for entry in pod.get("status", {}).get("containerStatuses", []):
                    if entry["restartCount"] >= 2 and entry["state"].get("waiting"):
                        return entry
            return None

        status = await eventually_async(backing_off)
        still = world.ready("web")
        available = condition_of(world.deployment("web"), "Available")

    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "the reason")
    assert [pod["metadata"]["uid"] for pod in still] == [before["metadata"]["uid"]]
    assert available is not None
    assert available["status"] == "True"


async def test_the_log_stands_in_for_a_missing_termination_message(folder: Path) -> None:
    """Only where the container asks for that."""
    main = container("raise SystemExit('the last words')") | {"terminationMessagePolicy": "FallbackToLogsOnError"}
    async with rig(folder) as world:
        world.store.put(deployment("web", main))

        def ended() -> object:
            for pod in world.pods("web"):
                for entry in pod.get("status", {}).get("containerStatuses", []):
                    return (entry["state"].get("terminated") or entry["lastState"].get("terminated") or {}).get(
                        "message"
                    )
            return None

        message = await eventually_async(ended)

    assert "the last words" in message


async def test_a_program_that_does_not_exist_is_named(folder: Path) -> None:
    """In the status, like any other end."""
    main = container() | {"command": ["no-such-program"], "terminationMessagePolicy": "FallbackToLogsOnError"}
    async with rig(folder) as world:
        world.store.put(deployment("web", main))

        def ended() -> object:
            for pod in world.pods("web"):
                for entry in pod.get("status", {}).get("containerStatuses", []):
                    return entry["lastState"].get("terminated")
            return None

        terminated = await eventually_async(ended)

    assert (terminated["exitCode"], terminated["message"]) == (127, "no-such-program: No such file or directory")


async def test_the_last_words_are_those_of_the_last_run(folder: Path) -> None:
    """A log goes on over restarts; the message has only the lines of the run that it tells of, as a kubelet's."""
    count = "import os, sys; print('run', os.path.getsize(sys.argv[1]), flush=True)\n"
    count += "open(sys.argv[1], 'a').write('.'); sys.exit(1)"
    runs = folder / "runs"
    runs.touch()
    main = container() | {"command": ["python", "-c", count, str(runs)]}
    main |= {"terminationMessagePolicy": "FallbackToLogsOnError"}
    async with rig(folder) as world:
        world.store.put(deployment("web", main))

        def second() -> object:
            for pod in world.pods("web"):
                for entry in pod.get("status", {}).get("containerStatuses", []):
                    for state in (entry["state"], entry["lastState"]):
                        message = state.get("terminated", {}).get("message", "")
                        if "run 1" in message:
                            return message
            return None

        message = await eventually_async(second)

    assert message == "run 1"


async def test_an_image_without_a_command_is_told_what_to_do(folder: Path) -> None:
    """One machine runs no images: a container of a user's own needs the command that this machine is to run."""
    async with rig(folder) as world:
        world.store.put(deployment("web", {"name": "runtime", "image": "registry.example/server:1"}))

        def said() -> set[str]:
            states = [
                status[field]
                for pod in world.pods("web")
                for status in pod.get("status", {}).get("containerStatuses", [])
                for field in ("state", "lastState")
            ]
            return {state["terminated"]["message"] for state in states if "terminated" in state}

        (message,) = await eventually_async(said)

    assert message == "one machine runs no images: give the command in spec.container.command"


async def test_an_open_port_is_ready_and_a_sleep_comes_before_sigterm(folder: Path) -> None:
    """What a container of a user's own gets: a probe of its port, and time in which routers forget it."""
    probe = {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 60}
    main = container() | {"startupProbe": probe, "readinessProbe": probe}
    main["lifecycle"] = {"preStop": {"sleep": {"seconds": 600}}}
    async with rig(folder) as world:
        world.store.put(deployment("web", main, terminationGracePeriodSeconds=3))
        await eventually_async(lambda: world.rolled_out("web"))
        (pod,) = world.ready("web")
        key = Key("Pod", "default", pod["metadata"]["name"])
        world.store.remove(key)
        # SIGTERM would end it at once: that it still answers is the sleep's doing.
        status, _ = await http_get(pod["status"]["podIP"], 8080, "/")
        await eventually_async(lambda: world.store.find(key) is None)

    assert status == 200


async def test_a_sidecar_starts_before_and_ends_after(folder: Path) -> None:
    """Its startup probe holds the others back; the preStop hook of another container still reaches it."""
    note = (
        "import os, http.server, pathlib\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        pathlib.Path(os.environ['NOTES'], self.path.strip('/')).touch()\n"
        "        self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n"
        "http.server.HTTPServer((os.environ['MODELYARD_HOST'], 9902), Handler).serve_forever()\n"
    )
    sidecar = container(note, name="sidecar", probe=False, NOTES=str(folder)) | {"restartPolicy": "Always"}
    sidecar["startupProbe"] = {"httpGet": {"path": "/started", "port": 9902}, "failureThreshold": 60}
    hook = {"preStop": {"httpGet": {"path": "/stopping", "port": 9902}}}
    check = f"import pathlib; assert pathlib.Path({str(folder)!r}, 'started').exists()"
    main = container() | {"lifecycle": hook}
    first = {"name": "check", "command": ["python", "-c", check]}
    async with rig(folder) as world:
        world.store.put(deployment("web", main, initContainers=[sidecar, first]))
        await eventually_async(lambda: world.rolled_out("web"))
        (pod,) = world.ready("web")
        restarts = [entry["restartCount"] for entry in pod["status"]["initContainerStatuses"]]
        world.store.remove(Key("Deployment", "default", "web"))
        await eventually_async(lambda: not world.pods("web"))

    assert restarts == [0, 0]
    assert (folder / "stopping").exists()


async def test_a_failed_liveness_probe_restarts_the_container(folder: Path) -> None:
    """And the pod stays."""
    hang = "import pathlib, time\nwhile True: time.sleep(1)"
    main = container(hang, probe=False)
    main["livenessProbe"] = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    async with rig(folder) as world:
        world.store.put(deployment("web", main, terminationGracePeriodSeconds=1))
        await eventually_async(lambda: world.pods("web"))
        (pod,) = world.pods("web")
        key = Key("Pod", "default", pod["metadata"]["name"])

        def restarted() -> bool:
            live = world.store.find(key)
            assert live is not None
            return any(entry["restartCount"] for entry in live.get("status", {}).get("containerStatuses", []))

        await eventually_async(restarted)


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children(folder: Path) -> None:
    """After the grace period; a grandchild in the same session goes too."""
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)\n"
    )
    async with rig(folder) as world:
        world.store.put(deployment("web", container(stubborn, probe=False), terminationGracePeriodSeconds=1))
        await eventually_async(lambda: world.rolled_out("web"))
        world.store.remove(Key("Deployment", "default", "web"))
        await eventually_async(lambda: not world.pods("web"))
        await asyncio.sleep(0)  # the rig asserts that nothing is left


async def test_a_missing_claim_is_said_where_a_scheduler_says_it(folder: Path) -> None:
    """And the pod comes up as soon as the folder is there."""
    main = container(CONFIG="/mnt/claim") | {"volumeMounts": [{"name": "claim", "mountPath": "/mnt/claim"}]}
    volumes = [{"name": "claim", "persistentVolumeClaim": {"claimName": "models"}}]
    async with rig(folder) as world:
        world.store.put(deployment("web", main, volumes=volumes))

        def unschedulable() -> object:
            return [
                entry
                for pod in world.pods("web")
                for entry in pod.get("status", {}).get("conditions", [])
                if entry.get("reason") == "Unschedulable"
            ]

        (entry,) = await eventually_async(unschedulable)
        (folder / "claims" / "models").mkdir()
        await eventually_async(lambda: world.rolled_out("web"))

    assert 'persistentvolumeclaim "models" not found' in entry["message"]
    assert f"{folder}/claims/models" in entry["message"]


async def test_a_rollout_that_does_not_move_exceeds_its_deadline(folder: Path) -> None:
    """Progressing turns false, in the words of Kubernetes."""
    hang = deployment("web", container("import time; time.sleep(600)"))
    hang["spec"]["progressDeadlineSeconds"] = 1
    async with rig(folder) as world:
        world.store.put(hang)

        def overdue() -> object:
            progressing = condition_of(world.deployment("web"), "Progressing")
            return progressing if progressing and progressing["status"] == "False" else None

        progressing = await eventually_async(overdue)

    assert progressing["reason"] == "ProgressDeadlineExceeded"


async def test_an_old_pod_stays_until_the_new_one_has_been_ready_for_a_while(folder: Path) -> None:
    """minReadySeconds: whoever routes to the pods has time to find the new one."""

    def waiting(version: str) -> Object:
        wanted = deployment("web", container(VERSION=version))
        wanted["spec"]["minReadySeconds"] = 2
        return wanted

    counts: list[tuple[int, int, int]] = []  # of every change: what passes by is not looked for

    async with rig(folder) as world:

        def note(_: Change) -> None:
            status = world.deployment("web").get("status", {})
            ready, available = (status.get(f"{kind}Replicas", 0) for kind in ("ready", "available"))
            counts.append((len(world.ready("web")), ready, available))

        world.store.put(waiting("1"))
        await eventually_async(lambda: world.rolled_out("web"))
        world.store.subscribe(note)
        world.store.put(waiting("2"))
        await eventually_async(lambda: world.rolled_out("web"))

    assert (2, 2, 1) in counts
    assert min(available for _, _, available in counts) == 1
