"""Brings each version of the configuration into Envoy, in an order that leaves no request without a cluster.

Clusters first, then the routes that lead to them; a cluster that goes is kept until no route leads to it any more.
Each step waits for Envoy's word, because a file that Envoy refuses changes nothing and says so only in its statistics.
What was refused is taken back, so that an Envoy that restarts comes up with what worked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.contract import RouterFile

from modelyard_router.admin import Admin, Taken
from modelyard_router.errors import ConfigError, EnvoyRefused, EnvoySlow, EnvoyUnreachable
from modelyard_router.files import (
    RouterFiles,
    RunFolder,
    change_mark,
    cluster_names,
    fill_in,
    read_config,
    routed_clusters,
)

__all__ = ["Applied", "Applier", "Timing"]

_log = logging.getLogger(__name__)
_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """How often to look, and how long to wait; seconds."""

    poll: float = 0.1
    """Between two looks at the config folder."""

    ask: float = 0.02
    """Between two questions to Envoy while it takes up a file."""

    verify: float = 1.0
    """Between two checks that Envoy still has what it took up."""

    patience: float = 15.0
    """For Envoy to take up a file; for new clusters, until their first DNS answer and health checks."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The version that Envoy works by now (None: not known, or none yet), and what is wrong with a newer one."""

    version: str | None = None
    error: str | None = None


class Applier:
    """Follows the config folder and keeps Envoy at what stands there."""

    def __init__(
        self,
        config: Path,
        run: RunFolder,
        admin: Admin,
        *,
        placeholders: Mapping[str, str],
        resolver: str | None,
        timing: Timing,
    ) -> None:
        self._config = config
        self._run = run
        self._admin = admin
        self._placeholders = placeholders
        self._resolver = resolver
        self._timing = timing
        self._refusal: str | None = None  # what is wrong with the newest version, as long as nothing newer came
        self._doubt: str | None = None  # what was wrong with the folder at the last look, if anything
        self.applied = Applied()
        self.started = asyncio.Event()
        """Set once Envoy's files are there, so that it may be started."""

    async def follow(self) -> None:
        """Apply what the config folder holds, and each change of it, until cancelled."""
        current: RouterFiles | None = None  # what Envoy has, or is to have as soon as it runs
        seen: object = None
        clock = asyncio.get_running_loop().time
        verified = clock()
        while True:
            mark = change_mark(self._config)
            if mark != seen:
                current, done = await self._take_up(current)
                seen = mark if done else None
                verified = clock()
            elif current and (self.applied.version != current.version or clock() - verified >= self._timing.verify):
                await self._verify(current)
                verified = clock()
            await asyncio.sleep(self._timing.poll)

    async def _take_up(self, current: RouterFiles | None) -> tuple[RouterFiles | None, bool]:
        """Apply what the folder holds; return what Envoy is to have from now on, and whether that was all."""
        try:
            read = read_config(self._config)
            bootstrap = fill_in(read.bootstrap, self._placeholders, self._resolver)
        except ConfigError as error:
            # At the first look it may just be half written.
            if str(error) == self._doubt:
                self._refusal = str(error)
                self._report(self.applied.version, self._refusal)
            self._doubt = str(error)
            return current, False
        self._doubt = None
        files = RouterFiles(read.version, bootstrap, read.cds, read.rds)
        try:
            await self._apply(files)
        except EnvoyUnreachable as error:
            self._write_all(files)
            self._refusal = None
            self._report(None, str(error))
        except EnvoySlow as error:
            self._report(self.applied.version, str(error))
            return current, False
        except EnvoyRefused as error:
            self._refusal = str(error)
            good = self._run.remembered(files.bootstrap)
            if good is not None:
                self._write_all(good)
            self._report(self.applied.version, self._refusal)
            return good or current, True
        else:
            self._refusal = None
            self._run.remember(files)
            self._report(files.version, None)
        finally:
            self.started.set()
        return files, True

    async def _apply(self, files: RouterFiles) -> None:
        """Bring the files into a running Envoy. Raises EnvoyRefused, EnvoySlow, EnvoyUnreachable."""
        self._run.write(RouterFile.BOOTSTRAP, files.bootstrap)
        before = await self._admin.taken()
        old_cds, old_rds = self._run.read(RouterFile.CDS), self._run.read(RouterFile.RDS)
        leaving = routed_clusters(old_rds) - cluster_names(files.cds) if old_rds else set()
        if leaving and old_cds:
            kept = [cluster for cluster in old_cds["resources"] if cluster["name"] in leaving]
            union = {"version_info": f"{files.version}+", "resources": files.cds["resources"] + kept}
            await self._put(RouterFile.CDS, union, before)
        else:
            await self._put(RouterFile.CDS, files.cds, before)
        await self._put(RouterFile.RDS, files.rds, before)
        await self._put(RouterFile.CDS, files.cds, before)

    async def _put(self, file: RouterFile, content: _Json, before: Taken) -> None:
        """Write one file and wait until Envoy works by it. Raises EnvoyRefused, EnvoySlow, EnvoyUnreachable."""
        version = content["version_info"]
        self._run.write(file, content)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timing.patience
        while True:
            taken = await self._admin.taken()
            _raise_if_refused(file, version, taken, before)
            if (taken.clusters if file is RouterFile.CDS else taken.routes) == version and not taken.warming:
                return
            if clock() > deadline:
                waits = "its clusters wait for DNS and health checks" if taken.warming else "see the log of Envoy"
                raise EnvoySlow(f"Envoy has not taken up {file} of version {version} yet: {waits}")
            await asyncio.sleep(self._timing.ask)

    async def _verify(self, current: RouterFiles) -> None:
        """See whether Envoy has what it is to have: after its start, and again and again, as it may be restarted."""
        try:
            taken = await self._admin.taken()
        except EnvoyUnreachable as error:
            self._report(None, self._refusal or str(error))
            return
        if (taken.clusters, taken.routes) == (current.version, current.version):
            if self.applied.version is None:
                self._run.remember(current)
                self._report(current.version, self._refusal)
            return
        try:
            for file in (RouterFile.CDS, RouterFile.RDS):
                _raise_if_refused(file, current.version, taken, Taken("", "", 0, 0, 0))
        except EnvoyRefused as error:
            self._report(None, str(error))

    def _write_all(self, files: RouterFiles) -> None:
        """Write the files without waiting, for an Envoy that does not run, or that has them already."""
        self._run.write(RouterFile.BOOTSTRAP, files.bootstrap)
        self._run.write(RouterFile.CDS, files.cds)
        self._run.write(RouterFile.RDS, files.rds)

    def _report(self, version: str | None, error: str | None) -> None:
        applied = Applied(version, error)
        if applied != self.applied:
            self.applied = applied
            _log.log(logging.WARNING if error else logging.INFO, "applied version %s, error: %s", version, error)


def _raise_if_refused(file: RouterFile, version: str, taken: Taken, before: Taken) -> None:
    refused = (
        taken.clusters_refused > before.clusters_refused
        if file is RouterFile.CDS
        else taken.routes_refused > before.routes_refused
    )
    if refused:
        kept = taken.clusters if file is RouterFile.CDS else taken.routes
        raise EnvoyRefused(
            f"Envoy rejected {file} of version {version} and works on by version {kept or 'none'}: "
            "its log says which field is wrong"
        )
