"""The limit for gRPC: a bare grpc.aio server that takes bytes and answers a few."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc


async def _answer(data: bytes, context: Any) -> bytes:
    return b"\n\x01m"


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_answer)
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
