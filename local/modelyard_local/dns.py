"""The names of Services, answered as CoreDNS does: a Service's own address, or the pods of a headless one.

On an unprivileged port of a loopback address; Envoy in router pods asks here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

from modelyard_local.endpoints import is_headless, ready_addresses
from modelyard_local.errors import LocalError
from modelyard_local.objects import Key
from modelyard_local.store import Store

__all__ = ["DnsServer", "resolve"]

_TTL_SECONDS = 0  # a cached answer would outlive a pod
_UDP_BYTES = 512
_TRIES = 20


def resolve(store: Store, name: str, domain: str) -> list[str] | None:
    """Return the addresses behind `SERVICE.NAMESPACE.svc[.DOMAIN]`; None for a name that does not exist."""
    words = name.rstrip(".").lower().removesuffix(f".{domain}").split(".")
    if len(words) != 3 or words[2] != "svc":
        return None
    service = store.find(Key("Service", words[1], words[0]))
    if service is None:
        return None
    if is_headless(service):
        return ready_addresses(service, store.select("Pod", words[1]))
    return [service["spec"]["clusterIP"]]


class DnsServer:
    """Answers over UDP and TCP."""

    def __init__(self, store: Store, address: str, domain: str) -> None:
        self._store, self._host, self._domain = store, address, domain
        self._port = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """ADDRESS:PORT, once started."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen on a free port, the same for both transports. Raises LocalError."""
        loop = asyncio.get_running_loop()
        for _ in range(_TRIES):
            udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._reply), local_addr=(self._host, 0))
            port = int(udp.get_extra_info("sockname")[1])
            try:
                self._tcp = await asyncio.start_server(self._serve_stream, self._host, port)
            except OSError:
                udp.close()
                continue
            self._udp, self._port = udp, port
            return
        raise LocalError(f"no port of {self._host} is free for the DNS")

    async def stop(self) -> None:
        """Stop listening."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5.0):
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = self._reply(await reader.readexactly(size), 65535)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _reply(self, question: bytes, limit: int = _UDP_BYTES) -> bytes:
        try:
            query = DNSRecord.parse(question)
        except (DNSError, UnicodeDecodeError, IndexError):
            return b""
        reply = query.reply()
        name = str(query.q.qname)
        addresses = resolve(self._store, name, self._domain)
        if addresses is None:
            ours = name.rstrip(".").lower().endswith((".svc", f".{self._domain}"))
            reply.header.rcode = RCODE.NXDOMAIN if ours else RCODE.REFUSED
        elif query.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in addresses:
                reply.add_answer(RR(query.q.qname, QTYPE.A, ttl=_TTL_SECONDS, rdata=A(address)))
        packed: bytes = reply.pack()
        return bytes(packed if len(packed) <= limit else reply.truncate().pack())


class _Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        # Not isinstance: Python 3.11's own transport for datagrams is not a DatagramTransport.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question; a datagram that is none is dropped."""
        answer = self._reply(data)
        if answer:
            self._transport.sendto(answer, addr)
