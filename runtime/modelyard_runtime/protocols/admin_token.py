"""The admin token: who has it may change what is served."""

from __future__ import annotations

import hmac
from pathlib import Path

from modelyard_runtime.errors import Forbidden, SettingsError

__all__ = ["check_token", "read_token"]

_NO_ADMIN = (
    "models are not changed here: in a cluster, edit the ModelDeployment's spec.model; "
    "on one machine, start modelyard serve with --admin-token-file"
)
_NO_TOKEN = "models are changed only with the admin token; send the header Authorization: Bearer TOKEN"  # noqa: S105 -- no token


def read_token(path: Path | None) -> bytes | None:
    """Return the token that a file holds; None without a file. Raises SettingsError."""
    if path is None:
        return None
    try:
        token = path.read_bytes().strip()
    except OSError as exc:
        raise SettingsError(f"the admin token's file {path} can't be read: {exc.strerror}") from None
    if not token:
        raise SettingsError(f"the admin token's file {path} is empty; write a long random word into it")
    return token


def check_token(token: bytes | None, authorization: str) -> None:
    """Raise Forbidden unless `authorization` is that of `token`; None: whatever it is."""
    if token is None:
        raise Forbidden(_NO_ADMIN)
    if not hmac.compare_digest(authorization.encode("latin-1", "replace"), b"Bearer " + token):
        raise Forbidden(_NO_TOKEN)
