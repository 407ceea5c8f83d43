"""Serving: the models that are up, the cache, the limits, and the server's life from start to drain."""
