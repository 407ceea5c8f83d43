"""The arguments of `modelyard local`. Apart from what they do, so that `--help` is quick."""

from __future__ import annotations

import argparse

__all__ = ["add_to"]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `modelyard local`."""
    parser.description = (
        "Runs ModelDeployments and ABTests on this machine: the operator's own reconcile, pods as processes, and Envoy."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state", metavar="DIR", help="the state folder (default: $XDG_STATE_HOME/modelyard, ~/.local/state/modelyard)"
    )
    scoped = argparse.ArgumentParser(add_help=False)
    scoped.add_argument("-n", "--namespace", default="default", help="the namespace (default: %(default)s)")
    plain_output = argparse.ArgumentParser(add_help=False)
    plain_output.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: %(default)s")
    commands = parser.add_subparsers(dest="local_command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", parents=[common, plain_output], help="start, and restore what was applied")
    up.add_argument("--detach", action="store_true", help="run in the background")
    up.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="the folder that stands for a PersistentVolumeClaim (default: STATE/claims/NAME)",
    )

    apply = commands.add_parser("apply", parents=[common, scoped, plain_output], help="create or change objects")
    _files(apply, required=True)

    get = commands.add_parser("get", parents=[common, scoped], help="show objects")
    get.add_argument("kind", nargs="?", default="modelyard", help="mdep, abt, pods, services, deployments, configmaps")
    get.add_argument("name", nargs="?", help="one object's name")
    get.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    get.add_argument("-o", "--output", choices=("text", "wide", "json", "yaml", "name"), default="text")

    delete = commands.add_parser("delete", parents=[common, scoped, plain_output], help="delete objects and their pods")
    delete.add_argument("target", nargs="*", metavar="KIND NAME", help="for example: mdep churn, or mdep/churn")
    _files(delete, required=False)

    logs = commands.add_parser("logs", parents=[common, scoped], help="show what pods wrote")
    logs.add_argument("name", help="a pod, or the ModelDeployment or ABTest whose pods are meant")
    logs.add_argument("-c", "--container", help="one container (default: all)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    logs.add_argument("--tail", type=int, default=-1, metavar="LINES", help="only the last lines of each container")

    wait = commands.add_parser("wait", parents=[common, scoped, plain_output], help="wait for a condition")
    wait.add_argument("target", nargs="+", metavar="KIND/NAME", help="for example: mdep/churn")
    wait.add_argument("--for", dest="wanted", required=True, metavar="CONDITION", help="condition=Ready, or delete")
    wait.add_argument("--timeout", default="30s", help="a duration such as 90s or 2m (default: %(default)s)")

    commands.add_parser("down", parents=[common, plain_output], help="stop; `up` restores what was applied")


def _files(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        required=required,
        metavar="FILE",
        help="a file, a folder, or - for standard input; may be given again",
    )
