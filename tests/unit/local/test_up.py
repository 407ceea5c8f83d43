"""`modelyard local` as a person meets it: what the commands print, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from manifest_cases import CASES, Case, abtest, model_deployment
from unit.local.installation_support import Installation, installation
from waiting import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[Installation]:
    """One installation for the tests that only talk to it."""
    path = Path(tempfile.mkdtemp(prefix="myl-", dir="/tmp"))
    with installation(path) as made:
        made.up()
        yield made
    shutil.rmtree(path)


def test_apply_says_what_happened(shared: Installation) -> None:
    """Created, unchanged, configured; in kubectl's words."""
    model = shared.weights("said", 1, version="1")

    printed = [shared.apply(entry) for entry in (model, model, {**model, "spec": {**model["spec"], "replicas": 0}})]

    assert printed == [
        f"modeldeployment.modelyard.dev/said {word}\n" for word in ("created", "unchanged", "configured")
    ]


def test_get_prints_what_kubectl_prints(shared: Installation) -> None:
    """A table with the same columns; names alone; YAML that can be applied again."""
    shared.apply(shared.weights("shown", 1, 2, version="7"))
    shared.ready("mdep/shown")

    table = shared.ok("get", "mdep", "shown")
    name = shared.ok("get", "mdep/shown", "-o", "name")
    again = shared.ok("apply", "-f", "-", stdin=shared.ok("get", "mdep", "shown", "-o", "yaml"))
    pods = shared.ok("get", "pods", "-o", "wide")

    header, row = table.splitlines()
    assert header.split() == ["NAME", "URL", "VERSION", "READY", "REASON", "AGE"]
    assert re.fullmatch(r"shown +http://127\.0\.\d+\.\d+(:8080)? +7 +True +Ready +\d+\w+", row)
    assert name == "modeldeployment.modelyard.dev/shown\n"
    assert again == "modeldeployment.modelyard.dev/shown unchanged\n"
    assert re.search(r"^shown-\w+-\w+ +1/1 +Running +0 +\d+\w+ +127\.0\.\d+\.\d+$", pods, re.MULTILINE)


def test_logs_are_those_of_the_pods(shared: Installation) -> None:
    """Of a model by its name, one container or all."""
    shared.apply(shared.weights("logged", 1, version="1"))
    shared.ready("mdep/logged")

    everything = shared.ok("logs", "logged")
    one = shared.ok("logs", "logged", "-c", "fetch", "--tail", "1")

    assert "/fetch] modelyard: fetched pvc://models/logged/1" in everything
    assert one.startswith("modelyard: fetched pvc://models/logged/1")
    assert shared.run("logs", "logged", "-c", "nothing").err == "error: container nothing is none of fetch, runtime\n"


def test_a_model_that_does_not_load_says_why(shared: Installation) -> None:
    """In `get`, in `wait`, and in the progress of `up`."""
    model = shared.weights("broken", 1, version="1")
    (shared.state / "claims" / "models" / "broken" / "1" / "model.json").write_text("{")
    shared.apply(model)

    reason = eventually(lambda: re.search(r"False +(\w+)", shared.ok("get", "mdep", "broken")), what="a reason")
    eventually(
        lambda: shared.get("mdep", "broken")["status"]["conditions"][-1]["reason"] not in ("RollingOut", "Starting"),
        what="why",
    )
    waited = shared.run("wait", "--for=condition=Ready", "mdep/broken", "--timeout=100ms")
    why = shared.get("mdep", "broken")["status"]["conditions"][-1]

    assert reason
    assert waited.code == 1
    assert waited.err.startswith(f"error: timed out waiting for condition=Ready on mdep/broken: {why['reason']}: ")
    assert "model.json" in why["message"]
    eventually(lambda: "modeldeployment/broken: not Ready: " + why["reason"] in shared.log(), what="a line of progress")
    assert re.search(r"pod/broken-\w+-\w+: container \w+ exited with 1; trying again in ", shared.log())


@pytest.mark.parametrize("case", [case for case in CASES if case.path is not None], ids=str)
def test_wrong_manifests_are_refused_by_field(shared: Installation, case: Case) -> None:
    """With the field path that the API server gives; nothing is kept."""
    client = __import__("modelyard_local.client", fromlist=["Client"])

    with pytest.raises(client.Refused) as refused:
        client.Client(shared.state / "control.sock").post("/apply", manifest=case.manifest)

    assert case.path in [error["path"] for error in refused.value.errors]


def test_a_refusal_is_one_line_and_the_rest_is_applied(shared: Installation) -> None:
    """As with kubectl: the exit code is 1, and the valid objects are there."""
    good = shared.weights("good", 1, version="1")
    bad = abtest("bad-test", control="nobody")
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}}

    done = shared.run("apply", "-f", "-", stdin=yaml.safe_dump_all([bad, other, good]))

    assert done.code == 1
    assert done.out == "modeldeployment.modelyard.dev/good created\n"
    assert done.err.splitlines() == [
        'error: standard input: ABTest "bad-test" is invalid: spec.control: must be the name of one of spec.variants',
        'error: standard input: Secret "hidden": Secret is not a kind that local mode applies: '
        "it takes ModelDeployment and ABTest only",
    ]


