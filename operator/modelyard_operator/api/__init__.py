"""ModelDeployment and ABTest as typed specs: the one source of crds/."""
