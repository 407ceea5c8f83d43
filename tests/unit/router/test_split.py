"""The split on the wire: who gets which variant, and that it is what the bucket map says."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import xxhash
from modelyard_operator.experiment.buckets import next_map
from modelyard_operator.manifests.envoy import Upstream
from modelyard_runtime.contract import ROUTER_HTTP_PORT, ROUTER_READY_PATH
from waiting import eventually_async

from .harness import KEY, Model, World, bucket, owner

KEYS = [f"user-{number}" for number in range(2000)]


async def test_every_key_gets_the_owner_of_its_bucket_from_every_instance(world: World) -> None:
    for variant in ("a", "b", "c"):
        await world.model(variant)
    buckets = next_map(next_map((), {"a": 80, "b": 10, "c": 10}), {"a": 60, "b": 15, "c": 25})
    config = world.config(buckets, salt="odd\\1 salt:é")
    first, second = await world.router(config), await world.router(config)

    answers = [await world.ask_all(pod, KEYS) for pod in (first, second)]

    expected = {key: owner(buckets, bucket("odd\\1 salt:é", key)) for key in KEYS}
    for of_pod in answers:
        assert {key: answer.variant for key, answer in of_pod.items()} == expected
        assert {key: answer.body["variant"] for key, answer in of_pod.items()} == expected


async def test_a_server_that_knows_no_health_gets_requests_while_its_port_is_open(world: World) -> None:
    first, second = await world.model("a"), await world.model("a")
    second.ready = False
    upstream = Upstream("a", first.host, ROUTER_HTTP_PORT, 20.0, health_path=None)
    pod = await world.router(world.config(next_map((), {"a": 1}), upstreams=(upstream,)))

    async def both() -> bool:
        await world.ask_all(pod, KEYS[:20])
        return first.requests > 0 and second.requests > 0

    await eventually_async(both)


async def test_keys_are_bytes_whatever_they_spell(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    config = world.config(next_map((), {"a": 1, "b": 1}))
    pod = await world.router(config)
    keys = [b"caf\xe9-%d" % n for n in range(20)] + [f"usér-{n}".encode() for n in range(20)]
    keys += [b"a:%d" % n for n in range(20)] + [b"\\1 %d" % n for n in range(20)]

    reader, writer = await asyncio.open_connection(pod.address, ROUTER_HTTP_PORT)
    got = []
    for key in keys:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-User-Id: " + key + b"\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        got.append(headers["x-modelyard-variant"])
    writer.close()
    await writer.wait_closed()

    assert got == [owner(config.buckets, xxhash.xxh64_intdigest(b"churn-test:" + key) % 10_000) for key in keys]


async def test_salts_make_tests_independent(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    even = next_map((), {"a": 1, "b": 1})
    pod = await world.router(world.config(even, salt="one"))
    one = await world.ask_all(pod, KEYS)
    await world.shift(pod, world.config(even, salt="two"))

    two = await world.ask_all(pod, KEYS)

    both = Counter((one[key].variant, two[key].variant) for key in KEYS)
    # Four cells of 500 expected, standard deviation 20; hashes do not change from run to run.
    assert all(abs(both[x, y] - 500) < 100 for x in "ab" for y in "ab")


async def test_the_readiness_path_is_envoys_own_whatever_the_models_do(world: World) -> None:
    model = await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    await model.stop()

    async with world.session.get(f"{pod.url}{ROUTER_READY_PATH}", headers={KEY: "user-1"}) as response:
        body = await response.json(content_type=None)

    assert (response.status, body, model.requests) == (200, {"status": "ready"}, 0)
    assert "x-modelyard-variant" not in response.headers


@pytest.mark.parametrize("key", [None, ""])
async def test_requests_without_a_key_are_spread_by_weight(world: World, key: str | None) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    pod = await world.router(world.config(next_map((), {"a": 1, "b": 1})))

    seen = Counter([(await world.ask(pod, key)).variant for _ in range(400)])

    assert seen.keys() == {"a", "b"}
    assert min(seen.values()) > 120  # eight standard deviations from the mean


async def test_the_override_header_forces_a_variant_even_one_without_weight(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    pod = await world.router(world.config(next_map((), {"a": 1, "b": 0})))

    forced = await world.ask(pod, "user-1", x_modelyard_variant="b")
    unknown = await world.ask(pod, "user-1", x_modelyard_variant="nobody")

    assert (forced.status, forced.variant, forced.body["variant"]) == (200, "b", "b")
    assert (unknown.status, unknown.variant, unknown.body["variant"]) == (200, "a", "a")
    assert "x-modelyard-variant" not in forced.body["headers"]


async def test_nothing_that_client_or_model_say_about_variant_and_prediction_is_believed(world: World) -> None:
    for variant in ("a", "b"):
        await world.model(variant)
    pod = await world.router(world.config(next_map((), {"a": 1, "b": 0}), override_header=None))
    forged = {"x_modelyard_variant": "b", "x_modelyard_prediction_id": "mine", "x_request_id": "mine"}

    first = await world.ask(pod, "user-1", **forged, x_envoy_upstream_rq_timeout_ms="1")
    second = await world.ask(pod, "user-1", **forged, x_forwarded_for="10.0.0.1")

    for answer in (first, second):
        assert (answer.status, answer.variant, answer.body["variant"]) == (200, "a", "a")
        assert len(answer.prediction_id) == 36
        assert answer.body["headers"]["x-request-id"] == answer.prediction_id
        assert not answer.body["headers"].keys() & {"x-modelyard-variant", "x-modelyard-prediction-id"}
    assert first.prediction_id != second.prediction_id


async def test_a_large_body_passes_through(world: World) -> None:
    await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    size = 40_000_000

    async with world.session.post(f"{pod.url}/predict", data=io.BytesIO(b"x" * size)) as response:
        body = await response.json()

    assert (response.status, body["bytes"]) == (200, size)


async def test_each_variant_has_its_own_time_limit(world: World) -> None:
    slow, quick = await world.model("slow"), await world.model("quick")
    config = world.config(next_map((), {"slow": 1, "quick": 1}))
    limits = {"slow": 30.0, "quick": 0.2}
    upstreams = tuple(type(u)(u.variant, u.host, u.port, limits[u.variant]) for u in config.upstreams)
    pod = await world.router(world.config(config.buckets, upstreams=upstreams))
    key = next(k for k in KEYS if owner(config.buckets, bucket(config.salt, k)) == "quick")

    split = await world.ask(pod, key, path="/held")
    forced = await world.ask(pod, key, path="/held", x_modelyard_variant="quick")

    for answer in (split, forced):
        assert (answer.status, answer.variant) == (504, "quick")
        assert answer.body == {"error": "variant quick gave no answer within its serving.limits.timeout"}
    for model in (slow, quick):
        model.gate.set()


async def test_a_variant_without_a_ready_pod_fails_only_its_own_users(world: World) -> None:
    await world.model("a")
    gone = await world.model("b")
    config = world.config(next_map((), {"a": 1, "b": 1}))
    pod = await world.router(config)
    await world.ask_all(pod, KEYS[:100])

    world.dns.records[gone.host] = []
    lost = next(k for k in KEYS if owner(config.buckets, bucket(config.salt, k)) == "b")
    answer = await eventually_async(lambda: world.ask(pod, lost), lambda a: a.status != 200)
    answers = await world.ask_all(pod, KEYS[:500])

    assert (answer.status, answer.variant) == (503, "b")
    assert answer.body == {"error": "no ready pod of variant b: see the status of its ModelDeployment, and try again"}
    assert {(a.variant, a.status) for a in answers.values()} == {("a", 200), ("b", 503)}


async def test_a_pod_that_fails_its_check_is_used_only_while_no_other_is_left(world: World) -> None:
    """A draining pod says that it is not ready and answers all the same: better than no answer."""
    draining = await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))
    await world.ask_all(pod, KEYS[:100])
    draining.ready = False

    async with world.load(pod) as answers:
        await asyncio.sleep(2.5)  # past the next checks
        other = await world.model("a")
        await eventually_async(_new_requests_of(draining, meanwhile=other), lambda count: count == 0)

    assert {answer.status for answer in answers} == {200}
    assert other.requests > 0


async def test_pods_come_and_go_by_dns_without_an_error(world: World) -> None:
    old = await world.model("a")
    pod = await world.router(world.config(next_map((), {"a": 1})))

    async with world.load(pod) as answers:
        new = await world.model("a")
        await eventually_async(_requests_of(new), lambda count: count > 0)
        old.ready = False
        world.dns.records[old.host] = [new.address]
        await eventually_async(_new_requests_of(old, meanwhile=new), lambda count: count == 0)
        await old.stop()

    assert {answer.status for answer in answers} == {200}


def _requests_of(model: Model) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return model.requests

    return look


def _new_requests_of(model: Model, *, meanwhile: Model) -> Callable[[], Awaitable[int]]:
    """Count while another one has got a hundred: a machine that stands still for a moment says nothing."""

    async def look() -> int:
        before, enough = model.requests, meanwhile.requests + 100
        await eventually_async(_requests_of(meanwhile), lambda count: count >= enough)
        return model.requests - before

    return look
