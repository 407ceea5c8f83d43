"""Unpack .tar.gz, .tgz and .zip: files and folders only, nothing outside the target, no more bytes than allowed."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from modelyard_runtime.artifacts.copy import Budget, stream_to_file
from modelyard_runtime.artifacts.paths import safe_path
from modelyard_runtime.errors import LoadFailed, UnsafeArtifact

__all__ = ["is_archive", "unpack", "unpack_layer"]

_SUFFIXES = (".tar.gz", ".tgz", ".zip")
_CHUNK = 1024 * 1024
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, target: Path, budget: Budget) -> None:
    """Unpack `archive` into the folder `target` (which must exist).

    Permissions, owners and times of the archive are ignored. Raises UnsafeArtifact for a path that leaves the target,
    a link or a special file, LoadFailed for a damaged archive or one over the budget.
    """
    with _explained(archive.name):
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, target, budget)
        else:
            _unpack_tar(archive, target, budget)


def unpack_layer(layer: Path, target: Path, budget: Budget, *, name: str, below: str = "") -> None:
    """Unpack a tar (plain or compressed) that `name` holds into the folder `target`, over what is there.

    `below`: a folder of the tar; only what it holds is taken, without that folder in its path, and deletions that a
    container image's layer notes there (`.wh.`) are done. Raises as `unpack` does.
    """
    with _explained(name), tarfile.open(layer, mode="r|*") as tar:
        for count, member in enumerate(tar):
            inside = PurePosixPath(member.name)
            if below and (inside.parts[:1] != (below,) or len(inside.parts) == 1):
                continue
            path = safe_path(name, str(inside.relative_to(below)) if below else member.name, count)
            if below and path.name.startswith(_WHITEOUT):
                _white_out(target / path)
            elif member.isdir():
                (target / path).mkdir(parents=True, exist_ok=True)
            elif member.isreg() and (file := tar.extractfile(member)) is not None:
                if below:
                    (target / path).unlink(missing_ok=True)
                _write(file, target / path, budget)
            else:
                raise UnsafeArtifact(f"{name} holds {member.name!r}, a link or special file; pack plain files only")


def _white_out(mark: Path) -> None:
    """Remove what an earlier layer put there: one entry, or all of a folder's (the OCI image layer specification)."""
    if mark.name == _OPAQUE:
        gone = list(mark.parent.iterdir()) if mark.parent.is_dir() else []
    else:
        gone = [mark.with_name(mark.name.removeprefix(_WHITEOUT))]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what goes wrong with an archive into LoadFailed."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        if isinstance(exc, LoadFailed):
            raise
        # RuntimeError and NotImplementedError are zipfile's words for encrypted and exotically packed members.
        raise LoadFailed(f"{name} can't be unpacked ({exc}); pack and upload it again") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise LoadFailed(f"{name} holds the same path twice; pack it again") from None
    except OSError as exc:
        if exc.errno is not None and not isinstance(exc, tarfile.ReadError) and exc.errno != 0:
            raise
        raise LoadFailed(f"{name} can't be unpacked ({exc}); pack and upload it again") from None


def _unpack_tar(archive: Path, target: Path, budget: Budget) -> None:
    with gzip.open(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        for count, member in enumerate(tar):
            path = safe_path(archive.name, member.name, count)
            if member.isdir():
                (target / path).mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                file = tar.extractfile(member)
                if file is not None:
                    _write(file, target / path, budget)
            else:
                raise UnsafeArtifact(
                    f"{archive.name} holds {member.name!r}, a link or special file; pack plain files only"
                )
        # tarfile stops at the end marker; the checksum, which tells a truncated archive, comes after it.
        while rest := plain.read(_CHUNK):
            budget.take(len(rest))


def _unpack_zip(archive: Path, target: Path, budget: Budget) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for count, info in enumerate(bundle.infolist()):
            path = safe_path(archive.name, info.filename, count)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                (target / path).mkdir(parents=True, exist_ok=True)
            elif kind in (0, stat.S_IFREG):
                with bundle.open(info) as file:
                    _write(file, target / path, budget)
            else:
                raise UnsafeArtifact(
                    f"{archive.name} holds {info.filename!r}, a link or special file; pack plain files only"
                )


def _write(file: IO[bytes], path: Path, budget: Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks: Iterator[bytes] = iter(lambda: file.read(_CHUNK), b"")
    stream_to_file(chunks, path, budget)
