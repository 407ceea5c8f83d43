"""The state that survives a restart: custom resources with their status, the addresses of Services, and a few settings.

Everything else is rendered anew from these.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from modelyard_local.errors import LocalError
from modelyard_local.objects import Key, Object, key_of

__all__ = ["Database"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE resource (kind TEXT, namespace TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, namespace, name));
CREATE TABLE address (namespace TEXT, service TEXT, host INTEGER NOT NULL UNIQUE, PRIMARY KEY (namespace, service));
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Database:
    """One SQLite file. Every write is on disk when the call returns, so that a SIGKILL loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise LocalError(f"{path} cannot be read ({error}): move it away to start empty") from None
        except LocalError:
            self._connection.close()
            raise

    def _open(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise LocalError(f"{self._path} was written by a newer modelyard: upgrade, or use another --state")
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file; nothing may be called after."""
        self._connection.close()

    def resources(self) -> list[Object]:
        """Return every custom resource."""
        rows = self._connection.execute("SELECT body FROM resource ORDER BY kind, namespace, name").fetchall()
        return [json.loads(body) for (body,) in rows]

    def save(self, obj: Object) -> None:
        """Keep a custom resource."""
        self._connection.execute("INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?)", (*key_of(obj), json.dumps(obj)))

    def forget(self, key: Key) -> None:
        """Drop a custom resource."""
        self._connection.execute("DELETE FROM resource WHERE kind = ? AND namespace = ? AND name = ?", key)

    def addresses(self) -> dict[tuple[str, str], int]:
        """Return the number of each Service's address by (namespace, Service)."""
        rows = self._connection.execute("SELECT namespace, service, host FROM address").fetchall()
        return {(namespace, service): host for namespace, service, host in rows}

    def save_address(self, namespace: str, service: str, host: int) -> None:
        """Keep the number of a Service's address, which no other Service has from now on."""
        self._connection.execute("DELETE FROM address WHERE host = ?", (host,))
        self._connection.execute("INSERT OR REPLACE INTO address VALUES (?, ?, ?)", (namespace, service, host))

    def setting(self, name: str) -> str | None:
        """Return a setting, or None."""
        row = self._connection.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def save_setting(self, name: str, value: str) -> None:
        """Keep a setting."""
        self._connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))
