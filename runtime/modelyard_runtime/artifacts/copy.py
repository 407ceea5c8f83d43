"""Copy an artifact from a file system: every file hashed as it is copied, no link followed out of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard_runtime.errors import AccessDenied, ArtifactNotFound, LoadFailed, UnsafeArtifact

__all__ = ["Budget", "Copied", "copy_tree", "stream_to_file"]

_CHUNK = 1024 * 1024


@dataclass
class Budget:
    """Bytes that may still be written, so that a source that never ends does not fill the disk."""

    left: int
    limit: int

    @classmethod
    def of(cls, limit: int) -> Budget:
        """Return a budget of `limit` bytes."""
        return cls(left=limit, limit=limit)

    def take(self, count: int) -> None:
        """Count `count` bytes. Raises LoadFailed once there are too many."""
        self.left -= count
        if self.left < 0:
            raise LoadFailed(f"the artifact is larger than {self.limit} bytes; make it smaller")


@dataclass(frozen=True)
class Copied:
    """The files that were copied: relative path to lower-case hex sha256, and their bytes in all."""

    files: dict[str, str]
    bytes: int
    single: bool
    """Whether the source was one file and not a folder."""


def copy_tree(source: Path, boundary: Path | None, target: Path, budget: Budget) -> Copied:
    """Copy the file or folder `source` into the folder `target` (which must exist).

    Links to files are copied as the files they point to, as long as those lie inside the source, inside `boundary`
    (the volume that was named) where it is given, or among the blobs of the Hugging Face cache whose snapshot it is.
    The `lost+found` of a volume and the folders in which the kubelet keeps a ConfigMap (`..data`) are left out. Raises
    ArtifactNotFound, AccessDenied, UnsafeArtifact for links out, links to folders and special files, LoadFailed over
    the budget or where a file changes while it is copied.
    """
    try:
        root = source.resolve(strict=True)
        volume = None if boundary is None else boundary.resolve(strict=True)
        if volume is not None and not root.is_relative_to(volume):
            raise UnsafeArtifact(f"{source} is a link out of {boundary}; put the files themselves there")
        if root.is_file():
            sha256, size = _copy_file(root, target / source.name, budget)
            return Copied({source.name: sha256}, size, single=True)
        files: dict[str, str] = {}
        total = 0
        links = _Links(root, volume)
        for path in _walk(root, links):
            relative = path.relative_to(root)
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            files[relative.as_posix()], size = _copy_file(links.resolve(path), target / relative, budget)
            total += size
    except (FileNotFoundError, NotADirectoryError) as exc:
        if isinstance(exc, ArtifactNotFound):
            raise
        raise ArtifactNotFound(
            f"{exc.filename or source} does not exist; check the uri and that it was uploaded"
        ) from None
    except PermissionError as exc:
        if isinstance(exc, AccessDenied):
            raise
        raise AccessDenied(f"{exc.filename or source} may not be read by user {os.getuid()}; grant it access") from None
    if not files:
        raise ArtifactNotFound(f"{source} is an empty folder; upload the model into it")
    return Copied(files, total, single=False)


def stream_to_file(chunks: Iterator[bytes], target: Path, budget: Budget) -> tuple[str, int]:
    """Write `chunks` to a new file; return its lower-case hex sha256 and size in bytes."""
    digest = hashlib.sha256()
    size = 0
    with target.open("xb") as file:
        for chunk in chunks:
            budget.take(len(chunk))
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


class _Links:
    """The rules for links in an artifact: where they may lead."""

    def __init__(self, root: Path, volume: Path | None) -> None:
        self._volume = volume
        self.root = root
        """Resolved, and so are its parents."""
        data = root / "..data"
        self._kubelet = data.resolve() if data.is_symlink() else None
        cache = next(
            (folder.parent.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots"), None
        )
        self._blobs = cache / "blobs" if cache is not None else None

    def keeps(self, path: Path) -> bool:
        """Whether an entry is part of the artifact, and not of the volume's own housekeeping."""
        if path.parent != self.root:
            return True
        return not (path.name == "lost+found" or (self._kubelet is not None and path.name.startswith("..")))

    def resolve(self, path: Path) -> Path:
        """Return the place that a path leads to through links. Raises UnsafeArtifact for one out of the artifact."""
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(folder) for folder in (self.root, self._volume, self._blobs) if folder):
            raise UnsafeArtifact(
                f"{path.relative_to(self.root)} is a link out of the artifact; copy the file itself there"
            )
        return real

    def follow(self, path: Path) -> Path:
        """Return the file that a link leads to, or a folder of a mounted ConfigMap. Raises UnsafeArtifact."""
        real = self.resolve(path)
        mounted = self._kubelet is not None and path.parent == self.root and real.is_relative_to(self._kubelet)
        if not real.is_file() and not (mounted and real.is_dir()):
            raise UnsafeArtifact(f"{path.relative_to(self.root)} is a link to a folder; copy the folder itself there")
        return real


def _walk(folder: Path, links: _Links) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        path = Path(entry.path)
        if not links.keeps(path):
            continue
        if any(ord(char) < 32 or char == "\\" for char in entry.name):
            # sha256sum escapes these, and then nobody could compute the digest by hand.
            raise UnsafeArtifact(f"the file name {entry.name!r} has a control character or backslash; rename it")
        if entry.is_symlink():
            if links.follow(path).is_dir():
                yield from _walk(path, links)
            else:
                yield path
        elif entry.is_dir():
            yield from _walk(path, links)
        else:
            yield path


def _copy_file(source: Path, target: Path, budget: Budget) -> tuple[str, int]:
    # O_NOFOLLOW: `source` was resolved, a link that took its place since then is somebody's race.
    # O_NONBLOCK: opening a FIFO would wait for a writer for ever.
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise UnsafeArtifact(f"{source.name} is neither a file nor a folder; take it out of the artifact")
        if os.readlink(f"/proc/self/fd/{handle}") != str(source):
            raise UnsafeArtifact(f"{source.name} was moved or made a link while it was copied; try again")
        copied = stream_to_file(iter(lambda: file.read(_CHUNK), b""), target, budget)
        after = os.fstat(handle)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or copied[1] != after.st_size:
            raise LoadFailed(f"{source.name} was changed while it was copied; try again once it is complete")
        return copied
