"""Artifacts: fetch, verify, unpack, find the format. `python -m modelyard_runtime.artifacts` is the init container."""

from modelyard_runtime.artifacts.detect import Detection, detect
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.artifacts.layout import ARTIFACT_DIR, REPORT_FILE, read_report

__all__ = ["ARTIFACT_DIR", "REPORT_FILE", "Detection", "detect", "fetch", "read_report"]