def test_several_mistakes_are_listed(shared: Installation) -> None:
    """One line each, under one heading."""
    wrong = model_deployment("wrong", replicas=-1, serving={"drainDelay": "soon"})

    done = shared.run("apply", "-f", "-", stdin=yaml.safe_dump(wrong))

    heading, *lines = done.err.splitlines()
    assert heading == 'error: standard input: ModelDeployment "wrong" is invalid:'
    assert [line.split(":")[0].strip() for line in lines] == ["spec.replicas", "spec.serving.drainDelay"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("get", "mdep", "nobody"), 'modeldeployments.modelyard.dev "nobody" not found'),
        (("get", "nonsense"), "nonsense is not a kind that is known here: "),
        (("delete", "mdep", "nobody"), 'modeldeployments.modelyard.dev "nobody" not found'),
        (("delete", "svc", "x"), "a Service belongs to a ModelDeployment or ABTest: delete that"),
        (("delete",), "say what to delete: KIND NAME, or -f FILE"),
        (("delete", "mdep"), "mdep: give KIND/NAME, or KIND and NAME"),
        (("logs", "nobody"), "no pod, ModelDeployment or ABTest nobody runs in namespace default"),
        (("wait", "mdep/nobody", "--for=condition=Ready"), 'modeldeployments.modelyard.dev "nobody" not found'),
        (("wait", "mdep/nobody", "--for=luck"), "--for takes condition=TYPE, condition=TYPE=STATUS or delete"),
        (("wait", "mdep/nobody", "--for=delete", "--timeout=long"), "'long' is not a duration: write 30s, 2m or 500ms"),
        (("apply", "-f", "/nothing.yaml"), "/nothing.yaml: no such file or directory"),
    ],
)
def test_mistakes_get_one_clear_line(shared: Installation, words: tuple[str, ...], line: str) -> None:
    """On standard error, with exit code 1."""
    done = shared.run(*words)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {line}")
    assert done.err.count("\n") == 1


def test_a_second_up_on_the_same_state_says_so(shared: Installation) -> None:
    """In the foreground and detached."""
    pid = shared.processes[0].pid
    lines = [shared.run("up").err, shared.run("up", "--detach").err]

    assert (
        lines
        == [
            f"error: modelyard local runs on {shared.state} already (process {pid}): "
            "use it, stop it with `modelyard local down`, or give another --state\n"
        ]
        * 2
    )


def test_delete_takes_the_processes_along(shared: Installation) -> None:
    """`wait --for=delete` returns at once, the pods follow."""
    shared.apply(shared.weights("doomed", 1, version="1"))
    shared.ready("mdep/doomed")

    printed = shared.ok("delete", "mdep/doomed")
    shared.ok("wait", "--for=delete", "mdep/doomed")

    assert printed == 'modeldeployment.modelyard.dev "doomed" deleted\n'
    eventually(lambda: "doomed" not in shared.ok("get", "all"), what="nothing of it is left")


def test_namespaces_are_apart(shared: Installation) -> None:
    """The same name in two of them is two objects."""
    model = {**shared.weights("twice", 1, version="1"), "metadata": {"name": "twice", "namespace": "other"}}
    model["spec"] = {**model["spec"], "replicas": 0}

    shared.apply(model)

    assert shared.run("get", "mdep", "twice").code == 1
    assert "twice" in shared.ok("get", "mdep", "-n", "other")
    assert re.search(r"^other +twice ", shared.ok("get", "mdep", "-A"), re.MULTILINE)


def test_a_kill_leaves_nothing_and_the_next_up_restores(folder: Path) -> None:
    """SIGKILL to the supervisor alone: every process goes, grandchildren too, and everything comes back."""
    with installation(folder) as made:
        process = made.up()
        made.apply(made.weights("first", 1, 2, version="1"), made.weights("second", 3, 4, version="1"))
        made.ready("mdep/first", "mdep/second")
        before = made.get("mdep", "first")
        running = made.left()

        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not made.left(), what="all processes end")

        made.up()
        made.ready("mdep/first", "mdep/second")
        after = made.get("mdep", "first")

    assert len(running) >= 3
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"]["url"] == before["status"]["url"]


def test_down_stops_everything_and_keeps_what_was_applied(folder: Path) -> None:
    """Detached, too; and without `up` every command says what to do."""
    with installation(folder) as made:
        silent = made.run("get")
        started = json.loads(made.ok("up", "--detach", "-o", "json"))
        made.apply(made.weights("kept", 1, version="1"))
        stopped = json.loads(made.ok("down", "-o", "json"))
        left = made.left()
        made.ok("up", "--detach")
        kept = made.ok("get", "mdep", "-o", "name")
        made.ok("down")

    assert silent.err == f"error: modelyard local does not run on {folder}: start it with `modelyard local up`\n"
    assert started["pid"] == stopped["stopped"]
    assert left == []
    assert kept == "modeldeployment.modelyard.dev/kept\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--claim", "models"), "--claim models: write NAME=FOLDER"),
        (("--claim", "models=/nothing/there"), "--claim models=/nothing/there: there is no folder /nothing/there"),
    ],
)
def test_up_checks_its_claims(folder: Path, words: tuple[str, ...], line: str) -> None:
    """Before anything starts."""
    with installation(folder) as made:
        done = made.run("up", *words)

    assert (done.code, done.err) == (1, f"error: {line}\n")


def test_a_state_folder_with_a_long_path_is_refused(folder: Path) -> None:
    """Sockets below it could not be opened."""
    with installation(folder / ("x" * 80)) as made:
        done = made.run("up")

    assert done.code == 1
    assert "give a shorter --state" in done.err
