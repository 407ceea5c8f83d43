"""Routes that FastAPI declares and that answer by themselves, with the handlers that the short way calls too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from fastapi.requests import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from modelyard_runtime.http.asgi import Receive, Scope, Send

__all__ = ["Find", "ForwardingRoute", "forwarding_to"]


class _Route(Protocol):
    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None: ...


Find: TypeAlias = Callable[[str], _Route | None]
"""Gives the route that answers requests to a decoded path."""


class ForwardingRoute(APIRoute):
    """A route whose function's signature describes it; requests go to the route that `find` gives."""

    find: Find

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that forwards: FastAPI's own would read and validate the body."""

        async def handle(request: Request) -> Response:
            route = self.find(request.scope["path"])
            if route is None:
                raise HTTPException(404)
            return _Forwarded(route)

        return handle


def forwarding_to(find: Find) -> type[ForwardingRoute]:
    """Return the class of routes that forward to what `find` gives."""
    return type("ForwardingRoute", (ForwardingRoute,), {"find": staticmethod(find)})


class _Forwarded(Response):
    """A response that another route sends."""

    def __init__(self, route: _Route) -> None:
        super().__init__()
        self._route = route

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await self._route.respond(scope, receive, send)
