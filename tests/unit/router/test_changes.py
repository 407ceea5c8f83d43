"""Changes under load: nobody sees an error, nobody sees another variant than they must."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
from modelyard_operator.experiment.buckets import next_map
from modelyard_operator.manifests.envoy import render_router_files
from modelyard_runtime.contract import ROUTER_READY_PATH
from waiting import eventually_async

from .harness import Answer, RouterPod, World, bucket, owner

KEYS = [f"user-{number}" for number in range(1000)]


def _failed(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status != 200]


async def test_a_shift_under_load_loses_nothing_and_takes_nobody_from_the_challenger(world: World) -> None:
    for variant in ("current", "gbm"):
        await world.model(variant)
    old = next_map((), {"current": 90, "gbm": 10})
    new = next_map(old, {"current": 50, "gbm": 50})
    pod = await world.router(world.config(old))

    async with world.load(pod) as answers:
        await world.shift(pod, world.config(new, epoch=2))
        shifted = len(answers)

    assert _failed(answers) == []
    first = {key for key in {a.key for a in answers} if owner(old, bucket("churn-test", key)) == "gbm"}
    assert {answer.variant for answer in answers if answer.key in first} == {"gbm"}
    # Those that were on their way while the version was acknowledged may still be of the old map.
    assert all(answer.variant == owner(new, bucket("churn-test", answer.key)) for answer in answers[shifted + 8 :])


async def test_a_variant_comes_and_goes_under_load_without_an_error(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    two = next_map((), {"a": 50, "b": 50})
    three = next_map(two, {"a": 40, "b": 30, "c": 30})
    pod = await world.router(world.config(two))
    without = world.config(two)

    async with world.load(pod) as answers:
        await world.model("c")
        await world.shift(pod, world.config(three))
        on_c = next(key for key in KEYS if owner(three, bucket("churn-test", key)) == "c")
        held = asyncio.create_task(world.ask(pod, on_c, path="/held"))
        await eventually_async(lambda: world.models["c"][0].requests)
        back = next_map(three, {"a": 50, "b": 50})
        await world.shift(pod, world.config(back, upstreams=without.upstreams))
        world.models["c"][0].gate.set()
        last = await held

    assert _failed(answers) == []
    assert "c" in {answer.variant for answer in answers}
    # A request that was running on the removed variant got its answer.
    assert (last.status, last.variant) == (200, "c")


async def test_all_variants_may_be_replaced_at_once(world: World) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    await world.model("b")
    only_b = tuple(u for u in world.config(next_map((), {"a": 1})).upstreams if u.variant == "b")

    async with world.load(pod) as answers:
        await world.shift(pod, world.config(next_map((), {"b": 1}), upstreams=only_b))

    assert _failed(answers) == []
    assert {answer.variant for answer in answers} == {"a", "b"}


@pytest.mark.parametrize("file", ["cds.json", "rds.json"])
async def test_what_envoy_rejects_is_reported_and_changes_nothing(world: World, file: str) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    config = world.config(next_map((), {"a": 1, "b": 1}))
    pod = await world.router(config)
    good = (await world.report(pod))["version"]
    files = render_router_files(world.config(next_map((), {"a": 1, "b": 9})))
    broken = json.loads(files[file])
    if file == "cds.json":
        broken["resources"][0]["connect_timeout"] = "-1s"
    else:
        broken["resources"][0]["virtual_hosts"][0]["routes"][-1]["route"]["timeout"] = "soon"

    pod.publish({**files, file: json.dumps(broken)})
    report = await eventually_async(lambda: world.report(pod), lambda report: report["error"] is not None)
    answers = await world.ask_all(pod, KEYS[:200])

    assert report["version"] == good
    assert f"Envoy rejected {file} of version {files['version']}" in str(report["error"])
    assert all(a.variant == owner(config.buckets, bucket(config.salt, a.key)) for a in answers.values())
    assert _failed(list(answers.values())) == []

    # An Envoy that restarts comes up with what worked, and the error stands until something better is there.
    assert pod.envoy
    pod.envoy.kill()
    await eventually_async(lambda: world.report(pod), lambda report: report["version"] is None)
    await pod.start_envoy()
    report = await eventually_async(lambda: world.report(pod), lambda report: report["version"] is not None)
    assert (report["version"], f"rejected {file}" in str(report["error"])) == (good, True)
    await world.shift(pod, world.config(next_map((), {"a": 1, "b": 9})))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rds.json": "{"}, "rds.json is not JSON"),
        ({"cds.json": "[]"}, "cds.json is not a JSON object"),
        ({"version": "other"}, "cds.json is of version"),
        (
            {"cds.json": '{"version_info": "VERSION", "resources": []}'},
            "routes to clusters that cds.json does not have: a",
        ),
        ({"cds.json": '{"version_info": "VERSION"}'}, "not of Envoy's form"),
    ],
)
async def test_what_does_not_fit_together_is_reported_without_asking_envoy(
    world: World, changed: dict[str, str], said: str
) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    good = (await world.report(pod))["version"]
    files = render_router_files(world.config(next_map((), {"a": 1}), epoch=2))

    pod.publish({**files, **{file: text.replace("VERSION", files["version"]) for file, text in changed.items()}})
    report = await eventually_async(lambda: world.report(pod), lambda report: report["error"] is not None)

    assert (report["version"], said in str(report["error"])) == (good, True), report
    assert (await world.ask(pod, "user-1")).status == 200


async def test_a_sidecar_that_restarts_leaves_envoy_alone(world: World) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    version = str((await world.report(pod))["version"])
    files = [pod.run / "bootstrap.json", pod.run / "cds" / "cds.json", pod.run / "rds" / "rds.json"]
    before = [path.stat().st_mtime_ns for path in files]

    async with world.load(pod) as answers:
        assert pod.sidecar
        pod.sidecar.kill()
        await pod.sidecar.wait()
        await pod.start_sidecar()
        await eventually_async(lambda: world.status_of(f"{pod.sidecar_url}/started"), lambda status: status == 200)
        await world.applied(pod, version)

    assert _failed(answers) == []
    assert [path.stat().st_mtime_ns for path in files] == before


async def test_drained_under_load_an_instance_goes_without_a_failed_request(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    config = world.config(next_map((), {"a": 1, "b": 1}))
    leaving, staying = await world.router(config), await world.router(config)
    balanced = leaving
    answers: list[Answer] = []
    over = asyncio.Event()

    async def client() -> None:
        number = 0
        while not over.is_set():
            number += 1
            answers.append(await world.ask(balanced, f"user-{number % 500}"))

    async def some(count: int) -> None:
        enough = len(answers) + count
        await eventually_async(lambda: len(answers), lambda n: n >= enough or any(c.done() for c in clients))

    clients = [asyncio.create_task(client()) for _ in range(4)]
    await some(200)
    drained = asyncio.create_task(_drain(world, f"{leaving.sidecar_url}/drain?limit=30&settle=2"))
    # Those who balance learn of it late: until then new connections still come here, and are served.
    await some(300)
    async with world.session.post(f"{leaving.url}/predict") as response:
        closes = response.headers.get("connection", "")
    assert not drained.done()
    balanced = staying
    probing = asyncio.create_task(_probe(world, leaving))
    left = await drained
    probing.cancel()
    assert leaving.envoy
    leaving.envoy.send_signal(signal.SIGTERM)
    await leaving.envoy.wait()
    await some(200)
    over.set()
    await asyncio.gather(*clients)

    assert closes == "close"
    assert left == {"connections": 0}
    assert _failed(answers) == []


async def _probe(world: World, pod: RouterPod) -> None:
    """Ask as the kubelet does, which goes on while a pod ends: that must not count as traffic."""
    while True:
        await world.status_of(f"{pod.url}{ROUTER_READY_PATH}")
        await asyncio.sleep(0.1)


async def _drain(world: World, url: str) -> object:
    async with world.session.get(url) as response:
        return await response.json()


async def test_a_drain_ends_at_its_limit_and_says_what_is_left(world: World) -> None:
    model = await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    held = asyncio.create_task(world.ask(pod, "user-1", path="/held"))
    await eventually_async(lambda: model.requests, lambda count: count > 0)

    for _ in range(2):  # the kubelet may ask again
        async with world.session.post(f"{pod.sidecar_url}/drain?limit=0.3&settle=0") as response:
            left = await response.json()
    async with world.session.get(f"{pod.sidecar_url}/drain?limit=soon") as response:
        wrong = response.status
    model.gate.set()

    assert left["connections"] >= 1
    assert wrong == 400
    assert (await held).status == 200


async def test_the_sidecar_outlives_sigterm_as_long_as_envoy_runs(world: World) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    assert pod.sidecar
    assert pod.envoy

    pod.sidecar.send_signal(signal.SIGTERM)
    async with world.session.get(f"{pod.sidecar_url}/metrics") as response:
        metrics = await response.text()
    pod.envoy.send_signal(signal.SIGTERM)
    await pod.envoy.wait()

    assert "envoy_http_downstream_rq_total{" in metrics
    assert await pod.sidecar.wait() == 0


async def test_a_second_sigterm_ends_the_sidecar_at_once(world: World) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    assert pod.sidecar

    pod.sidecar.send_signal(signal.SIGTERM)
    still_there = await world.status_of(f"{pod.sidecar_url}/applied")
    pod.sidecar.send_signal(signal.SIGTERM)

    assert still_there == 200
    assert await pod.sidecar.wait() == 0
