"""The data plane: admits, looks into the cache, batches, computes, counts and traces each inference request.

Protocols decode requests and encode responses; all between is here, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from modelyard_runtime.dataplane.call import Call, Client, Trace
from modelyard_runtime.dataplane.executor import Executor
from modelyard_runtime.dataplane.registry import Registry, ServedModel
from modelyard_runtime.dataplane.response_cache import Cached, ResponseCache
from modelyard_runtime.formats.base import Array, Rows
from modelyard_runtime.telemetry.metrics import Metrics
from modelyard_runtime.telemetry.statistics import Statistics

__all__ = ["DataPlane"]

_T = TypeVar("_T", bound=Cached)


class DataPlane:
    """The way of every inference request, from admission to its counts. For the event loop's thread.

    A protocol calls `begin`, `resolve`, `predict` or `infer` (within `cached` where the request asks for the cache),
    and `end` exactly once, whatever happened.
    """

    def __init__(
        self,
        registry: Registry,
        executor: Executor,
        cache: ResponseCache,
        metrics: Metrics,
        statistics: Statistics,
        *,
        timeout: float,
        max_body_bytes: int,
    ) -> None:
        """`timeout` in seconds is the longest that a request may take, `max_body_bytes` the largest request."""
        self.registry = registry
        self.timeout = timeout
        self.max_body_bytes = max_body_bytes
        self.in_flight = 0
        """Inference requests that are being answered."""
        self._executor = executor
        self._cache = cache
        self._metrics = metrics
        self._statistics = statistics

    @property
    def ready(self) -> bool:
        """Whether requests are answered: the models are there, and a thread to compute them."""
        return self.registry.ready and self._executor.watchdog.responsive

    @property
    def alive(self) -> bool:
        """Whether the process can still answer, now or later; false: it is to be started again."""
        return self._executor.watchdog.alive

    def begin(self, protocol: str, *, client: Client | None = None, trace: Trace | None = None) -> Call:
        """Admit a request that arrives now; `protocol` is the metrics' label."""
        self.in_flight += 1
        now = asyncio.get_running_loop().time()
        return Call(protocol, now=now, timeout=self.timeout, client=client, trace=trace)

    def resolve(self, call: Call, name: str | None, version: str | None = None) -> ServedModel:
        """Return the model that a request asks; `name` None: the only one, `version` None or empty: the active one.

        Raises UnknownModel, NotReady, BadRequest where a name is needed.
        """
        served = call.served = self.registry.resolve_version(name, version)
        call.model, call.version = served.name, served.version
        return served

    async def predict(self, call: Call, served: ServedModel, rows: Rows) -> Array:
        """Return the model's predictions for `rows`, of shape (rows, features): shape (rows,) or (rows, outputs).

        Raises DeadlineExceeded, QueueFull, WrongInput for values that the model refuses or that give no finite number,
        ModelFailed when the model raises, ClientGone.
        """
        predictions = await self._executor.predict(call, served.model, rows)
        call.on_computed()
        return predictions

    async def infer(
        self, call: Call, served: ServedModel, tensors: Mapping[str, Array], wanted: Sequence[str]
    ) -> dict[str, Array]:
        """Return outputs by name for inputs by name, all outputs unless some are `wanted`, in that order.

        Names, datatypes and shapes are the model's, checked before. Raises what `predict` raises.
        """
        outputs = await self._executor.infer(call, served.model, tensors, wanted)
        call.on_computed()
        return outputs

    async def cached(
        self,
        call: Call,
        served: ServedModel,
        form: Hashable,
        inputs: Mapping[str, Array],
        compute: Callable[[], Awaitable[_T]],
    ) -> _T:
        """Return the response to `inputs` from the cache, or what `compute` makes of them, and keep that.

        `form` is all that the response depends on beside the model and its inputs. Raises what `compute` raises.
        """
        return await self._cache.get(call, served, form, inputs, compute)

    def end(self, call: Call, status: int) -> None:
        """Count a request that is answered now with `status`, in HTTP's terms; 200 is success."""
        self.in_flight -= 1
        call.on_ended()
        if call.trace is not None:
            call.trace.end(call, status)
        self._metrics.observe(call.model, call.version, call.protocol, status, call.seconds)
        if call.served is not None:
            self._statistics.add(call.model, call.version, call, success=status == 200)
