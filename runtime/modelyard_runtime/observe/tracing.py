"""Whether requests are traced: as the standard environment variables of OpenTelemetry say, where it is installed.

Nothing of its SDK is imported otherwise: it takes a sixth of a second and 5 MB. (FastAPI imports the API by itself.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelyard_runtime.observe.spans import Tracing

__all__ = ["end_tracing", "start_tracing"]

_logger = logging.getLogger("modelyard")
_EXPORTERS = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def start_tracing(environ: Mapping[str, str], service: str) -> Tracing | None:
    """Begin to export spans and return what makes them; None where nobody asks for it, or it can't be.

    OTEL_TRACES_EXPORTER=otlp asks for it, and so does an endpoint for OTLP; OTEL_SDK_DISABLED=true overrides both.
    The log says why spans that were asked for are not exported: a server without them is better than none. The SDK
    reads its other variables from the process' own environment.

    Args:
        environ: the environment.
        service: the service's name, where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES give none.
    """
    asked = _asked(environ)
    if not asked:
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _HTTP)
    if protocol not in (_HTTP, "grpc"):
        _logger.warning("no traces: OTLP is spoken as http/protobuf and grpc, and not as %s", protocol)
        return None
    try:
        from modelyard_runtime.observe.spans import Tracing  # noqa: PLC0415 - see the top

        tracing = Tracing(protocol, service)
    except ImportError as exc:
        _logger.warning("no traces, though %s asks for them: %s; install modelyard[otel]", asked, exc)
        return None
    except Exception as exc:  # a value that the SDK refuses
        _logger.warning("no traces: the SDK of OpenTelemetry refuses the OTEL_ variables: %s", exc)
        return None
    _logger.info("traces are exported as those of the service %s", tracing.service)
    return tracing


async def end_tracing(tracing: Tracing | None) -> None:
    """Export what is left, within a few seconds."""
    if tracing is not None:
        await tracing.close()


def _asked(environ: Mapping[str, str]) -> str:
    """Return the name of the variable that asks for traces; empty where none does."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    exporters = [name.strip() for name in environ.get(_EXPORTERS, "").split(",") if name.strip()]
    unknown = [name for name in exporters if name not in ("otlp", "none")]
    if unknown:
        _logger.warning("%s names %s; traces are exported by otlp alone", _EXPORTERS, ", ".join(unknown))
    if exporters:
        return _EXPORTERS if "otlp" in exporters else ""
    return next((name for name in _ENDPOINTS if environ.get(name)), "")
