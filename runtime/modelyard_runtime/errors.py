"""Everything that can go wrong, typed: what stops a model from coming up, and what a request is answered with.

StartupFailure                  ends the process; `reason` goes to the termination message
├── ArtifactNotFound            (FileNotFoundError)
├── AccessDenied                (PermissionError)
├── DigestMismatch              (ValueError)
├── UnsafeArtifact              (ValueError)
├── UnknownFormat               (ValueError)
├── LoadFailed                  (RuntimeError)
├── WarmupFailed                (RuntimeError)
├── OutOfMemory                 (MemoryError)
└── SettingsError               (ValueError)
RequestError                    answers one request with `status` and `{"error": str}`
├── BadRequest 400              (ValueError)
├── Forbidden 403               (PermissionError)
├── UnknownModel 404            (LookupError)
├── BodyTimeout 408             (TimeoutError)
├── BodyTooLarge 413            (ValueError)
├── UnsupportedEncoding 415     (ValueError)
├── WrongInput 422              (ValueError)
├── QueueFull 429               (RuntimeError)
├── ClientGone 499              (ConnectionError)
├── ModelFailed 500             (RuntimeError)
├── Unsupported 501             (NotImplementedError)
├── NotReady 503                (RuntimeError)
└── DeadlineExceeded 504        (TimeoutError)

A message says what to do next, and holds nothing that the reader may not see.
"""

from __future__ import annotations

from modelyard_runtime.contract import Failure, FailureReason

__all__ = [
    "AccessDenied",
    "ArtifactNotFound",
    "BadRequest",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientGone",
    "DeadlineExceeded",
    "DigestMismatch",
    "Forbidden",
    "LoadFailed",
    "ModelFailed",
    "NotReady",
    "OutOfMemory",
    "QueueFull",
    "RequestError",
    "SettingsError",
    "StartupFailure",
    "UnknownFormat",
    "UnknownModel",
    "UnsafeArtifact",
    "Unsupported",
    "UnsupportedEncoding",
    "WarmupFailed",
    "WrongInput",
]


class StartupFailure(Exception):
    """The model can't be served; `reason` is one word of FailureReason, the message says what to do."""

    reason = FailureReason.LOAD_FAILED

    @property
    def message(self) -> str:
        """What happened and what to do next."""
        return str(self.args[0])

    @property
    def failure(self) -> Failure:
        """The termination message for this error."""
        return Failure(reason=self.reason.value, message=self.message)


class ArtifactNotFound(StartupFailure, FileNotFoundError):
    """Nothing is at the URI."""

    reason = FailureReason.ARTIFACT_NOT_FOUND


class AccessDenied(StartupFailure, PermissionError):
    """Something is at the URI, and we may not read it."""

    reason = FailureReason.ACCESS_DENIED


class DigestMismatch(StartupFailure, ValueError):
    """The artifact's content is not the one that was asked for."""

    reason = FailureReason.DIGEST_MISMATCH


class UnsafeArtifact(StartupFailure, ValueError):
    """The artifact could run code, or write outside its folder, when it is loaded."""

    reason = FailureReason.UNSAFE_ARTIFACT


class UnknownFormat(StartupFailure, ValueError):
    """No format that we know matches the artifact's files."""

    reason = FailureReason.UNKNOWN_FORMAT


class LoadFailed(StartupFailure, RuntimeError):
    """The artifact can't be fetched or loaded."""

    reason = FailureReason.LOAD_FAILED


class WarmupFailed(StartupFailure, RuntimeError):
    """The model loads, but fails on its first rows."""

    reason = FailureReason.WARMUP_FAILED


class OutOfMemory(StartupFailure, MemoryError):
    """The model needs more memory than the process may have."""

    reason = FailureReason.OUT_OF_MEMORY


class SettingsError(StartupFailure, ValueError):
    """An environment variable has a value that can't be used."""


class RequestError(Exception):
    """Answers a request with `status`; the message goes to the client as `{"error": message}`."""

    status = 500
    retry_after: int | None = None
    """Seconds after which the client may try again; sent as Retry-After."""
    close = False
    """Whether the connection is of no further use: the body was not read to its end."""

    @property
    def message(self) -> str:
        """What was wrong and what to do next."""
        return str(self.args[0])


class BadRequest(RequestError, ValueError):
    """The body is missing, is not JSON, or lacks a field."""

    status = 400


class Forbidden(RequestError, PermissionError):
    """What is served is not decided by requests."""

    status = 403


class UnknownModel(RequestError, LookupError):
    """No model of that name is served here."""

    status = 404


class BodyTimeout(RequestError, TimeoutError):
    """The client did not send its body in time."""

    status = 408
    close = True


class BodyTooLarge(RequestError, ValueError):
    """The body is over the limit."""

    status = 413
    close = True


class UnsupportedEncoding(RequestError, ValueError):
    """The body is compressed."""

    status = 415
    close = True


class WrongInput(RequestError, ValueError):
    """A field is there, with the wrong type, shape or value."""

    status = 422


class QueueFull(RequestError, RuntimeError):
    """As many rows wait as may wait."""

    status = 429
    retry_after = 1


class ClientGone(RequestError, ConnectionError):
    """The client closed its connection before its request was answered; 499 as proxies put it."""

    status = 499

    def __init__(self) -> None:
        super().__init__("the client closed its connection before it was answered")


class ModelFailed(RequestError, RuntimeError):
    """The model itself raised."""

    status = 500


class Unsupported(RequestError, NotImplementedError):
    """A part of a protocol that this server does not have."""

    status = 501


class NotReady(RequestError, RuntimeError):
    """The model is still loading."""

    status = 503
    retry_after = 1


class DeadlineExceeded(RequestError, TimeoutError):
    """The answer was not ready in time."""

    status = 504
