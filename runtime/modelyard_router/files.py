"""Envoy's files: read from the config folder, filled in for this pod, written where Envoy watches.

The config folder is a ConfigMap volume, which the kubelet replaces as a whole by swapping the symlink `..data`, or a
plain folder. Either way a set of files counts only if all of it carries the same version: so half of an update is never
applied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.contract import RouterFile

from modelyard_router.errors import ConfigError

__all__ = ["RouterFiles", "RunFolder", "change_mark", "cluster_names", "fill_in", "read_config", "routed_clusters"]

_DATA = "..data"  # the kubelet's symlink to the current generation of a volume
_Json = dict[str, Any]


@dataclass(frozen=True)
class RouterFiles:
    """One version of Envoy's configuration, as parsed JSON."""

    version: str
    bootstrap: _Json
    cds: _Json
    rds: _Json


def change_mark(folder: Path) -> object:
    """Return a value that is another one after every change of the folder; cheap to ask for."""
    try:
        return os.readlink(folder / _DATA)
    except OSError:
        return tuple(_stat_mark(folder / file) for file in RouterFile)


def read_config(folder: Path) -> RouterFiles:
    """Read one whole version of the configuration.

    Raises:
        ConfigError: a file is missing or no JSON, the files are of different versions (perhaps being written: ask
            again), or a route leads to a cluster that does not exist.

    """
    # Resolved once: the kubelet may swap the link between two of these reads, but leaves what it pointed at as it was.
    base = Path(os.path.realpath(folder / _DATA)) if (folder / _DATA).is_symlink() else folder
    try:
        texts = {file: (base / file.value).read_text() for file in RouterFile if file is not RouterFile.BUCKETS}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the router's configuration: {error}") from error
    version = texts.pop(RouterFile.VERSION).strip()
    parsed = {file: _parsed(file, text) for file, text in texts.items()}
    for file in (RouterFile.CDS, RouterFile.RDS):
        if parsed[file].get("version_info") != version:
            raise ConfigError(
                f"{file} is of version {parsed[file].get('version_info')}, but the configuration {version}"
            )
    files = RouterFiles(version, parsed[RouterFile.BOOTSTRAP], parsed[RouterFile.CDS], parsed[RouterFile.RDS])
    try:
        unknown = routed_clusters(files.rds) - cluster_names(files.cds)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{RouterFile.CDS} and {RouterFile.RDS} are not of Envoy's form: {error!r}") from error
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ConfigError(f"{RouterFile.RDS} routes to clusters that {RouterFile.CDS} does not have: {names}")
    return files


def cluster_names(cds: _Json) -> set[str]:
    """Return the names of the clusters that a file defines."""
    return {str(cluster["name"]) for cluster in cds["resources"]}


def routed_clusters(rds: _Json) -> set[str]:
    """Return the names of the clusters that a route configuration sends requests to."""
    names: set[str] = set()
    for resource in rds["resources"]:
        for host in resource.get("virtual_hosts", []):
            for route in host.get("routes", []):
                action = route.get("route", {})
                names |= {action["cluster"]} if "cluster" in action else set()
                names |= {c["name"] for c in action.get("weighted_clusters", {}).get("clusters", [])}
    return names


def fill_in(bootstrap: _Json, values: Mapping[str, str], resolver: str | None) -> _Json:
    """Return the bootstrap with its placeholders replaced, and with the resolver that Envoy is to ask, if one is given.

    Args:
        bootstrap: the parsed file; left as it is.
        values: placeholder -> value, replaced inside every string.
        resolver: ADDRESS:PORT of a DNS server; None for those of the machine.

    Raises:
        ConfigError: the resolver is not ADDRESS:PORT.

    """
    filled: _Json = _replaced(bootstrap, values)
    if resolver:
        address, _, port = resolver.rpartition(":")
        if not address or not port.isdecimal():
            raise ConfigError(f"the resolver {resolver!r} is not ADDRESS:PORT")
        api = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3"
        socket_address = {"address": address.strip("[]"), "port_value": int(port)}
        filled["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": f"{api}.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": socket_address}],
                # Names are full ones: a search list of the machine would only multiply the questions.
                "dns_resolver_options": {"no_default_search_domain": True},
            },
        }
    return filled


class RunFolder:
    """The folder that Envoy and its sidecar share: bootstrap.json, cds/cds.json, rds/rds.json, admin.sock.

    Every file is renamed into place, and only if its content is another one: Envoy rereads at each rename.
    """

    _MAX_SOCKET_PATH = 107  # bytes, sun_path of Linux

    def __init__(self, path: Path) -> None:
        """Create the folders that Envoy watches.

        Raises:
            ConfigError: the path is too long for a socket in it.

        """
        self.path = path.absolute()
        self.admin_socket = self.path / "admin.sock"
        if len(os.fsencode(self.admin_socket)) > self._MAX_SOCKET_PATH:
            raise ConfigError(f"{self.admin_socket} is too long for a socket: use a run folder with a shorter path")
        for file in (RouterFile.CDS, RouterFile.RDS):
            self._place(file).parent.mkdir(parents=True, exist_ok=True)

    def read(self, file: RouterFile) -> _Json | None:
        """Return what Envoy has to read now; None before the first write."""
        try:
            return _parsed(file, self._place(file).read_text())
        except (OSError, ConfigError):
            return None

    def write(self, file: RouterFile, content: _Json) -> None:
        """Put a file in its place, at once and as a whole."""
        self._replace(self._place(file), content)

    def remember(self, files: RouterFiles) -> None:
        """Keep what Envoy has taken up, for the case that it refuses what comes next."""
        self._replace(self.path / "good.json", {"version": files.version, "cds": files.cds, "rds": files.rds})

    def remembered(self, bootstrap: _Json) -> RouterFiles | None:
        """Return the version that Envoy took up last, with the given bootstrap; None if there is none."""
        try:
            good = json.loads((self.path / "good.json").read_text())
            return RouterFiles(good["version"], bootstrap, good["cds"], good["rds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _place(self, file: RouterFile) -> Path:
        if file is RouterFile.BOOTSTRAP:
            return self.path / file.value
        return self.path / file.value.removesuffix(".json") / file.value

    def _replace(self, place: Path, content: _Json) -> None:
        data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        try:
            if place.read_bytes() == data:
                return
        except FileNotFoundError:
            pass
        # Not beside its place: there, the file's creation would be one more change for Envoy to look at.
        temporary = self.path / f".{place.name}.new"
        temporary.write_bytes(data)
        temporary.replace(place)


def _stat_mark(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _parsed(file: RouterFile, text: str) -> _Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} is not a JSON object")
    return value


def _replaced(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, values) for item in value]
    if isinstance(value, str):
        for placeholder, replacement in values.items():
            value = value.replace(placeholder, replacement)
    return value
