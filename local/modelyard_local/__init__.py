"""One machine, no cluster: the same reconcile over an embedded store, pods as processes.

From Python: `run_installation(Options(state=Path(...)), print, stop)` in the main thread of a program, and
`Client(StateFolder(path).socket)` from any other.

Layers, each knowing only those below it:

    control                    what commands ask over a unix socket
    installation               everything put together
    cluster, progress          the verbs of reconcile; lines for people
    deployments, proxy, dns    controllers over the store
    kubelet, pod, container    processes in place of containers
    store, database            objects in the form of the Kubernetes API
"""
