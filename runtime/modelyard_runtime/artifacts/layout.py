"""The folder between the init container and the server: `artifact/` and, once that is complete, `artifact.json`."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import orjson

from modelyard_runtime.contract import ARTIFACT_DIR, FetchReport
from modelyard_runtime.errors import ArtifactNotFound, LoadFailed

__all__ = ["ARTIFACT_DIR", "REPORT_FILE", "read_report", "write_report"]

REPORT_FILE = "artifact.json"


def write_report(directory: Path, report: FetchReport) -> None:
    """Write artifact.json: complete or not there, whenever the process or the machine stops."""
    temporary = directory / f".{REPORT_FILE}.new"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(report.to_json())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / REPORT_FILE)


def read_report(directory: Path) -> FetchReport:
    """Read artifact.json. Raises ArtifactNotFound where nothing was fetched, LoadFailed where it is damaged."""
    path = directory / REPORT_FILE
    try:
        data = orjson.loads(path.read_bytes())
        return FetchReport(**{field.name: data[field.name] for field in fields(FetchReport)})
    except FileNotFoundError:
        raise ArtifactNotFound(
            f"{path} is not there; fetch the artifact first: python -m modelyard_runtime.artifacts URI --to {directory}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise LoadFailed(f"{path} can't be read; fetch the artifact again") from None
