"""The data plane: models in the registry, and the way of a request through cache, batches and threads."""
