"""`modelyard serve`: the server of model pods, on this machine."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from modelyard_runtime.contract import Env
from modelyard_runtime.dataplane.cpus import available_cpus, limit_thread_pools
from modelyard_runtime.errors import SettingsError
from modelyard_runtime.settings import Settings
from modelyard_runtime.workers.supervisor import supervise
from modelyard_runtime.workers.worker import Worker, read_models

from modelyard_cli.output import as_json

if TYPE_CHECKING:
    from modelyard_runtime.dataplane.registry import ServedModel

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit code."""
    named = [(name, uri) for argument in options.uris for name, uri in _models(argument)]
    problem = _problem(options, [name for name, _ in named])
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    if options.name is not None:
        named = [(options.name, named[0][1])]
    environ = _environ(options, named[0][0])
    try:
        settings = Settings.from_env(environ)
    except SettingsError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        return 1
    models = [
        {
            "name": name,
            "uri": uri,
            "format": options.format or "",
            "version": options.model_version or "",
            "digest": options.digest or "",
        }
        for name, uri in named
    ]
    loading = f"modelyard: loading {', '.join(name for name, _ in named)} (Ctrl-C stops)"
    print(loading, file=sys.stderr if options.output == "json" else sys.stdout, flush=True)
    if settings.workers > 1:
        command = [sys.executable, "-m", "modelyard_cli.serve", options.output]
        return supervise(settings, environ, command, prepare=lambda folder: _prepare(folder, models, settings, options))
    return _serve(settings, models, watch=options.watch, output=options.output)


def _serve(
    settings: Settings, models: Sequence[Mapping[str, Any]], *, watch: bool, output: str, worker: Worker | None = None
) -> int:
    limit_thread_pools(os.environ, available_cpus())
    from modelyard_runtime.dataplane.catalog import Source  # noqa: PLC0415 - numpy makes its thread pools at import
    from modelyard_runtime.transport.process import serve  # noqa: PLC0415

    sources = [
        Source(**{**model, "directory": Path(directory) if (directory := model.get("directory")) else None})
        for model in models
    ]
    on_ready = partial(_print_json, settings) if output == "json" else _print_examples
    return serve(settings, sources, watch=watch, on_ready=on_ready, worker=worker)


def _worker() -> int:
    """Serve as one worker of several."""
    worker = Worker.from_env(os.environ)
    if worker is None:
        sys.exit("error: this is a part of `modelyard serve --workers`; run that")
    worker.end_with_supervisor()
    models, watch = read_models(worker.path)
    return _serve(Settings.from_env(os.environ), models, watch=watch, output=sys.argv[1], worker=worker)


def _prepare(
    folder: Path, models: Sequence[dict[str, str]], settings: Settings, options: argparse.Namespace
) -> tuple[list[dict[str, str]], bool]:
    """Fetch the models once for all workers; those that are watched, each worker fetches by itself, again and again."""
    if options.watch:
        return list(models), True
    from modelyard_runtime.artifacts.fetch import fetch  # noqa: PLC0415 - only this needs it

    for number, model in enumerate(models):
        directory = folder / f"model-{number}"
        fetch(
            model["uri"],
            directory,
            digest=model["digest"] or None,
            format=model["format"] or None,
            version=model["version"] or None,
            allow_pickle=settings.allow_pickle,
        )
        model["directory"] = str(directory)
    return list(models), False


def _environ(options: argparse.Namespace, name: str) -> dict[str, str]:
    environ = dict(os.environ)
    environ[Env.MODEL_NAME] = name
    environ[Env.HOST] = options.host
    environ[Env.PORT] = str(options.port)
    if options.grpc_port is not None:
        environ[Env.GRPC_PORT] = str(options.grpc_port)
    if options.workers is not None:
        environ[Env.WORKERS] = str(options.workers)
    if options.allow_pickle:
        environ[Env.ALLOW_PICKLE] = "true"
    if options.batchable:
        environ[Env.BATCHABLE] = "true"
    if options.admin_token_file is not None:
        environ[Env.ADMIN_TOKEN_FILE] = options.admin_token_file
    # A person who presses Ctrl-C is not a balancer that has to take note first.
    environ.setdefault(Env.DRAIN_DELAY, "0")
    # Outside a pod nobody reads termination messages, and root would make the file.
    environ.setdefault(Env.TERMINATION_LOG, os.devnull)
    return environ


def _problem(options: argparse.Namespace, names: Sequence[str]) -> str | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return f"several models would be named {', '.join(twice)}; rename their files or folders"
    given = [flag for flag, value in (
        ("--name", options.name),
        ("--format", options.format),
        ("--version", options.model_version),
        ("--digest", options.digest),
    ) if value is not None]  # fmt: skip
    if len(names) > 1 and given:
        return f"{', '.join(given)} can be given for one model only, and these are {len(names)}"
    return None


def _models(argument: str) -> Iterator[tuple[str, str]]:
    """Give the name and URI of each model that an argument means: a URI, a path, or a folder of model folders."""
    scheme, separator, _ = argument.partition("://")
    if separator and scheme != "file":
        yield _name_of(urlsplit(argument).path), argument
        return
    path = Path(unquote(urlsplit(argument).path)) if separator else Path(argument).absolute()
    folders = _model_folders(path)
    for found in folders or [path]:
        yield _name_of(str(found)), found.as_uri()


def _model_folders(path: Path) -> list[Path]:
    """Return the folders of a folder whose contents are several of them: each is a model."""
    if not path.is_dir():
        return []
    from modelyard_runtime.formats.detect import contents  # noqa: PLC0415 - see _serve

    entries = contents(path)
    return entries if len(entries) > 1 and all(entry.is_dir() for entry in entries) else []


def _name_of(path: str) -> str:
    name = PurePosixPath(path).name
    if name == "model.json" or name.startswith("model."):
        # Many models are in a file of this name: its folder says more.
        name = PurePosixPath(path).parent.name or name
    for suffix in (".tar.gz", ".tgz", ".zip", ".tar"):
        name = name.removesuffix(suffix)
    return name or "model"


def _print_examples(url: str, served: Sequence[ServedModel]) -> None:
    """Print a command for each model that can be pasted and answers."""
    for model in served:
        body = shlex.quote(json.dumps(_body(model, served), ensure_ascii=False))
        print(f"modelyard: {model.name} is ready; try\n  curl -s {url}/predict -d {body}", flush=True)


def _print_json(settings: Settings, url: str, served: Sequence[ServedModel]) -> None:
    """Print one JSON object: where the server answers, and each model with the body of a request to `/predict`."""
    models = [
        {
            "name": model.name,
            "version": model.version,
            "format": model.format,
            "digest": model.digest,
            "example": _body(model, served),
        }
        for model in served
    ]
    print(as_json({"url": url, "grpcPort": settings.grpc_port or None, "models": models}), flush=True)


def _body(model: ServedModel, served: Sequence[ServedModel]) -> dict[str, Any]:
    """Return the body of a request to `/predict` that the model answers."""
    return ({"model_name": model.name} if len(served) > 1 else {}) | {"features": _example(model)}


def _example(served: ServedModel) -> Any:
    """Return a row of the model's own inputs, by name where it knows their names."""
    rows = served.model.sample_rows()
    if not rows:
        return [0.0] * (served.model.features or 1)
    row = rows[0][0].tolist()
    names = served.model.feature_names
    return dict(zip(names, row, strict=True)) if names is not None else row


if __name__ == "__main__":
    sys.exit(_worker())
