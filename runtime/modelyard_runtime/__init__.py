"""The data plane: the generic server that runs in model pods."""
