"""DNS answers, and which pods stand behind a Service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord
from modelyard_local.dns import DnsServer
from modelyard_local.endpoints import endpoints_of
from modelyard_local.objects import Key
from modelyard_local.store import Store
from unit.local.support import service
from unit.local.test_store import opened


def pod(name: str, address: str, *, ready: bool = True, leaving: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "labels": {"app": "web"}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "runtime", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_endpoints_are_the_ready_pods() -> None:
    """Not those that start or leave, as long as another one is ready."""
    pods = [pod("a", "127.0.2.1"), pod("b", "127.0.2.2", ready=False), pod("c", "127.0.2.3", leaving=True)]

    found = endpoints_of(service("web"), service("web")["spec"]["ports"][0], pods)

    assert found == [("127.0.2.1", 8080)]


def test_the_last_pod_serves_until_it_is_gone() -> None:
    """As under kube-proxy: terminating, but still ready."""
    pods = [pod("b", "127.0.2.2", ready=False), pod("c", "127.0.2.3", leaving=True)]

    found = endpoints_of(service("web"), service("web")["spec"]["ports"][0], pods)

    assert found == [("127.0.2.3", 8080)]


def fill(store: Store, *pods: dict[str, Any]) -> None:
    for entry in pods:
        live, _ = store.put(entry)
        store.put_status(Key("Pod", "default", entry["metadata"]["name"]), live["metadata"]["uid"], entry["status"])


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[tuple[Store, DnsServer]]:
    with opened(folder) as store:
        store.give_addresses(lambda _namespace, _name: "127.0.3.7")
        server = DnsServer(store, "127.0.0.1", "cluster.local")
        await server.start()
        store.put(service("web"))
        store.put(service("web", headless=True))
        yield store, server
        await server.stop()


async def ask(server: DnsServer, name: str, kind: str = "A", *, tcp: bool = False) -> Any:
    question = DNSRecord.question(name, kind)
    question.add_ar(EDNS0(udp_len=1232))
    host, port = server.address.split(":")
    answer = await asyncio.to_thread(question.send, host, int(port), tcp=tcp, timeout=30)
    return DNSRecord.parse(answer)


def addresses(answer: Any) -> list[str]:
    return sorted(str(record.rdata) for record in answer.rr)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_headless_service_is_its_ready_pods(world: tuple[Store, DnsServer], tcp: bool) -> None:
    """Those that start or leave are not in the answer, which may not be kept."""
    store, server = world
    leaving = pod("c", "127.0.2.3")
    fill(store, pod("a", "127.0.2.1"), pod("b", "127.0.2.2", ready=False), leaving, pod("d", "127.0.2.4"))
    store.remove(Key("Pod", "default", "c"))

    answer = await ask(server, "web-pods.default.svc.cluster.local", tcp=tcp)

    assert addresses(answer) == ["127.0.2.1", "127.0.2.4"]
    assert {record.ttl for record in answer.rr} == {0}


async def test_a_service_is_its_own_address(world: tuple[Store, DnsServer]) -> None:
    """By its short name, its full name, with a final dot and in any case."""
    _, server = world
    names = ("web.default.svc", "web.default.svc.cluster.local", "web.default.svc.cluster.local.", "Web.Default.SVC")

    answers = [addresses(await ask(server, name)) for name in names]

    assert answers == [["127.0.3.7"]] * 4


async def test_nothing_is_told_apart_from_no_such_name(world: tuple[Store, DnsServer]) -> None:
    """A Service without pods exists; so does one without IPv6; names of the outside are not ours to answer."""
    _, server = world

    empty = await ask(server, "web-pods.default.svc.cluster.local")
    six = await ask(server, "web.default.svc.cluster.local", "AAAA")
    missing = await ask(server, "nothing.default.svc.cluster.local")
    outside = await ask(server, "example.com")

    assert [answer.header.rcode for answer in (empty, six, missing, outside)] == [
        RCODE.NOERROR,
        RCODE.NOERROR,
        RCODE.NXDOMAIN,
        RCODE.REFUSED,
    ]
    assert not any(answer.rr for answer in (empty, six, missing, outside))


async def test_many_pods_fit_over_tcp_and_say_so_over_udp(world: tuple[Store, DnsServer]) -> None:
    """The answer over UDP is marked as cut short."""
    store, server = world
    fill(store, *(pod(f"p{number}", f"127.0.2.{number}") for number in range(1, 60)))

    short = await ask(server, "web-pods.default.svc.cluster.local")
    whole = await ask(server, "web-pods.default.svc.cluster.local", tcp=True)

    assert short.header.tc == 1
    assert len([record for record in whole.rr if record.rtype == QTYPE.A]) == 59


async def test_rubbish_is_dropped(world: tuple[Store, DnsServer]) -> None:
    """And the server goes on."""
    _, server = world
    host, port = server.address.split(":")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=(host, int(port))
    )
    for rubbish in (b"", b"\0", b"\xff" * 600):
        transport.sendto(rubbish)
    transport.close()

    assert addresses(await ask(server, "web.default.svc")) == ["127.0.3.7"]
