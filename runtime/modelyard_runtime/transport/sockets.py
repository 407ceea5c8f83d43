"""The sockets that a server listens on: one process's own, or a port that several share. Standard library only."""

from __future__ import annotations

import socket

from modelyard_runtime.errors import LoadFailed

__all__ = ["BACKLOG", "grpc_taken", "http_taken", "open_listener", "reserve"]


BACKLOG = 2048
"""Connections that may wait to be accepted."""


def open_listener(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that never listens, and keeps a port (0: any free one) for listeners of ours that share it.

    Raises OSError where another server has the port, one with workers too: two on one port are a mistake.
    """
    keeper = open_listener(host, port)
    # Sharing begins after the port was had alone, and is with those who ask for it: from now on the kernel refuses
    # whoever only does not mind old connections of the port, as every server does.
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return keeper


def http_taken(host: str, port: int, exc: OSError) -> LoadFailed:
    """Return the error of a port that can't be had."""
    return LoadFailed(
        f"can't listen on {host}:{port}: {exc.strerror or exc}; "
        "give another address in MODELYARD_HOST or port in MODELYARD_PORT"
    )


def grpc_taken(host: str, port: int) -> LoadFailed:
    """Return the error of a port that can't be had for gRPC."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return LoadFailed(
        f"can't listen on {address} for gRPC: it is taken, or not ours; "
        "give another port in MODELYARD_GRPC_PORT, 0 for any free one"
    )
