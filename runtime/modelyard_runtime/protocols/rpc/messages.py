"""The protocol's messages, made from `inference.binpb`, which scripts/generate makes from `inference.proto`.

They live in a descriptor pool of their own: with generated modules, which share one pool in a process, a model that
uses another package's copy of this protocol (a client, to call a further server) could not be loaded here.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from modelyard_runtime.errors import BadRequest

__all__ = ["SERVICE", "Messages", "read_message"]

SERVICE = "inference.GRPCInferenceService"


class Messages:
    """The classes of the service's messages, and the pool that describes them."""

    def __init__(self) -> None:
        self.pool = DescriptorPool()
        found = descriptor_pb2.FileDescriptorSet.FromString(
            files("modelyard_runtime.protocols.rpc").joinpath("inference.binpb").read_bytes()
        )
        for file in found.file:
            self.pool.AddSerializedFile(file.SerializeToString())
        self.methods: dict[str, tuple[Any, Any]] = {
            method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
            for method in self.pool.FindServiceByName(SERVICE).methods
        }
        """Request and response classes by the method's name."""


def read_message(message_class: Any, data: bytes) -> Any:
    """Return the message that `data` is. Raises BadRequest."""
    try:
        return message_class.FromString(data)
    except DecodeError:
        raise BadRequest(f"the request is not a {message_class.DESCRIPTOR.full_name}") from None
