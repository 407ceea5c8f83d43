"""The command `scripts/cluster`: a Kubernetes cluster for hand work."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .binaries import Binaries
from .cluster import Cluster, down, import_image, running
from .control_plane import ControlPlane
from .errors import ClusterError
from .images import BASE_IMAGE, base_image, build_image
from .node import Node
from .packages import IMAGE_PACKAGES, NODE_PACKAGES, Package, install, missing
from .paths import default_state_dir
from .processes import Processes
from .programs import CONTROL_PLANE, NODE
from .run import say

__all__ = ["main"]

_EPILOG = """\
typical use:
  scripts/cluster up                  control plane only (no root): kubectl apply, see objects, nothing runs
  sudo scripts/cluster up --node      pods run, too; `scripts/cluster install` first, once
  eval "$(scripts/cluster env)"       point kubectl, helm and modelyard in this shell to it
  scripts/cluster down                take it all away again

environment:
  MODELYARD_CACHE           programs and images (default ~/.cache/modelyard)
  MODELYARD_CLUSTER_STATE   the cluster's folder (default ~/.local/state/modelyard/cluster)
  KUBEBUILDER_ASSETS        a folder with programs to prefer, if their versions fit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=_wide,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=command)
        return added

    up = add("up", _up, "start the cluster and leave it running")
    up.add_argument("--node", action="store_true", help="with a node that runs pods (takes root)")
    up.add_argument("--audit", action="store_true", help="write every request to audit.log in the cluster's folder")
    add("down", _down, "end the cluster and delete its folder, also after a crash")
    add("status", _status, "say what runs")
    add("env", _env, 'print exports for a shell: eval "$(scripts/cluster env)"')
    add("shell-hint", _hint, "print what to export and what to try next")
    for tool in ("kubectl", "helm"):
        passed = add(tool, _tool, f"run {tool} on the cluster")
        passed.set_defaults(tool=tool)
        passed.add_argument("arguments", nargs=argparse.REMAINDER, help=f"{tool}'s own arguments")
    image = add("build-image", _build_image, "build an image and put it into the node, if one runs")
    image.add_argument("tag", help="such as localhost/modelyard-runtime:dev")
    image.add_argument("--file", type=Path, required=True, help="the recipe (Containerfile)")
    image.add_argument("--context", type=Path, default=Path(), help="what COPY copies from (default: here)")
    imported = add("import-image", _import_image, "put the image of a tar into the node")
    imported.add_argument("archive", type=Path)
    prepare = add("prepare", _prepare, "build or find the programs, so that `up` takes seconds")
    prepare.add_argument("--node", action="store_true", help="those of the node, helm and the base image, too")
    add("packages", _packages, "list what a node and images need from Debian and what of it is missing")
    add("install", _install, "install what is missing with apt-get (takes root)")
    return parser


def _up(arguments: argparse.Namespace) -> int:
    state_dir = default_state_dir(os.environ)
    if names := running(state_dir):
        if arguments.node and "kubelet" not in names:
            raise ClusterError("it is running without a node: `scripts/cluster down` first, then `up --node`")
        say(f"already running: {', '.join(names)}\n")
        return _hint(arguments)
    down(state_dir)  # what a crash may have left
    begun = time.monotonic()
    if arguments.node:
        cluster = Cluster(state_dir, tied=False, audit=arguments.audit)
        say(f"starting a control plane and a node in {state_dir}")
        try:
            cluster.start()
        except BaseException:
            cluster.stop()
            raise
        cluster.leave_running()
    else:
        processes = Processes(state_dir, tied=False)
        plane = ControlPlane(state_dir, processes=processes, audit=arguments.audit)
        say(f"starting a control plane in {state_dir}")
        try:
            plane.start()
        except BaseException:
            plane.stop()
            raise
        processes.forget()
    say(f"ready after {time.monotonic() - begun:.0f} s\n")
    return _hint(arguments)


def _down(_: argparse.Namespace) -> int:
    ended = down(default_state_dir(os.environ))
    say(f"ended {', '.join(ended)}" if ended else "nothing was running")
    return 0


def _status(_: argparse.Namespace) -> int:
    state_dir = default_state_dir(os.environ)
    names = running(state_dir)
    if not names:
        say("not running: `scripts/cluster up` starts it")
        return 3
    print(
        f"folder      {state_dir}\nrunning     {', '.join(names)}\nkubeconfig  {state_dir / 'kubeconfig'}", flush=True
    )
    return _kubectl("get", "nodes", "-o", "wide") if "kubelet" in names else 0


def _env(_: argparse.Namespace) -> int:
    state_dir = _running_state()
    print(f"export KUBECONFIG={shlex.quote(str(state_dir / 'kubeconfig'))}")
    print(f"export PATH={shlex.quote(str(Binaries().path('kubectl').parent))}:$PATH")
    return 0


def _hint(_: argparse.Namespace) -> int:
    state_dir = _running_state()
    print(f'eval "$(scripts/cluster env)"      # or: export KUBECONFIG={state_dir / "kubeconfig"}')
    print("kubectl get all --all-namespaces   # or: scripts/cluster kubectl get all --all-namespaces")
    print("kubectl apply -f crds/             # then examples/")
    if "kubelet" in running(state_dir):
        print("scripts/cluster build-image localhost/NAME:dev --file RECIPE")
        print("kubectl run try --image=localhost/NAME:dev --image-pull-policy=Never")
    else:
        print("sudo scripts/cluster up --node     # after `down`, if pods are to run")
    print(f"less {state_dir}/logs/*.log")
    print("scripts/cluster down")
    return 0


def _running_state() -> Path:
    state_dir = default_state_dir(os.environ)
    if not running(state_dir):
        raise ClusterError("no cluster is running: `scripts/cluster up` starts one")
    return state_dir


def _tool(arguments: argparse.Namespace) -> int:
    state_dir = _running_state()
    program = Binaries().path(arguments.tool)
    environment = {**os.environ, "KUBECONFIG": str(state_dir / "kubeconfig")}
    return subprocess.run([program, *arguments.arguments], env=environment, check=False).returncode


def _kubectl(*arguments: str) -> int:
    return _tool(argparse.Namespace(tool="kubectl", arguments=arguments))


def _build_image(arguments: argparse.Namespace) -> int:
    archive = build_image(arguments.file, arguments.tag, arguments.context, build_args={"BASE_IMAGE": BASE_IMAGE})
    print(archive)
    if "containerd" in running(default_state_dir(os.environ)):
        import_image(default_state_dir(os.environ), archive)
        say("  in the node")
    return 0


def _import_image(arguments: argparse.Namespace) -> int:
    import_image(_running_state(), arguments.archive)
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    binaries = Binaries()
    names: tuple[str, ...] = CONTROL_PLANE
    if arguments.node:
        Node.prepare(binaries)
        names = (*CONTROL_PLANE, *NODE, "helm")
    for name, place in binaries.ensure(names).items():
        print(f"{name:24} {place}")
    if arguments.node:
        print(f"{'base image':24} {base_image()}")
    return 0


def _all_packages() -> tuple[Package, ...]:
    return (*NODE_PACKAGES, *IMAGE_PACKAGES)


def _packages(_: argparse.Namespace) -> int:
    lacking = missing(_all_packages())
    for package in _all_packages():
        print(f"{'missing' if package in lacking else 'here':8} {package.name:28} {package.why}")
    if lacking:
        say("`scripts/cluster install`, as root, installs what is missing")
    return 1 if lacking else 0


def _install(_: argparse.Namespace) -> int:
    install(_all_packages(), os.environ)
    say("all packages are here")
    return 0
