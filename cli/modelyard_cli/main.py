"""The command line: what there is, and who does it. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from modelyard_cli import local_options

__all__ = ["main"]

_EXTRAS = {
    "serve": ("modelyard_cli.serve", "runtime"),
    "fetch": ("modelyard_cli.fetch", "runtime"),
    "operator": ("modelyard_cli.operator", "operator"),
    "local": ("modelyard_cli.local", "local"),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, 1 with one line that says what went wrong, 2 for a wrong command line."""
    options = _parser().parse_args(arguments)
    module, extra = _EXTRAS[options.command]
    try:
        run = cast("Callable[[argparse.Namespace], int]", importlib.import_module(module).run)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("modelyard"):
            raise
        _fail(f"`modelyard {options.command}` needs {error.name}: pip install 'modelyard[{extra}]'")
    try:
        sys.exit(run(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


class _Version(argparse.Action):
    """Looks the version up only when asked: reading package metadata takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - see above

        print(f"modelyard {version('modelyard')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelyard", description="Deploys, rolls out and A/B-tests machine-learning models."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve models with this process, without a cluster")
    serve.add_argument(
        "uris",
        metavar="URI",
        nargs="+",
        help="a file, a folder, a folder of such folders, or a URI (https://…, s3://…)",
    )
    serve.add_argument("--name", help="the served name (default: the last part of the path)")
    serve.add_argument("--format", help="how the artifact is loaded (default: found from its files)")
    serve.add_argument("--version", dest="model_version", help="the served version (default: from the digest)")
    serve.add_argument("--digest", help="sha256:<hex>; another content is refused")
    serve.add_argument("--allow-pickle", action="store_true", help="take formats that run the artifact's own code")
    serve.add_argument(
        "--batchable", action="store_true", help="rows are independent: gather those of different requests"
    )
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8080, help="the port to listen on (default: %(default)s)")
    serve.add_argument(
        "--grpc-port", type=int, metavar="PORT", help="the port for gRPC (default: 9000, or any with another --port)"
    )
    serve.add_argument(
        "--workers", type=int, metavar="N", help="processes that serve as one, for more processors (default: 1)"
    )
    serve.add_argument("--watch", action="store_true", help="load files again when they change, without a gap")
    serve.add_argument(
        "--admin-token-file", metavar="FILE", help="holds the token with which models are changed over HTTP"
    )

    output = ("-o", "--output")
    serve.add_argument(*output, choices=("text", "json"), default="text", help="default: %(default)s")

    fetch = commands.add_parser("fetch", help="fetch a model's artifact into a folder, verified")
    fetch.add_argument("uri", metavar="URI", help="s3://, gs://, az://, hf://, oci://, https:// or file:///PATH")
    fetch.add_argument("--to", required=True, metavar="FOLDER", help="the folder to fill")
    fetch.add_argument("--format", help="the artifact's format (default: found from its files)")
    fetch.add_argument("--version", dest="model_version", help="the version (default: from the digest)")
    fetch.add_argument("--digest", help="sha256:<hex>; another content is refused")
    fetch.add_argument(*output, choices=("text", "json"), default="text", help="default: %(default)s")
    fetch.add_argument("--allow-pickle", action="store_true", help="take formats that run the artifact's own code")

    commands.add_parser("operator", help="run the operator, as its image does (configured by MODELYARD_* variables)")

    local_options.add_to(commands.add_parser("local", help="one machine, no cluster: the same manifests"))
    return parser


if __name__ == "__main__":
    main()
