"""Pure functions from a spec to Kubernetes objects: no I/O, no clock."""
