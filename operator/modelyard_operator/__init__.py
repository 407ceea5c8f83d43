"""The control plane: watches ModelDeployment and ABTest and reconciles them into Kubernetes objects."""
