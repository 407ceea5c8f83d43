"""Images without a registry: a Debian base made once and cached, and ours built upon it with buildah."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from .archive import write_image
from .errors import MissingPrerequisite
from .packages import IMAGE_PACKAGES, require
from .paths import cache_root
from .run import Report, run, say

__all__ = ["BASE_IMAGE", "base_image", "build_image"]

BASE_IMAGE: Final = "localhost/modelyard-base:bookworm"
"""Stands in for python:3.11-slim: Debian 12 with `python` and `pip` of a 3.11 in /usr/local/bin."""

_SUITE: Final = "bookworm"
_INCLUDE: Final = "python3,python3-venv,ca-certificates"

# Debian's own pip refuses to install beside Debian's packages; one in a virtual environment at /usr/local does as the
# official Python images do.
_FINISH: Final = """\
set -e
python3 -m venv /usr/local
ln -sf python3 /usr/local/bin/python
rm -rf /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /var/cache/apt /var/lib/apt/lists /var/log
rm -rf /etc/resolv.conf /etc/hostname
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/log
"""

_CA_PLACES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def base_image(*, env: Mapping[str, str] | None = None, report: Report = say) -> Path:
    """Return the archive of BASE_IMAGE, made with debootstrap the first time (a minute); takes root.

    MODELYARD_DEBIAN_MIRROR names another mirror than debootstrap's own.
    """
    env = os.environ if env is None else env
    key = hashlib.sha256(f"{_SUITE} {_INCLUDE} {_FINISH} {platform.machine()}".encode()).hexdigest()[:12]
    folder = cache_root(env) / "images"
    archive = folder / f"base-{_SUITE}-{key}.tar"
    if archive.exists():
        return archive
    _require_root()
    with _lock(folder, report):
        if not archive.exists():
            begun = time.monotonic()
            report(f"making the base image {archive} with debootstrap: about a minute, once")
            with tempfile.TemporaryDirectory(dir=folder, prefix="base-") as scratch:
                _bootstrap(Path(scratch), archive, env)
            report(f"  base image: made in {time.monotonic() - begun:.0f} s, {archive.stat().st_size >> 20} MiB")
    return archive


def _bootstrap(scratch: Path, archive: Path, env: Mapping[str, str]) -> None:
    root, layer = scratch / "root", scratch / "layer.tar"
    mirror = [env["MODELYARD_DEBIAN_MIRROR"]] if env.get("MODELYARD_DEBIAN_MIRROR") else []
    # In a mount namespace of its own, what debootstrap mounts in the tree cannot be left behind.
    alone = ("unshare", "--mount", "--propagation=private", "--")
    run(
        *alone, "debootstrap", "--variant=minbase", f"--include={_INCLUDE}", _SUITE, root, *mirror,
        env=env, timeout=900,
    )  # fmt: skip
    inside = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    run(*alone, "chroot", root, "/bin/sh", "-c", _FINISH, env=inside, timeout=120)
    run(
        "tar",
        "--create",
        "--file",
        layer,
        "--directory",
        root,
        "--numeric-owner",
        "--one-file-system",
        ".",
        timeout=300,
    )
    write_image(archive, BASE_IMAGE, layer, machine=platform.machine(), command=["python3"])


def build_image(
    recipe: Path,
    tag: str,
    context: Path,
    *,
    build_args: Mapping[str, str] | None = None,
    volumes: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    report: Report = say,
) -> Path:
    """Build an image with buildah and return its archive; takes root.

    Unchanged layers come from the cache. The machine's pip configuration and CA bundle are mounted for `RUN` steps, so
    that pip reaches its index as it does here; they are no part of the image.

    Args:
        recipe: a Containerfile.
        tag: such as localhost/modelyard-runtime:test; also how a later recipe's FROM finds it.
        context: the folder that COPY takes from.
        build_args: for the recipe's ARGs, such as {"BASE_IMAGE": BASE_IMAGE}.
        volumes: more read-only mounts for `RUN` steps, as HOST:CONTAINER.

    Raises:
        CommandFailed: with buildah's output.
    """
    env = os.environ if env is None else env
    base = base_image(env=env, report=report)
    _require_root()
    folder = cache_root(env) / "images"
    archive = folder / f"{tag.replace('/', '_').replace(':', '_')}.tar"
    begun = time.monotonic()
    report(f"building {tag} from {recipe}")
    with _lock(folder, report), tempfile.TemporaryDirectory(prefix="modelyard-build-") as scratch:
        buildah = _buildah(folder, Path(scratch))
        _load_base(buildah, base, folder)
        mounts = [*_pip_mounts(Path(scratch), env), *(f"{volume}:ro" for volume in volumes)]
        run(
            *buildah, "bud", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never",
            *(f"--volume={mount}" for mount in mounts),
            *(f"--build-arg={key}={value}" for key, value in (build_args or {}).items()),
            "--file", recipe.absolute(), "--tag", tag, context.absolute(),
            env=env, timeout=1800,
        )  # fmt: skip
        new = Path(scratch) / "image.tar"
        run(*buildah, "push", tag, f"docker-archive:{new}:{tag}", env=env, timeout=600)
        run("mv", new, archive)
    report(f"  {tag}: built in {time.monotonic() - begun:.0f} s, {archive.stat().st_size >> 20} MiB")
    return archive


def _require_root() -> None:
    require(IMAGE_PACKAGES)
    if os.geteuid() != 0:
        raise MissingPrerequisite("building images takes root here: run this with sudo")


def _buildah(folder: Path, scratch: Path) -> list[str]:
    """Return the command line of a buildah that keeps to our cache and leaves no mount behind."""
    policy = scratch / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return [
        "unshare", "--mount", "--propagation=private", "--",
        "buildah", "--root", str(folder / "storage"), "--runroot", str(scratch / "run"), "--storage-driver", "overlay",
        "--signature-policy", str(policy),
    ]  # fmt: skip


def _load_base(buildah: list[str], base: Path, folder: Path) -> None:
    loaded = folder / "storage" / "modelyard-base"
    if not loaded.exists() or loaded.read_text() != base.name:
        run(*buildah, "pull", f"docker-archive:{base}", timeout=300)
        loaded.write_text(base.name)


def _pip_mounts(scratch: Path, env: Mapping[str, str]) -> list[str]:
    """Return mounts that make pip in a `RUN` step behave as it does on this machine.

    Environment variables would end in the image's history; a file that is mounted does not.
    """
    settings = configparser.RawConfigParser()
    home = Path(env.get("HOME", "/root"))
    config_home = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    settings.read([Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"])
    if env.get("PIP_CONFIG_FILE"):
        settings.read(env["PIP_CONFIG_FILE"])
    if not settings.has_section("global"):
        settings.add_section("global")
    for name, value in env.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            settings.set("global", name.removeprefix("PIP_").lower().replace("_", "-"), value)
    mounts = []
    named = [settings.get("global", "cert", fallback=None), env.get("SSL_CERT_FILE"), *_CA_PLACES]
    bundle = next((place for place in named if place and Path(place).is_file()), None)
    if bundle:
        # Over Debian's own bundle, for whatever else a step fetches.
        mounts.append(f"{bundle}:{_CA_PLACES[0]}:ro")
        settings.set("global", "cert", _CA_PLACES[0])
    links = settings.get("global", "find-links", fallback="").split()
    mounts += [f"{place}:{place}:ro" for place in links if Path(place).is_dir()]
    settings.set("global", "disable-pip-version-check", "1")
    settings.set("global", "root-user-action", "ignore")
    written = scratch / "pip.conf"
    with written.open("w") as file:
        settings.write(file)
    mounts.append(f"{written}:/etc/pip.conf:ro")
    return mounts


@contextlib.contextmanager
def _lock(folder: Path, report: Report) -> Iterator[None]:
    """One builder at a time: they share a store."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another run builds images in {folder}: waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
