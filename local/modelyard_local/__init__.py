"""One machine, no cluster: the same reconcile over an embedded store, pods as processes."""
