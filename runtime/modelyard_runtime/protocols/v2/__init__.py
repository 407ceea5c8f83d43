"""The Open Inference Protocol, version 2: what its REST and gRPC forms share, and REST itself."""
