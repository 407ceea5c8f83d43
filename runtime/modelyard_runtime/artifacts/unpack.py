"""Unpack .tar.gz, .tgz and .zip: files and folders only, nothing outside the target, no more bytes than allowed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from modelyard_runtime.artifacts.copy import Budget, stream_to_file
from modelyard_runtime.artifacts.paths import safe_path
from modelyard_runtime.errors import LoadFailed, StartupFailure, UnsafeArtifact

__all__ = ["is_archive", "unpack", "unpack_layer"]

_SUFFIXES = (".tar.gz", ".tgz", ".zip")
_CHUNK = 1024 * 1024
_MAX_HEADER_BYTES = 2 * 1024 * 1024
"""What a tar may have between one file's data and the next one's: names, attributes and padding."""
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
    added: set[Path] = set()
    with _explained(name), _plain(layer) as plain:
        for count, (tar, member) in enumerate(_members(name, plain)):
            inside = PurePosixPath(member.name)
            if below and (inside.parts[:1] != (below,) or len(inside.parts) == 1):
                continue
            path = safe_path(name, str(inside.relative_to(below)) if below else member.name, count)
            if below and path.name.startswith(_WHITEOUT):
                _white_out(target / path, added)
            elif member.isdir():
                (target / path).mkdir(parents=True, exist_ok=True)
            elif member.isreg() and (file := tar.extractfile(member)) is not None:
                if below:
                    (target / path).unlink(missing_ok=True)
                _write(file, target / path, budget)
                added.add(target / path)
            else:
                raise UnsafeArtifact(f"{name} holds {member.name!r}, a link or special file; pack plain files only")


def _white_out(mark: Path, added: Set[Path]) -> None:
    """Remove what earlier layers put there: one entry, or all of a folder's (the OCI image layer specification).

    The files that this layer `added` stay: a mark may come after them, and speaks of lower layers only.
    """
    if mark.name == _OPAQUE:
        gone = list(mark.parent.iterdir()) if mark.parent.is_dir() else []
    else:
        gone = [mark.with_name(mark.name.removeprefix(_WHITEOUT))]
    for path in gone:
        below = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []  # what a folder holds before itself
        for entry in (*below, path):
            if entry.is_dir():
                with suppress(OSError):  # a file that this layer added is in it
                    entry.rmdir()
            elif entry not in added:
                entry.unlink(missing_ok=True)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what goes wrong with an archive into LoadFailed."""
    try:
        yield
    except StartupFailure:
        raise
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
        # What zipfile says of encrypted and exotically packed members; what both say of headers that lie.
        *(NotImplementedError, RuntimeError, ValueError, ArithmeticError, LookupError),
    ) as exc:
        raise LoadFailed(f"{name} can't be unpacked ({exc}); pack and upload it again") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise LoadFailed(f"{name} holds the same path twice; pack it again") from None
    except OSError as exc:
        if exc.errno is not None and not isinstance(exc, tarfile.ReadError) and exc.errno != 0:
            raise
        raise LoadFailed(f"{name} can't be unpacked ({exc}); pack and upload it again") from None


def _plain(archive: Path) -> BufferedIOBase:
    """Open a tar that may be compressed in one of the ways that tarfile knows."""
    with archive.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(archive)
    if start.startswith(b"BZh"):
        return bz2.open(archive)
    return lzma.open(archive) if start == b"\xfd7zXZ\0" else archive.open("rb")


class _Headers:
    """The bytes of a tar, read for no more than `left` of them.

    tarfile keeps in memory what a header announces, which a small archive can make as large as it likes.
    """

    def __init__(self, name: str, plain: BufferedIOBase) -> None:
        self._name = name
        self._plain = plain
        self.left = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._plain.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise LoadFailed(f"{self._name} holds a header of more than {_MAX_HEADER_BYTES} bytes; pack it again")
        return data


def _members(name: str, plain: BufferedIOBase) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Give the members of a tar one by one; the data of each has to be read before the next, if at all."""
    headers = _Headers(name, plain)
    file: Any = headers  # typeshed asks for more of a stream than tarfile does
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if member.issparse():
                raise LoadFailed(f"{name} holds {member.name!r} as a sparse file; pack it without --sparse")
            headers.left = member.size + _MAX_HEADER_BYTES
            yield tar, member


def _unpack_tar(archive: Path, target: Path, budget: Budget) -> None:
    with gzip.open(archive) as plain:
        for count, (tar, member) in enumerate(_members(archive.name, plain)):
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
