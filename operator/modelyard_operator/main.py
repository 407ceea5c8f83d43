"""The operator's process: kopf watches and enqueues, the controller reconciles."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import aiohttp
import kopf
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient

from modelyard_operator.api.kinds import API_GROUP, API_VERSION, CUSTOM_KINDS
from modelyard_operator.kube.client import KubeCluster
from modelyard_operator.kube.paths import watched_kinds
from modelyard_operator.manifests.common import LABEL_COMPONENT
from modelyard_operator.manifests.settings import Settings
from modelyard_operator.metrics import Metrics, serve_health
from modelyard_operator.reconcile.controller import Controller

__all__ = ["Config", "main", "run_operator"]


class ConfigError(ValueError):
    """The environment lacks something, or holds something that cannot be."""


@dataclass(frozen=True)
class Config:
    """The operator's own configuration, from environment variables that the chart sets."""

    settings: Settings
    namespaces: tuple[str, ...]
    """The namespaces to watch; none means all."""

    port: int
    """Where /metrics and /healthz listen."""

    workers: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config:
        """Read the configuration.

        Raises:
            ConfigError: a variable is missing or not a number; the message names it.
        """
        return cls(
            settings=Settings(
                runtime_image=_required(env, "MODELYARD_RUNTIME_IMAGE"),
                router_image=_required(env, "MODELYARD_ROUTER_IMAGE"),
                envoy_image=_required(env, "MODELYARD_ENVOY_IMAGE"),
                image_pull_policy=env.get("MODELYARD_IMAGE_PULL_POLICY", "IfNotPresent"),
                image_pull_secrets=_listed(env, "MODELYARD_IMAGE_PULL_SECRETS"),
                cluster_domain=env.get("MODELYARD_CLUSTER_DOMAIN", "cluster.local"),
                router_replicas=_integer(env, "MODELYARD_ROUTER_REPLICAS", 2),
                router_concurrency=_integer(env, "MODELYARD_ROUTER_CONCURRENCY", 1),
                tracing=_tracing(env, "MODELYARD_TRACING"),
            ),
            namespaces=_listed(env, "MODELYARD_NAMESPACES"),
            port=_integer(env, "MODELYARD_PORT", 8080),
            workers=_integer(env, "MODELYARD_WORKERS", 8),
        )


def _required(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise ConfigError(f"set {name} (the Helm chart does)")
    return env[name]


def _listed(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in env.get(name, "").split(",") if part.strip())


def _tracing(env: Mapping[str, str], name: str) -> dict[str, str]:
    wanted = f"{name} must be a JSON object of strings by names that begin with OTEL_"
    try:
        variables = json.loads(env.get(name) or "{}")
    except ValueError:
        raise ConfigError(wanted) from None
    if not isinstance(variables, dict) or not all(
        key.startswith("OTEL_") and isinstance(value, str) for key, value in variables.items()
    ):
        raise ConfigError(wanted)
    return variables


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdigit():
        raise ConfigError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _registry(controller: Controller) -> kopf.OperatorRegistry:
    """Return handlers that only enqueue: no annotations, finalizers or patches by kopf."""
    registry = kopf.OperatorRegistry()

    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        info = kopf.login_with_service_account(**kwargs)
        if info is not None:  # by the address that the kubelet gives: kopf's own choice is a name, which needs the DNS
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            return dataclasses.replace(
                info, server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            )
        return kopf.login_with_kubeconfig(**kwargs)

    kopf.on.login(registry=registry)(login)

    def on_event(kind: str) -> Any:
        async def handler(event: Mapping[str, Any], **_kwargs: Any) -> None:
            controller.on_event(kind, dict(event["object"]), deleted=event["type"] == "DELETED")

        return handler

    for custom in CUSTOM_KINDS.values():
        kopf.on.event(API_GROUP, API_VERSION, custom.plural, registry=registry, id=custom.plural)(on_event(custom.kind))
    for kind, (version, plural) in watched_kinds().items():
        kopf.on.event(version, plural, labels={LABEL_COMPONENT: kopf.PRESENT}, registry=registry, id=plural)(
            on_event(kind)
        )
    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = 25
    return settings


@contextlib.asynccontextmanager
async def _api_client() -> AsyncIterator[ApiClient]:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        kube_config.load_incluster_config()
    else:
        await kube_config.load_kube_config()
    async with ApiClient() as api:
        yield api


def _now() -> datetime:
    return datetime.now(UTC)


async def run_operator(config: Config) -> None:
    """Watch and reconcile until the process is told to stop by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _api_client() as api, aiohttp.ClientSession() as http:
        metrics = Metrics()
        cluster = KubeCluster(api, http, observe=metrics.requested)
        controller = Controller(cluster, config.settings, _now, workers=config.workers)
        metrics.watch_queue(controller.queue.depth)
        controller.observe(metrics)
        health = await serve_health(metrics, controller.queue.oldest_seconds, "0.0.0.0", config.port)  # noqa: S104 - probes come from outside the pod
        watching = asyncio.create_task(
            kopf.operator(
                registry=_registry(controller),
                settings=_kopf_settings(),
                namespaces=list(config.namespaces),
                clusterwide=not config.namespaces,
                stop_flag=stop,
                identity=cast("Any", "modelyard"),  # else kopf asks for the user's name, which a pod's uid has none of
            )
        )
        working = asyncio.create_task(controller.run())
        try:
            await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, working):
                if task.done():
                    task.result()
        finally:
            for task in (watching, working):
                task.cancel()
            await asyncio.gather(watching, working, return_exceptions=True)
            await health.cleanup()


def main() -> None:
    """Run the operator with the configuration from the environment."""
    logging.basicConfig(
        level=os.environ.get("MODELYARD_LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        config = Config.from_env(os.environ)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    asyncio.run(run_operator(config))


if __name__ == "__main__":
    main()
