"""The Open Inference Protocol over gRPC; imports grpc, so only what serves it imports this package's modules."""
