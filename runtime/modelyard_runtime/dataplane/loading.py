"""From an artifact on disk to a model that is warm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from modelyard_runtime.artifacts.layout import ARTIFACT_DIR, read_report
from modelyard_runtime.dataplane.executor import predict_checked
from modelyard_runtime.dataplane.registry import ServedModel
from modelyard_runtime.errors import LoadFailed, OutOfMemory, RequestError, StartupFailure, WarmupFailed, WrongInput
from modelyard_runtime.formats.base import Model
from modelyard_runtime.formats.detect import detect
from modelyard_runtime.formats.load import load_model

__all__ = ["load_served", "warm_up"]

_logger = logging.getLogger(__name__)


def load_served(
    directory: Path,
    *,
    name: str,
    uri: str = "",
    format: str = "",
    version: str = "",
    allow_pickle: bool = False,
    batchable: bool | None = None,
    warmup_requests: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[ServedModel, float]:
    """Load and warm up what was fetched into `directory`; return it with the seconds that this took.

    `format` and `version` are those of artifact.json where they are empty; `batchable` is the author's word on whether
    rows are independent, None to have the model's own. Raises StartupFailure.
    """
    start = clock()
    root = directory / ARTIFACT_DIR
    _check_reachable("name", name)
    try:
        report = read_report(directory)
        _check_reachable("version", version or report.version)
        _check_there(root)
        found = detect(root, format or report.format, allow_pickle=allow_pickle)
        model = load_model(found, batchable=batchable)
        warm_up(model, warmup_requests)
    except MemoryError as exc:
        if isinstance(exc, StartupFailure):
            raise
        raise OutOfMemory("loading ran out of memory; raise spec.resources.limits.memory") from None
    except OSError as exc:
        if isinstance(exc, StartupFailure):
            raise
        raise LoadFailed(f"{exc.filename or root} can't be read ({exc.strerror}); fetch the artifact again") from None
    served = ServedModel(
        name=name,
        version=version or report.version,
        format=format or report.format,
        digest=report.digest,
        uri=report.uri or uri,
        model=model,
    )
    return served, clock() - start


def _check_reachable(part: str, text: str) -> None:
    """Refuse a name or version that requests can't give on every route. Raises LoadFailed.

    Routers and clients resolve `.` and `..`, and decode `%2F` to a slash; `stats` and `:predict` are routes of ours.
    """
    unsafe = any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in text)
    route = part == "name" and (text == "stats" or text.endswith(":predict"))
    if unsafe or route or "/" in text or text in ("", ".", ".."):
        also = ", and neither is `stats` nor ends with `:predict`" if part == "name" else ""
        raise LoadFailed(
            f"requests could not reach a model of the {part} {text[:100]!r}: give one that is not empty, '.' or '..', "
            f"and holds no slash and no control character{also}"
        )


def warm_up(model: Model, requests: int = 1) -> None:
    """Predict a row as `requests` requests would: the first client meets a model that works and is warm.

    Raises WarmupFailed.

    A model may refuse made-up values (an unknown category) and be right; one that fails on all of them is not put up.
    """
    if model.features is None or requests == 0:
        return
    errors: list[RequestError] = []
    for rows in model.sample_rows():
        try:
            for _ in range(requests):
                predict_checked(model, rows)
        except RequestError as exc:
            errors.append(exc)
        else:
            return
    if any(isinstance(error, WrongInput) and "unknown categor" in error.message for error in errors):
        _logger.warning("not warmed up: %s", errors[0].message)
        return
    # The owner of the model reads this, so the cause is shown, which a client would not see.
    cause = errors[0].__context__ or errors[0]
    raise WarmupFailed(
        f"the model can't predict a row of {model.features} numbers ({type(cause).__name__}: {str(cause)[:500]}); "
        "check that it predicts a plain numpy array before saving it"
    )


def _check_there(root: Path) -> None:
    if not root.is_dir():
        raise LoadFailed(f"{root} is not there, though artifact.json is; fetch the artifact again")
