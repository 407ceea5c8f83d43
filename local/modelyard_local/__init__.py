"""One machine, no cluster: the same reconcile over an embedded store, pods as processes.

From Python: `run_installation(Options(state=Path(...)), print, stop)` in the main thread of a program, and
`Client(StateFolder(path).socket)` from any other.

Layers, each knowing only those below it, are in pyproject.toml (import-linter).
"""
