"""Names that come from elsewhere (archives, object keys, repositories) as paths that stay inside the artifact."""

from __future__ import annotations

from pathlib import PurePosixPath

from modelyard_runtime.errors import LoadFailed, UnsafeArtifact

__all__ = ["MAX_FILES", "safe_path"]

MAX_FILES = 100_000
_LONGEST = 1024


def safe_path(holder: str, name: str, count: int = 0) -> PurePosixPath:
    """Return `name` as a path below the artifact; `holder` is what it comes from, `count` the files before it.

    Raises UnsafeArtifact for a name that leaves the folder or that `sha256sum` could not list plainly, LoadFailed for
    more than MAX_FILES.
    """
    if count >= MAX_FILES:
        raise LoadFailed(f"{holder} holds more than {MAX_FILES} files; pack fewer")
    if not name:
        raise LoadFailed(f"{holder} holds a file without a name; pack it again")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or len(name) > _LONGEST:
        raise UnsafeArtifact(f"{holder} holds the path {name[:200]!r}, which leaves the folder; pack relative paths")
    if any(ord(char) < 32 for char in name):
        raise UnsafeArtifact(f"{holder} holds the path {name[:200]!r} with a control character; rename it")
    return path
