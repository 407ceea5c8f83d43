"""The types of ASGI, as its specification (version 3.0) has them for HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias

__all__ = ["CLIENT_EXTENSION", "Application", "Message", "Receive", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Coroutine[Any, Any, Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_EXTENSION = "modelyard.client"
"""The extension of a scope in which our own server gives the connection's client (dataplane.call.Client)."""
