"""Pickles and joblib files, which run whatever code is in them: only where the spec allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelyard_runtime.errors import LoadFailed, UnsafeArtifact
from modelyard_runtime.formats.threads import library

__all__ = ["read_pickle", "why_pickle_is_unsafe"]


def why_pickle_is_unsafe(path: Path) -> str:
    """Return why a pickle is not loaded without leave, and what to do."""
    return (
        f"{path.name} is a pickle, which can run any code when it is loaded; save it with skops instead: "
        "skops.io.dump(model, 'model.skops'), or set spec.model.allowPickle: true if you trust it"
    )


def read_pickle(path: Path, *, allow_pickle: bool) -> Any:
    """Return the object that was pickled, by pickle, joblib or cloudpickle. Raises UnsafeArtifact, LoadFailed."""
    if not allow_pickle:
        raise UnsafeArtifact(why_pickle_is_unsafe(path))
    joblib = library("joblib", "sklearn")
    try:
        return joblib.load(path)
    except MemoryError:
        raise
    except ModuleNotFoundError as exc:
        raise LoadFailed(
            f"{path.name} needs the module {exc.name}, which is not installed here; "
            "add it to the runtime's image, or save the model with skops"
        ) from None
    except (Exception, SystemExit) as exc:
        raise LoadFailed(
            f"{path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); "
            "pickle it again with the versions of Python and of the libraries that this runtime has"
        ) from None
