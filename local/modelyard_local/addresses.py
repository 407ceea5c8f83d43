"""Loopback addresses: 127.0.N.y for pods and 127.0.N+1.y for Services, N being this installation's own.

Linux takes every address of 127.0.0.0/8 for its own, so that a pod's ports can stay as rendered. Two installations on
one machine must not share addresses: each holds an abstract socket named after its N, which the kernel lets go of with
the process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from modelyard_local.database import Database
from modelyard_local.errors import LocalError, NoAddress

__all__ = ["AddressBlock", "PodAddresses", "ServiceAddresses", "can_bind", "check_ports"]

_BLOCKS = range(2, 254, 2)
_HOSTS = range(1, 254)  # .254 is the installation's own: DNS, and trials of ports


class AddressBlock:
    """The two /24 networks of one installation."""

    def __init__(self, number: int, claim: socket.socket) -> None:
        self.number = number
        self._claim = claim

    @classmethod
    def claim(cls, preferred: int | None) -> AddressBlock:
        """Return the preferred block, or a free one when another installation has it."""
        candidates = list(_BLOCKS)
        if preferred in candidates:
            candidates.insert(0, preferred)
        for number in candidates:
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                holder.bind(f"\0modelyard-local-127.0.{number}")
            except OSError:
                holder.close()
            else:
                return cls(number, holder)
        raise NoAddress(f"{len(_BLOCKS)} installations run on this machine already: stop one")

    def release(self) -> None:
        """Let another installation have the block."""
        self._claim.close()

    def pod(self, host: int) -> str:
        """Return the address of a pod."""
        return f"127.0.{self.number}.{host}"

    def service(self, host: int) -> str:
        """Return the address of a Service."""
        return f"127.0.{self.number + 1}.{host}"

    @property
    def own(self) -> str:
        """The address that no pod and no Service gets."""
        return self.service(254)


class PodAddresses:
    """Hands out the addresses of pods, the longest unused first: a client's stale connection meets nobody."""

    def __init__(self, block: AddressBlock) -> None:
        self._block = block
        self._free = [block.pod(host) for host in _HOSTS]

    def take(self) -> str:
        """Return an address that no pod has. Raises NoAddress."""
        if not self._free:
            raise NoAddress(f"all {len(_HOSTS)} pod addresses are in use: ask for fewer replicas")
        return self._free.pop(0)

    def give_back(self, address: str) -> None:
        """Let another pod have the address, in time."""
        self._free.append(address)


class ServiceAddresses:
    """Gives each Service its address, the same after every restart."""

    def __init__(self, block: AddressBlock, database: Database, in_use: Callable[[str, str], bool]) -> None:
        self._block = block
        self._database = database
        self._in_use = in_use
        self._hosts = database.addresses()

    def of(self, namespace: str, service: str) -> str:
        """Return the address of a Service, whether it exists yet or not. Raises NoAddress."""
        host = self._hosts.get((namespace, service))
        if host is None:
            host = self._unused()
            self._hosts = {key: value for key, value in self._hosts.items() if value != host}
            self._hosts[namespace, service] = host
            self._database.save_address(namespace, service, host)
        return self._block.service(host)

    def _unused(self) -> int:
        given = set(self._hosts.values())
        for host in _HOSTS:
            if host not in given:
                return host
        for (namespace, service), host in self._hosts.items():
            if not self._in_use(namespace, service):
                return host
        raise NoAddress(f"all {len(_HOSTS)} Service addresses are in use: delete something")


def can_bind(address: str, port: int) -> bool:
    """Return whether this process may listen there: a right, and nobody on all addresses at this port."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)
        except OSError:
            return False
    return True


def check_ports(address: str, ports: tuple[int, ...]) -> None:
    """Raise LocalError when somebody listens on every address at a port that pods need."""
    for port in ports:
        if not can_bind(address, port):
            raise LocalError(
                f"port {port} is taken on every address of this machine, and pods need it on their own 127.0.x.y: "
                f"stop what listens there (`ss -ltnp sport = :{port}` names it)"
            )
