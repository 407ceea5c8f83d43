"""Protocols: what clients speak. The seed API (predict, models), health and metrics."""
