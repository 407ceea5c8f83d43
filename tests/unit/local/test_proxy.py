"""The Service proxy, with the real Envoy."""

from __future__ import annotations

import asyncio
from functools import partial
from operator import lt
from pathlib import Path
from typing import Any

import aiohttp
from modelyard_local.objects import Key
from unit.local.support import Load, container, deployment, http_get, rig, service
from waiting import eventually_async


async def test_a_change_of_endpoints_fails_no_request(folder: Path) -> None:
    """Scaled up and down and up again under load."""
    async with rig(folder, proxy=True) as world:
        world.store.put(service("web"))
        world.store.put(deployment("web", container(VERSION="1", DRAIN="0.5")))
        await eventually_async(lambda: world.rolled_out("web"))
        async with Load(*world.url("web")) as load:
            for replicas in (3, 1, 2):
                world.store.put(deployment("web", container(VERSION="1", DRAIN="0.5"), replicas=replicas))
                await eventually_async(lambda: world.rolled_out("web"))
                enough = len(load.answers) + 50
                await eventually_async(lambda: len(load.answers), partial(lt, enough))

    assert load.failures == []
    assert set(load.answers) == {"1"}


async def test_an_open_connection_outlives_the_endpoint(folder: Path) -> None:
    """A pod that leaves the endpoints finishes what it has."""
    echo = (
        "import asyncio, os\n"
        "async def echo(reader, writer):\n"
        "    while line := await reader.readline():\n"
        "        writer.write(line); await writer.drain()\n"
        "async def main():\n"
        "    server = await asyncio.start_server(echo, os.environ['MODELYARD_HOST'], 8080)\n"
        "    await server.serve_forever()\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "asyncio.run(main())\n"
    )
    async with rig(folder, proxy=True) as world:
        world.store.put(service("web"))
        world.store.put(deployment("web", container(echo, probe=False), replicas=2, terminationGracePeriodSeconds=3))
        await eventually_async(lambda: world.rolled_out("web"))
        host, port = world.url("web")

        async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError:
                return None
            writer.write(b"hello\n")
            try:
                if await reader.readline() == b"hello\n":
                    return reader, writer
            except OSError:  # neither pod listens yet
                pass
            writer.close()
            return None

        connections: list[Any] = []
        while len(connections) < 4:  # one to each pod at least: they are taken in turn
            if (connection := await connected()) is not None:
                connections.append(connection)
            await asyncio.sleep(0.02)
        world.store.put(deployment("web", container(echo, probe=False), replicas=1, terminationGracePeriodSeconds=3))
        await eventually_async(lambda: len(world.ready("web")) == 1)
        answers = []
        for number, (reader, writer) in enumerate(connections):
            writer.write(b"%d\n" % number)
            answers.append(await reader.readline())
            writer.close()

    assert answers == [b"0\n", b"1\n", b"2\n", b"3\n"]


async def test_a_deleted_service_stops_answering_and_comes_back_on_its_address(folder: Path) -> None:
    """And another one, that came later, has another."""
    async with rig(folder, proxy=True) as world:
        for name in ("web", "other"):
            world.store.put(service(name))
            world.store.put(deployment(name, container(VERSION=name)))
        await eventually_async(lambda: world.rolled_out("web") and world.rolled_out("other"))

        async def asked(name: str) -> bytes | None:
            try:
                return (await http_get(*world.url(name), "/"))[1]
            except aiohttp.ClientError:
                return None

        await eventually_async(lambda: asked("web"), lambda answer: answer == b"web")
        await eventually_async(lambda: asked("other"), lambda answer: answer == b"other")
        address = world.url("web")
        world.store.remove(Key("Service", "default", "web"))
        await eventually_async(lambda: asked("web"), lambda answer: answer is None)
        world.store.put(service("web"))
        await eventually_async(lambda: asked("web"), lambda answer: answer == b"web")

    assert world.url("web") == address != world.url("other")
