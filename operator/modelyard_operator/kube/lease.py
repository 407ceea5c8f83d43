"""The Lease by which one operator of an installation works while the others wait to take over.

As client-go's leader election: a holder that has not renewed for the Lease's duration, by the clock of who looks, is
gone (https://kubernetes.io/docs/concepts/architecture/leases/). Writes carry the resource version that was read, so
that of two who try at once one wins.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from modelyard_operator.kube.connection import Conflict, Connection, NotFound
from modelyard_operator.kube.paths import collection_path, path_of
from modelyard_operator.reconcile.verbs import ClusterError, Forbidden, Object

__all__ = ["LEASE_NAME", "Lease", "LeaseLost", "is_held"]

LEASE_NAME = "modelyard-operator"

_DURATION = 10
"""Seconds for which a renewal counts; with a try every two, another takes over within twelve."""
_RETRY = 2.0
_RETRY_SOON = 0.5
_GIVE_UP = 7.0
"""Seconds without a renewal after which the holder stops, before anybody else may begin."""

_SKEW = 20.0
"""Seconds by which two machines' clocks may differ."""

_log = logging.getLogger("modelyard.operator")


class LeaseLost(Exception):
    """Another may hold the Lease by now: this process must not write any more."""


async def is_held(connection: Connection, namespace: str) -> bool:
    """Return whether the operator of an installation renews its Lease; also true where that may not be read."""
    try:
        lease = await connection.request("GET", path_of("Lease", namespace, LEASE_NAME), verb="get", kind="Lease")
    except NotFound:
        return False
    except Forbidden:
        return True
    spec = lease.get("spec", {})
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return False
    since = datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])
    allowed: float = spec.get("leaseDurationSeconds", _DURATION) + _SKEW
    return since.total_seconds() < allowed


class Lease:
    """Takes and renews one Lease.

    Args:
        connection: to the API server.
        namespace: the installation's.
        identity: tells this process from every other.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._namespace, self._identity, self._clock = connection, namespace, identity, clock
        self._ours: Object | None = None  # as last written: the next renewal need not read it
        self._seen: tuple[Object, float] | None = None  # the last record of a holder, and since when it is the same

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        told = ""
        while True:
            try:
                holder = await self._try()
                if holder is None:
                    _log.info("holding Lease %s/%s as %s", self._namespace, LEASE_NAME, self._identity)
                    return
                message = f"{holder or 'another'} holds Lease {self._namespace}/{LEASE_NAME}: standing by"
            except ClusterError as error:
                message = f"Lease {self._namespace}/{LEASE_NAME}: {error}"
            if message != told:
                _log.warning("%s", message)
            told = message
            await asyncio.sleep(_RETRY)

    async def hold(self) -> None:
        """Renew until cancelled, and then give the Lease up.

        Raises:
            LeaseLost: it was not renewed in time, or another has it.
        """
        renewed = self._clock()
        holder: str | None = None
        try:
            while True:
                await asyncio.sleep(_RETRY if holder is None else _RETRY_SOON)
                try:
                    async with asyncio.timeout(_GIVE_UP - (self._clock() - renewed)):
                        holder = await self._try()
                except (ClusterError, TimeoutError) as error:
                    _log.warning("Lease %s/%s was not renewed: %s", self._namespace, LEASE_NAME, error)
                    holder = ""
                if holder is None:
                    renewed = self._clock()
                elif holder or self._clock() - renewed > _GIVE_UP - _RETRY:
                    raise LeaseLost(f"{holder or 'another'} may hold Lease {self._namespace}/{LEASE_NAME} by now")
        except asyncio.CancelledError:
            with suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(_RETRY):
                    await self._release()
            raise

    async def _try(self) -> str | None:
        """Take or renew the Lease; return None when it is ours, else who holds it, as far as that is known."""
        lease = self._ours or await self._read()
        if lease is None:
            body = {"metadata": {"name": LEASE_NAME, "namespace": self._namespace}, "spec": self._spec(None)}
            return await self._write("POST", collection_path("Lease", self._namespace), body)
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity):
            now = self._clock()
            if self._seen is None or self._seen[0] != spec:
                self._seen = (spec, now)
            if now - self._seen[1] < spec.get("leaseDurationSeconds", _DURATION):
                return str(holder)
        body = {**lease, "spec": self._spec(spec)}
        return await self._write("PUT", path_of("Lease", self._namespace, LEASE_NAME), body)

    async def _read(self) -> Object | None:
        path = path_of("Lease", self._namespace, LEASE_NAME)
        try:
            return await self._connection.request("GET", path, verb="get", kind="Lease")
        except NotFound:
            return None

    async def _write(self, method: str, path: str, body: Object) -> str | None:
        self._ours = None
        try:
            self._ours = await self._connection.request(method, path, verb="update", kind="Lease", body=body)
        except Conflict:
            return ""  # somebody was quicker, or an earlier try of ours that seemed to fail: the next look tells
        return None

    def _spec(self, before: Object | None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before is not None and before.get("holderIdentity") == self._identity
        acquired = before.get("acquireTime", now) if before is not None and mine else now
        transitions = 0 if before is None else before.get("leaseTransitions", 0) + (not mine)
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": _DURATION,
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _release(self) -> None:
        lease = await self._read()
        if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
            body = {**lease, "spec": {**lease["spec"], "holderIdentity": ""}}
            await self._write("PUT", path_of("Lease", self._namespace, LEASE_NAME), body)
