"""The init container: `python -m modelyard_runtime.artifacts URI --to DIR`. Exit code 1 with a reason when it fails."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.contract import PVC_MOUNT, VOLUME_MOUNT, Failure
from modelyard_runtime.errors import OutOfMemory, StartupFailure
from modelyard_runtime.report import write_termination_message
from modelyard_runtime.settings import termination_log

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch as the arguments say; write the report or the failure to the termination log; return the exit code."""
    options = _parser().parse_args(arguments)
    log = termination_log(os.environ)
    try:
        report = fetch(
            options.uri,
            options.to,
            digest=options.digest,
            format=options.format,
            version=options.version,
            allow_pickle=options.allow_pickle,
            claim_root=options.claim_root,
        )
    except StartupFailure as exc:
        return _fail(exc.failure, log)
    except MemoryError:
        return _fail(OutOfMemory("the artifact needs more memory than the init container may use").failure, log)
    write_termination_message(report, log)
    if options.output == "json":
        print(report.to_json())
        return 0
    print(
        f"modelyard: fetched {report.uri}: {report.format} {report.version}, {report.bytes} bytes, {report.digest}",
        file=sys.stderr,
    )
    return 0


def _fail(failure: Failure, log: Path) -> int:
    write_termination_message(failure, log)
    print(f"modelyard: {failure.reason}: {failure.message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modelyard_runtime.artifacts", description="Fetch a model's artifact into a folder."
    )
    parser.add_argument("uri", help="file, pvc, https, s3, gs, az, hf or oci:// (docs/storage.md)")
    parser.add_argument("--to", type=Path, default=Path(VOLUME_MOUNT), help="the folder to fill (default: %(default)s)")
    parser.add_argument("--digest", default=None, help="sha256:<hex>; another content is refused")
    parser.add_argument("--format", default=None, help="default: found from the files; any: for another server")
    parser.add_argument("--version", default=None, help="default: the first 12 hex digits of the digest")
    parser.add_argument("--allow-pickle", action="store_true", help="take formats that run the artifact's own code")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="default: %(default)s")
    parser.add_argument("--claim-root", type=Path, default=Path(PVC_MOUNT), help="where the claim of a pvc:// uri is")
    return parser


if __name__ == "__main__":
    sys.exit(main())
