"""Settings of the server, read once from the environment (contract.Env) and immutable from then on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard_runtime.contract import GRPC_PORT, HTTP_PORT, MAX_WORKERS, TERMINATION_LOG, VOLUME_MOUNT, Env
from modelyard_runtime.errors import SettingsError

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one server process serves, where, and within which limits. Durations are seconds, sizes bytes."""

    model_name: str
    """The served name, as it stands in paths and bodies."""
    model_dir: Path = Path(VOLUME_MOUNT)
    """The folder that the init container filled: `artifact/` and `artifact.json`."""
    model_uri: str = ""
    """Where the artifact came from; shown only where artifact.json does not say."""
    model_format: str = ""
    """The format to load it as; empty: the one that was found at fetch."""
    model_version: str = ""
    """The served version; empty: the one in artifact.json."""
    allow_pickle: bool = False
    """Whether artifacts may run code of their own: pickles, joblib files and the formats python and torch."""
    batchable: bool | None = None
    """The author's word on whether a model's rows are independent; None: the model's own."""
    host: str = "0.0.0.0"  # noqa: S104 -- a pod serves on all its addresses; local mode gives one
    """The address to listen on."""
    port: int = HTTP_PORT
    """The port to listen on; 0: any free one, named in the line at start."""
    grpc_port: int = GRPC_PORT
    """The port for gRPC; 0: any free one, named at start."""
    workers: int = 1
    """Processes that serve on these ports as one; what else is set here, each has for itself."""
    cache_ttl: float = 300.0
    """How long an answer may be given again to requests that ask for the cache; 0: never."""
    cache_max_bytes: int = 16 * 1024 * 1024
    """What the cached answers and their keys may take together; 0: nothing is cached."""
    max_body_bytes: int = 32 * 1024 * 1024
    """The largest request body."""
    max_queue: int = 256
    """Requests that may wait for a compute thread; the next one is answered 429."""
    batch_max_rows: int = 64
    """Rows that are computed together, of requests that wait for a compute thread; 1: each request alone."""
    batch_max_delay: float = 0.0
    """How long a request waits for others to be computed with, even where a thread is idle."""
    max_connection_age: float = 300.0
    """After this, a connection is closed with its next answer, so that clients spread over new servers; 0: never."""
    warmup_requests: int = 1
    """Predictions that a model makes before it is ready; 0: none."""
    log_format: str = "plain"
    """`plain` for people, `json` for one object a line."""
    log_level: str = "info"
    """`debug` logs every request, `info` those that failed through our fault, `warning` less."""
    admin_token_file: Path | None = None
    """Holds the token with which models may be loaded, activated and unloaded over HTTP; None: nobody may."""
    timeout: float = 30.0
    """From a request's arrival to its answer."""
    shortcuts: bool = True
    """Whether requests may take the cheaper of two ways to the same answer; false to hunt a bug, or for tests."""
    drain_delay: float = 5.0
    """How long connections are still accepted after SIGTERM, so that routers and balancers can take note."""
    termination_log: Path = Path(TERMINATION_LOG)
    """Where the reason of a failure goes."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as not given. Raises SettingsError, naming the variable."""
        read = _Reader(environ)
        name = read.text(Env.MODEL_NAME, "")
        if not name:
            raise SettingsError(f"{Env.MODEL_NAME.value} is not set; give the name to serve the model under")
        port = read.integer(Env.PORT, cls.port, maximum=65535)
        workers = read.integer(Env.WORKERS, cls.workers, minimum=1, maximum=MAX_WORKERS)
        token = read.text(Env.ADMIN_TOKEN_FILE, "")
        if token and workers > 1:
            raise SettingsError(
                "models can't be changed over HTTP with several workers, which would then differ: leave out "
                f"--admin-token-file ({Env.ADMIN_TOKEN_FILE.value}) or --workers ({Env.WORKERS.value})"
            )
        return cls(
            model_name=name,
            model_dir=Path(read.text(Env.MODEL_DIR, VOLUME_MOUNT)),
            model_uri=read.text(Env.MODEL_URI, ""),
            model_format=read.text(Env.MODEL_FORMAT, ""),
            model_version=read.text(Env.MODEL_VERSION, ""),
            allow_pickle=read.choice(Env.ALLOW_PICKLE, "false", ("true", "false")) == "true",
            batchable={"true": True, "false": False}.get(read.choice(Env.BATCHABLE, "", ("", "true", "false"))),
            host=read.text(Env.HOST, cls.host),
            port=port,
            # Where the one port was moved, the usual other one may be somebody else's.
            grpc_port=read.integer(Env.GRPC_PORT, cls.grpc_port if port == cls.port else 0, maximum=65535),
            workers=workers,
            cache_ttl=read.seconds(Env.CACHE_TTL, cls.cache_ttl),
            cache_max_bytes=read.integer(Env.CACHE_MAX_BYTES, cls.cache_max_bytes),
            max_body_bytes=read.integer(Env.MAX_BODY_BYTES, cls.max_body_bytes, minimum=1),
            timeout=read.seconds(Env.TIMEOUT, cls.timeout, positive=True),
            max_queue=read.integer(Env.MAX_QUEUE, cls.max_queue),
            batch_max_rows=read.integer(Env.BATCH_MAX_ROWS, cls.batch_max_rows, minimum=1),
            batch_max_delay=read.seconds(Env.BATCH_MAX_DELAY, cls.batch_max_delay),
            max_connection_age=read.seconds(Env.MAX_CONNECTION_AGE, cls.max_connection_age),
            warmup_requests=read.integer(Env.WARMUP_REQUESTS, cls.warmup_requests),
            log_format=read.choice(Env.LOG_FORMAT, cls.log_format, ("plain", "json")),
            log_level=read.choice(Env.LOG_LEVEL, cls.log_level, ("debug", "info", "warning")),
            admin_token_file=Path(token) if token else None,
            shortcuts=read.choice(Env.SHORTCUTS, "on", ("on", "off")) == "on",
            drain_delay=read.seconds(Env.DRAIN_DELAY, cls.drain_delay),
            termination_log=termination_log(environ),
        )


def termination_log(environ: Mapping[str, str]) -> Path:
    """Return where termination messages go: known even where the other settings are wrong."""
    return Path(environ.get(Env.TERMINATION_LOG) or TERMINATION_LOG)


class _Reader:
    """Typed reads of environment variables, with errors that name the variable and show its value."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: Env, default: str) -> str:
        return self._environ.get(name.value) or default

    def choice(self, name: Env, default: str, choices: Sequence[str]) -> str:
        text = self._environ.get(name.value) or default
        if text not in choices:
            raise SettingsError(f"{name.value} is {text!r}; give one of {', '.join(choices)}")
        return text

    def integer(self, name: Env, default: int, *, minimum: int = 0, maximum: int | None = None) -> int:
        text = self._environ.get(name.value)
        if not text:
            return default
        limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise SettingsError(f"{name.value} is {text!r}; give a whole number {limits}")
        return value

    def seconds(self, name: Env, default: float, *, positive: bool = False) -> float:
        text = self._environ.get(name.value)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            bound = "above 0" if positive else "of at least 0"
            raise SettingsError(f"{name.value} is {text!r}; give seconds as a number {bound}, 30 for instance")
        return value
