"""The operator's process: watches fill a store and enqueue, the controller reconciles."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from modelyard_operator.kube.cluster import KubeCluster
from modelyard_operator.kube.connection import connect
from modelyard_operator.kube.lease import Lease, LeaseLost
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

    lease_namespace: str
    """Where the Lease is by which one of the installation's operators works."""

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
                fixed_user=env.get("MODELYARD_FIXED_USER", "true") == "true",
                **_router_resources(env, "MODELYARD_ROUTER_RESOURCES"),
                router_replicas=_integer(env, "MODELYARD_ROUTER_REPLICAS", 2),
                router_concurrency=_integer(env, "MODELYARD_ROUTER_CONCURRENCY", 1),
                tracing=_tracing(env, "MODELYARD_TRACING"),
            ),
            namespaces=_listed(env, "MODELYARD_NAMESPACES"),
            port=_integer(env, "MODELYARD_PORT", 8080),
            workers=_integer(env, "MODELYARD_WORKERS", 8),
            lease_namespace=env.get("MODELYARD_LEASE_NAMESPACE") or "default",
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


def _router_resources(env: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the settings that a JSON object `{"envoy": ..., "sidecar": ...}` gives; the rest keeps its defaults."""
    try:
        given = json.loads(env.get(name) or "{}")
        return {f"{part}_resources": dict(given[part]) for part in ("envoy", "sidecar") if part in given}
    except (ValueError, TypeError):
        raise ConfigError(f"{name} must be a JSON object of the containers' resources") from None


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdigit():
        raise ConfigError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _now() -> datetime:
    return datetime.now(UTC)


async def run_operator(config: Config) -> None:
    """Watch and reconcile until the process is told to stop by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with connect(metrics.requested) as connection, aiohttp.ClientSession() as http:
        cluster = KubeCluster(connection, http, config.namespaces, installation=config.lease_namespace)
        controller = Controller(cluster, config.settings, _now, workers=config.workers)
        metrics.watch_queue(controller.queue.depth)
        controller.observe(metrics)
        lease = Lease(connection, config.lease_namespace, f"{socket.gethostname()}-{secrets.token_hex(4)}")
        health = await serve_health(metrics, controller.queue.oldest_seconds, "0.0.0.0", config.port)  # noqa: S104 - probes come from outside the pod
        try:
            # Whoever stands by reads nothing: to list when the turn comes takes seconds, to watch all the time memory.
            await _until(stop, lease.acquire())
            if not stop.is_set():
                await _until(stop, lease.hold(), cluster.run(controller.on_event), _reconcile(cluster, controller))
        finally:
            await health.cleanup()


async def _reconcile(cluster: KubeCluster, controller: Controller) -> None:
    await cluster.synced()
    await controller.run()


async def _until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run until `stop`, or until one of these ends; what dies takes everything down with it, loudly."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    waiting = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)


def main() -> None:
    """Run the operator with the configuration from the environment."""
    logging.basicConfig(
        level=os.environ.get("MODELYARD_LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = Config.from_env(os.environ)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    try:
        asyncio.run(run_operator(config))
    except LeaseLost as error:
        raise SystemExit(f"error: {error}; starting anew") from None


if __name__ == "__main__":
    main()
