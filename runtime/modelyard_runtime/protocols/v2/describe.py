"""What the Open Inference Protocol tells of servers, models and their statistics, as plain data for REST and gRPC."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from modelyard_runtime.dataplane.registry import ModelState, Registry, ServedModel
from modelyard_runtime.formats.base import TensorSpec
from modelyard_runtime.protocols.v2.bind import output_specs
from modelyard_runtime.telemetry.statistics import Statistics

__all__ = [
    "EXTENSIONS",
    "SERVER_NAME",
    "installed_version",
    "model_config",
    "model_metadata",
    "repository_index",
    "server_metadata",
    "statistics_of",
]

SERVER_NAME = "modelyard"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
_REPOSITORY = ("model_repository", "model_repository(unload_dependents)")
_REASONS = {
    ModelState.FAILED: "it could not be loaded; the server's log says why",
    ModelState.UNLOADED: "unloaded",
}
_DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


def installed_version() -> str:
    """Return the version of this distribution."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - rarely asked for

    try:
        return version("modelyard")
    except PackageNotFoundError:
        return "0"


def server_metadata(version: str, *, changeable: bool) -> dict[str, Any]:
    """Return name, version and extensions, that of the repository where models may be loaded and unloaded."""
    extensions = (*EXTENSIONS, *_REPOSITORY) if changeable else EXTENSIONS
    return {"name": SERVER_NAME, "version": version, "extensions": sorted(extensions)}


def model_metadata(served: ServedModel) -> dict[str, Any]:
    """Return a model's metadata; -1 in a shape is any number.

    Outputs that are made only when a request names them have the parameter `on_request`.
    """
    defaults = {spec.name for spec in served.model.outputs}
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": served.format,
        "inputs": [_tensor(spec) for spec in served.model.inputs],
        "outputs": [
            _tensor(spec) | ({} if spec.name in defaults else {"parameters": {"on_request": True}})
            for spec in output_specs(served.model)
        ],
    }


def model_config(served: ServedModel) -> dict[str, Any]:
    """Return the part of Triton's model configuration that says something here."""

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
        return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape)}

    return {
        "name": served.name,
        "platform": served.format,
        "backend": SERVER_NAME,
        # Rows are part of the shapes here, and batches are made of whatever comes.
        "max_batch_size": 0,
        "input": [tensor(spec) for spec in served.model.inputs],
        "output": [tensor(spec) for spec in output_specs(served.model)],
    }


def repository_index(registry: Registry, *, ready_only: bool) -> list[dict[str, str]]:
    """Return the models with their state: READY, LOADING or UNAVAILABLE, then with a reason."""
    versions = {served.name: served.version for served in registry.served()}
    index = []
    for name, state in registry.states.items():
        if name in versions:
            index.append({"name": name, "version": versions[name], "state": "READY", "reason": ""})
        elif not ready_only:
            reason = _REASONS.get(state, "")
            index.append({"name": name, "state": "UNAVAILABLE" if reason else "LOADING", "reason": reason})
    return index


def statistics_of(
    registry: Registry, statistics: Statistics, name: str | None, version: str | None
) -> list[dict[str, Any]]:
    """Return the statistics of a model, or of all that answer. Raises UnknownModel, NotReady."""
    chosen = registry.served() if name is None else [registry.resolve_version(name, version)]
    found = []
    for served in chosen:
        numbers = statistics.of(served.name, served.version)
        found.append(
            {
                "name": numbers.name,
                "version": numbers.version,
                "last_inference": numbers.last_inference,
                "inference_count": numbers.inference_count,
                "execution_count": numbers.execution_count,
                "inference_stats": {key: asdict(getattr(numbers, key)) for key in _DURATIONS},
                "batch_stats": [
                    {"batch_size": size, **asdict(batch)} for size, batch in sorted(numbers.batches.items())
                ],
            }
        )
    return found


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
