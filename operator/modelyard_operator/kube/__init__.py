"""The few verbs on a real API server."""
