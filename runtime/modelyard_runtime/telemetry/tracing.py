"""Whether requests are traced: as the standard environment variables of OpenTelemetry say, where it is installed.

Nothing of its SDK is imported otherwise: it takes a sixth of a second and 5 MB.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelyard_runtime.telemetry.spans import Tracing

__all__ = ["end_tracing", "start_tracing"]

_logger = logging.getLogger("modelyard")
_EXPORTERS = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def start_tracing(environ: Mapping[str, str], service: str, *, speaks: bool = True) -> Tracing | None:
    """Begin to export spans and return what makes them; None where nobody asks for it, or it can't be.

    OTEL_TRACES_EXPORTER=otlp asks for it, and so does an endpoint for OTLP; OTEL_SDK_DISABLED=true overrides both.
    Spans that were asked for and can't be exported do not keep the server from serving. The SDK reads its other
    variables from the process' own environment.

    Args:
        environ: the environment.
        service: the service's name, where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES give none.
        speaks: whether the log says that spans are exported, or why they are not: one worker of several is enough.
    """
    tracing, level, message = _start(environ, service)
    if message and speaks:
        _logger.log(level, message)
    return tracing


async def end_tracing(tracing: Tracing | None) -> None:
    """Export what is left, within a few seconds."""
    if tracing is not None:
        await tracing.close()


def _start(environ: Mapping[str, str], service: str) -> tuple[Tracing | None, int, str]:
    """Return what makes spans, and what to log at which level."""
    asked, unknown = _asked(environ)
    if not asked:
        return None, logging.WARNING, f"no traces: {unknown}" if unknown else ""
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _HTTP)
    if protocol not in (_HTTP, "grpc"):
        return None, logging.WARNING, f"no traces: OTLP is spoken as http/protobuf and grpc, and not as {protocol}"
    try:
        from modelyard_runtime.telemetry.spans import Tracing  # noqa: PLC0415 - see the top

        tracing = Tracing(protocol, service)
    except ImportError as exc:
        return None, logging.WARNING, f"no traces, though {asked} asks for them: {exc}; install modelyard[otel]"
    except Exception as exc:  # a value that the SDK refuses
        return None, logging.WARNING, f"no traces: the SDK of OpenTelemetry refuses the OTEL_ variables: {exc}"
    return tracing, logging.INFO, f"traces are exported as those of the service {tracing.service}"


def _asked(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of the variable that asks for traces, empty where none does, and what is not understood."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "", ""
    exporters = {name.strip() for name in environ.get(_EXPORTERS, "").split(",") if name.strip()}
    if "otlp" in exporters:
        return _EXPORTERS, ""
    if exporters:
        unknown = ", ".join(sorted(exporters - {"none"}))
        return "", f"{_EXPORTERS} names {unknown}, and they are exported by otlp alone" if unknown else ""
    return next((name for name in _ENDPOINTS if environ.get(name)), ""), ""
