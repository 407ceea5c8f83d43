"""The errors of local mode.

LocalError (a RuntimeError): one line for a person, that says what to do
+-- AlreadyRunning   another `up` holds the state folder
+-- NotRunning       no `up` answers
+-- NoAddress        every loopback address of a kind is taken
"""

from __future__ import annotations

__all__ = ["AlreadyRunning", "LocalError", "NoAddress", "NotRunning"]


class LocalError(RuntimeError):
    """Something a person can set right; the message is one line that says how."""


class AlreadyRunning(LocalError):
    """Another `up` holds the state folder."""


class NotRunning(LocalError):
    """No `up` answers on this state folder."""


class NoAddress(LocalError):
    """Every loopback address of this kind is taken."""
