"""Where models compute: cheap ones in the event loop, the others in a few threads, gathered into batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from modelyard_runtime.dataplane.batching import Batcher, Tensors
from modelyard_runtime.dataplane.call import Call
from modelyard_runtime.dataplane.cpus import available_cpus
from modelyard_runtime.dataplane.offload import LOOP_BYTES
from modelyard_runtime.dataplane.watchdog import Watchdog
from modelyard_runtime.errors import ModelFailed, WrongInput
from modelyard_runtime.formats.base import Array, InputRefused, Model, Rows, all_finite

__all__ = ["Executor", "infer_checked", "predict_checked"]

_logger = logging.getLogger(__name__)
_MAX_THREADS = 4


class Executor:
    """Runs models within a deadline, and a bounded number of calls at once. For the event loop's thread."""

    def __init__(
        self,
        *,
        max_queue: int,
        timeout: float,
        threads: int | None = None,
        workers: int = 1,
        max_rows: int = 64,
        max_delay: float = 0.0,
        on_batch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """`max_queue` requests, of `timeout` seconds, may wait for one of `threads` threads.

        These are as many as the processors that we may use, at most 4, unless given.
        Of `workers` processes each has its part of the processors.

        `max_rows` rows are gathered into a batch, for `max_delay` seconds even where a thread is idle; `on_batch` is
        told the rows of each that is computed in a thread.
        """
        self._batcher = Batcher(
            threads=threads or min(_MAX_THREADS, available_cpus(workers)),
            max_queue=max_queue,
            max_rows=max_rows,
            max_delay=max_delay,
            on_batch=on_batch,
        )
        self.watchdog = Watchdog(self._batcher, timeout=timeout)

    @property
    def queue_rows(self) -> int:
        """Rows that wait for a thread or are computed in one."""
        return self._batcher.rows

    async def predict(self, call: Call, model: Model, rows: Rows) -> Array:
        """Return the model's predictions for `rows`, of shape (rows, features), before the deadline of `call`.

        Raises DeadlineExceeded, QueueFull, WrongInput for values that the model refuses or that give no finite number,
        ModelFailed when the model raises, ClientGone.
        """
        if model.inline and rows.nbytes <= LOOP_BYTES:
            call.on_start(len(rows), True)
            return predict_checked(model, rows)

        def compute(tensors: Tensors) -> Tensors:
            return (predict_checked(model, tensors[0]),)

        group = (id(model), "predict") if model.batching.allowed else None
        (predictions,) = await self._batcher.run(call, compute, (rows,), rows=len(rows), group=group)
        return predictions

    async def infer(
        self, call: Call, model: Model, tensors: Mapping[str, Array], wanted: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Return outputs by name for inputs by name, all outputs unless some are `wanted`.

        Names, datatypes and shapes are the model's, checked before. Raises what `predict` raises.
        """
        first = next(iter(tensors.values()))
        size = first.nbytes if len(tensors) == 1 else sum(tensor.nbytes for tensor in tensors.values())
        if model.inline and size <= LOOP_BYTES:
            call.on_start(len(first) if first.ndim else 1, True)
            return infer_checked(model, tensors, wanted)
        names = tuple(tensors)
        outputs = tuple(wanted) or tuple(spec.name for spec in model.outputs)

        def compute(values: Tensors) -> Tensors:
            results = infer_checked(model, dict(zip(names, values, strict=True)), outputs)
            return tuple(results[name] for name in outputs)

        rows = _batch_rows(model, tensors)
        results = await self._batcher.run(
            call,
            compute,
            tuple(tensors.values()),
            rows=1 if rows is None else rows,
            group=None if rows is None else (id(model), names, outputs),
        )
        return dict(zip(outputs, results, strict=True))

    def close(self) -> None:
        """End the threads once they are idle."""
        self._batcher.close()


def predict_checked(model: Model, rows: Rows) -> Array:
    """Return one finite prediction a row. Raises WrongInput, ModelFailed (the cause is logged, and not shown)."""
    try:
        predictions = model.predict(rows)
    except InputRefused as exc:
        raise WrongInput(f"the model refuses these features: {exc}") from None
    except BaseException:  # a model that calls sys.exit() must not end the server
        _logger.exception("the model raised for an input of shape %s", rows.shape)
        raise ModelFailed("the model failed; its log says why") from None
    if predictions.shape[:1] != rows.shape[:1]:
        _logger.error("the model returned shape %s for an input of shape %s", predictions.shape, rows.shape)
        raise ModelFailed("the model failed; its log says why")
    _check_finite(predictions)
    return predictions


def infer_checked(model: Model, tensors: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    """Return the outputs that are `wanted`, by name. Raises WrongInput, ModelFailed (the cause is logged)."""
    try:
        outputs = model.infer(tensors, wanted)
    except InputRefused as exc:
        raise WrongInput(f"the model refuses these inputs: {exc}") from None
    except BaseException:  # as above
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        _logger.exception("the model raised for inputs of shapes %s", shapes)
        raise ModelFailed("the model failed; its log says why") from None
    missing = [name for name in wanted if name not in outputs]
    if missing:
        _logger.error("the model gave no output %s", ", ".join(missing))
        raise ModelFailed("the model failed; its log says why")
    return outputs


def _batch_rows(model: Model, tensors: Mapping[str, Array]) -> int | None:
    """Return the rows, the first axis of each input; None for inputs that may not be gathered with others."""
    if not model.batching.allowed:
        return None
    specs = {spec.name: spec.shape for spec in model.inputs}
    rows: set[int] = set()
    for name, tensor in tensors.items():
        shape = specs.get(name, ())
        if shape[:1] != (-1,) or tensor.ndim != len(shape):
            return None
        rows.add(len(tensor))
    if len(rows) != 1 or any(spec.shape[:1] != (-1,) for spec in model.outputs):
        return None
    return rows.pop()


def _check_finite(predictions: Array) -> None:
    if predictions.dtype.kind == "f" and not all_finite(predictions):
        raise WrongInput("the prediction is not a finite number; the features are out of the model's range")
