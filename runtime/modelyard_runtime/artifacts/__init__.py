"""Artifacts: fetch, verify, unpack. `python -m modelyard_runtime.artifacts` is the init container.

What fetches is artifacts.fetch: most servers, whose artifact is there, never import it.
"""

from modelyard_runtime.artifacts.layout import ARTIFACT_DIR, REPORT_FILE, read_report

__all__ = ["ARTIFACT_DIR", "REPORT_FILE", "read_report"]
