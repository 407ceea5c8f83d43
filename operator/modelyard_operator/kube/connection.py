"""Requests to one API server: JSON in, JSON out, and streams of watch events.

Over the official client's asyncio flavour, which knows kubeconfigs, tokens and certificates. Objects go through as
plain dicts: its typed models would drop fields newer than the client itself, and cost more than all of a reconcile.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient

from modelyard_operator.reconcile.verbs import Forbidden, Object, Rejected, Unavailable

__all__ = ["APPLY", "JSON_PATCH", "MERGE_PATCH", "Conflict", "Connection", "Gone", "NotFound", "connect"]

APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=10.0)
_FAILURES = (TimeoutError, aiohttp.ClientError, OSError, ValueError)


class NotFound(Rejected):
    """There is no such object, or no such kind (404)."""


class Conflict(Unavailable):
    """The object is another one than the request takes it for (409): look again, then try again."""


class Gone(Unavailable):
    """The resource version is too old (410): list anew."""


class Connection:
    """Sends requests to one API server.

    Args:
        api: a client that is configured for the cluster.
        observe: is told of each request's verb and kind.
        agent: how the client calls itself.
    """

    def __init__(self, api: ApiClient, observe: Callable[[str, str], None], agent: str) -> None:
        self._api, self._agent = api, agent
        self._observe = observe

    async def request(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        kind: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        """Return the answer's JSON.

        Args:
            method: of HTTP.
            path: below the server's address.
            verb: what the metrics call it.
            kind: of the objects concerned, for the metrics.
            query: parameters.
            body: sent as JSON.
            content_type: the body's.

        Raises:
            NotFound, Forbidden, Rejected: the request is of no use as it is.
            Conflict, Gone, Unavailable: it may be later.
        """
        self._observe(verb, kind)
        try:
            response = await self._send(method, path, query, body, content_type, timeout=_TIMEOUT)
            status, answer = response.status, _answer(response.status, await response.read())
        except _FAILURES as error:
            raise Unavailable(f"the API server did not answer {method} {path}: {_words(error)}") from error
        return _checked(status, answer)

    async def watch(self, path: str, query: Mapping[str, str], *, kind: str, silence: float) -> AsyncGenerator[Object]:
        """Yield watch events until the server ends the stream, or is silent for long.

        Args:
            path: of a collection.
            query: parameters besides `watch`.
            kind: of the objects, for the metrics.
            silence: seconds without a byte after which the stream counts as ended.

        Raises:
            NotFound, Forbidden, Rejected, Gone, Unavailable: as `request`.
        """
        self._observe("watch", kind)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=silence)
        try:
            response = await self._send(
                "GET", path, {**query, "watch": "true"}, None, "application/json", timeout=timeout
            )
            async with response:
                if response.status != 200:
                    _checked(response.status, _answer(response.status, await response.read()))
                rest = b""
                async for chunk in response.content.iter_any():  # lines may be longer than aiohttp's own limit
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
        except aiohttp.SocketTimeoutError:
            return  # nothing happened, or the connection is lost: to go on from the last version serves both
        except _FAILURES as error:
            raise Unavailable(f"the watch of {path} broke off: {_words(error)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        *,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": self._agent}
        for setting in (await self._api.configuration.auth_settings()).values():  # refreshes a token that expires
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        wrapped = await self._api.call_api(method, url, header_params=headers, body=body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = wrapped.response
        return response


@asynccontextmanager
async def connect(
    observe: Callable[[str, str], None], *, kubeconfig: str | None = None, agent: str = "modelyard-operator"
) -> AsyncIterator[Connection]:
    """Connect to the cluster that this process runs in, or to the kubeconfig's ($KUBECONFIG unless one is given).

    Raises:
        ConfigException: neither is there, or the kubeconfig is not valid (`kubernetes.aio.config`).
    """
    if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        kube_config.load_incluster_config()
    else:
        await kube_config.load_kube_config(config_file=kubeconfig)
    async with ApiClient() as api:
        yield Connection(api, observe, agent)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _answer(status: int, text: bytes) -> Any:
    """Return the JSON of an answer; of a refusal that is none (a path that is not served, a proxy's word) the text."""
    try:
        return json.loads(text) if text else {}
    except ValueError:
        if 200 <= status < 300:
            raise
        return text.decode(errors="replace").strip()


def _checked(status: int, body: Any) -> Object:
    """Return a good answer's body; raise what a bad one means to reconcile."""
    if 200 <= status < 300:
        result: Object = body
        return result
    message = str(body.get("message", "") if isinstance(body, dict) else body) or f"HTTP status {status}"
    if status == 401:
        raise Unavailable(f"the API server does not know the operator: {message}")
    if status == 403 and ": User " in message:
        raise Forbidden(message)
    if status == 404:
        raise NotFound(message)
    if status == 409:
        raise Conflict(message)
    if status == 410:
        raise Gone(message)
    # 403 without a user's name is admission: a quota, a limit range, a webhook, a namespace that is being deleted.
    # An unknown field in what is applied is an "internal error" to the API server.
    if status in (400, 403, 405, 413, 415, 422) or "failed to create typed patch object" in message:
        raise Rejected(message)
    raise Unavailable(f"the API server answered {status}: {message}")
