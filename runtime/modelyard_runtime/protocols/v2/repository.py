"""The protocol's model repository extension: what REST and gRPC share of loading and unloading models.

Source: Triton's model repository extension, whose clients send what is checked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from modelyard_runtime.dataplane.catalog import Catalog, Loaded
from modelyard_runtime.errors import BadRequest, StartupFailure, Unsupported
from modelyard_runtime.protocols.admin_token import check_token

__all__ = ["Repository"]


class Repository:
    """Loads and unloads models for those who have the admin token. For the event loop's thread."""

    def __init__(self, catalog: Catalog, token: bytes | None) -> None:
        """`token` None refuses everything: in a cluster the spec decides."""
        self._catalog = catalog
        self._token = token
        self._loading: set[asyncio.Task[Loaded]] = set()

    @property
    def changeable(self) -> bool:
        """Whether anybody may load and unload models."""
        return self._token is not None

    def check(self, authorization: str) -> None:
        """Raise Forbidden for who may not; to be called before anything else of a request is looked at."""
        check_token(self._token, authorization)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load a model again from its source; what is served goes on being served until then, or where this fails.

        It is done to its end even where the client gives up. Raises UnknownModel, NotReady, Unsupported, BadRequest for
        what does not load too.
        """
        for parameter in parameters:
            if parameter == "config" or parameter.startswith("file:"):
                raise Unsupported(
                    f"the parameter {parameter[:100]!r} is unsupported: a model is loaded as it is at its source; "
                    "change it there, or give another uri to POST /models"
                )
            raise BadRequest(f"there is no parameter {parameter[:100]!r}; loading takes none")
        task = asyncio.create_task(self._catalog.reload(name))
        self._loading.add(task)
        task.add_done_callback(self._finished)
        try:
            await asyncio.shield(task)
        except StartupFailure as exc:
            raise BadRequest(f"{exc.reason.value}: {exc.message} (all is as it was before)") from None

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Take a model off; requests that have begun are finished. Raises UnknownModel, NotReady, BadRequest."""
        for parameter, value in parameters.items():
            # No model depends on another here, so with its dependents or without is the same.
            if parameter != "unload_dependents":
                raise BadRequest(f"there is no parameter {parameter[:100]!r}; unloading takes unload_dependents")
            if type(value) is not bool:
                raise BadRequest("unload_dependents needs to be true or false")
        await self._catalog.unload(name)

    def _finished(self, task: asyncio.Task[Loaded]) -> None:
        self._loading.discard(task)
        if not task.cancelled():
            task.exception()  # taken note of, where the client has given up
