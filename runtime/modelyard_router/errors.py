"""What can go wrong beside Envoy.

RouterError
├── ConfigError (ValueError)          the config folder holds no usable configuration; the message goes to status
├── EnvoyUnreachable (ConnectionError) Envoy's admin socket does not answer: not up yet, or gone
├── EnvoySlow (TimeoutError)          Envoy answers, but has not taken a file up yet
└── EnvoyRefused                      Envoy rejected a file; the message goes to status
"""

from __future__ import annotations

__all__ = ["ConfigError", "EnvoyRefused", "EnvoySlow", "EnvoyUnreachable", "RouterError"]


class RouterError(Exception):
    """Base of this package's errors."""


class ConfigError(RouterError, ValueError):
    """The config folder holds no usable configuration: half written, not JSON, or at odds with itself."""


class EnvoyUnreachable(RouterError, ConnectionError):
    """Envoy's admin socket does not answer."""


class EnvoySlow(RouterError, TimeoutError):
    """Envoy has not taken up a file in time."""


class EnvoyRefused(RouterError):
    """Envoy rejected a file."""
