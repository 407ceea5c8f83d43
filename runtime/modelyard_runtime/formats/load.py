"""Load a detected artifact, and find whether rows of different requests may be computed together."""

from __future__ import annotations

import logging

from modelyard_runtime.errors import LoadFailed, OutOfMemory, StartupFailure
from modelyard_runtime.formats.base import Batching, Model, RowsModel
from modelyard_runtime.formats.detect import Detection
from modelyard_runtime.formats.format import format_named
from modelyard_runtime.formats.native import check_in_child
from modelyard_runtime.formats.trial import dependence_of_rows

__all__ = ["load_model"]

_logger = logging.getLogger(__name__)


def load_model(detection: Detection, *, batchable: bool | None = None) -> Model:
    """Load the model. Raises StartupFailure: UnsafeArtifact, UnknownFormat, OutOfMemory, LoadFailed.

    `batchable` is the word of who deploys it on whether its rows are independent; None: the model's own
    (`RowsModel.batchable`). Where the format does not know, a trial has to agree.
    """
    format = format_named(detection.format)
    try:
        if format.native:
            check_in_child(format.name, detection.path)
        if format.unsafe is not None:
            model = format.load(detection.path, allow_pickle=detection.allow_pickle)
        else:
            model = format.load(detection.path)
        if isinstance(model, RowsModel):
            model.batching = _batching(model, batchable)
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


def _batching(model: RowsModel, batchable: bool | None) -> Batching:
    """Decide whether rows are gathered: as the format knows, else by the author's word and a trial of it."""
    if batchable is False:
        return Batching(False, "parameters say batchable: false")
    if model.batching.allowed or not (batchable or model.batchable):
        return model.batching
    against = dependence_of_rows(model)
    if against:
        _logger.warning("batchable was declared, and each request is computed alone all the same: %s", against)
        return Batching(False, f"batchable was declared, and the trial at load did not agree: {against}")
    return Batching(True, "batchable was declared, and the trial at load agreed")
