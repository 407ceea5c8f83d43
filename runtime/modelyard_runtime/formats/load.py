"""Load a detected artifact: from a format's name to its loader."""

from __future__ import annotations

import importlib

from modelyard_runtime.artifacts.detect import Detection
from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import LoadFailed, OutOfMemory, StartupFailure, UnknownFormat
from modelyard_runtime.formats.base import Model

__all__ = ["load_model"]

_MAY_HOLD_CODE = ("sklearn", "python", "mlflow", "torch")


def load_model(detection: Detection) -> Model:
    """Load the model. Raises StartupFailure: UnsafeArtifact, UnknownFormat, OutOfMemory, LoadFailed.

    A format `x` is the module `formats/x.py` with `load(path) -> Model`, given `allow_pickle` where its files may
    hold code; it is imported only now: a linear model does not pay for scikit-learn.
    """
    if detection.format not in FORMATS:
        raise UnknownFormat(f"the format {detection.format!r} is not supported; it is one of: {', '.join(FORMATS)}")
    module = importlib.import_module(f"modelyard_runtime.formats.{detection.format}")
    try:
        if detection.format in _MAY_HOLD_CODE:
            model: Model = module.load(detection.path, allow_pickle=detection.allow_pickle)
        else:
            model = module.load(detection.path)
    except StartupFailure:
        raise
    except MemoryError:
        raise OutOfMemory("the model does not fit into memory; raise spec.resources.limits.memory") from None
    except OSError as exc:
        raise LoadFailed(f"{detection.path.name} can't be read: {exc.strerror}; fetch the artifact again") from None
    except Exception as exc:
        # Formats read what others wrote; what they raise says something about the file, not about us.
        raise LoadFailed(
            f"{detection.path.name} can't be loaded ({type(exc).__name__}: {str(exc)[:300]}); save it again"
        ) from None
    return model
