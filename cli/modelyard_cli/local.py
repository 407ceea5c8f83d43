"""`modelyard local`: commands that ask a running installation; `up` is in `modelyard_cli.up`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelyard_local.client import Client, Refused
from modelyard_local.errors import LocalError
from modelyard_local.state import StateFolder, default_state

from modelyard_cli.output import as_json, as_yaml, items_of, table

__all__ = ["run"]

_POLL_SECONDS = 0.1
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def run(options: argparse.Namespace) -> int:
    """Run a command of `modelyard local`; return the exit code."""
    state = StateFolder(Path(options.state) if options.state else default_state(os.environ))
    try:
        if options.local_command == "up":
            from modelyard_cli.up import up  # noqa: PLC0415 - imports the whole control plane

            return up(options, state)
        return _COMMANDS[options.local_command](options, Client(state.socket))
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _apply(options: argparse.Namespace, client: Client) -> int:
    from modelyard_local.documents import read_documents  # noqa: PLC0415 - YAML takes time to import

    done: list[dict[str, Any]] = []
    failed = False
    for document in read_documents(options.filename, sys.stdin):
        try:
            answer = client.post("/apply", manifest=document.object, namespace=options.namespace)
        except Refused as refused:
            failed = True
            _complain(document.title, refused)
        else:
            done.append(answer["object"])
            if options.output == "text":
                print(f"{answer['name']} {answer['result']}")
    if options.output == "json":
        print(as_json(items_of(done, single=len(done) == 1)))
    return 1 if failed else 0


def _complain(title: str, refused: Refused) -> None:
    if len(refused.errors) == 1:
        print(f"error: {title} {refused}: {_place(refused.errors[0])}", file=sys.stderr)
    elif refused.errors:
        lines = "".join(f"\n  {_place(error)}" for error in refused.errors)
        print(f"error: {title} {refused}:{lines}", file=sys.stderr)
    else:
        print(f"error: {title}: {refused}", file=sys.stderr)


def _place(error: dict[str, str]) -> str:
    return f"{error['path']}: {error['message']}"


def _get(options: argparse.Namespace, client: Client) -> int:
    kind, name = _split(options.kind, options.name)
    answer = client.get(
        "/objects",
        kind=kind,
        name=name,
        namespace=options.namespace,
        all="1" if options.all_namespaces else None,
        wide="1" if options.output == "wide" else None,
    )
    tables = answer["tables"]
    objects = [obj for entry in tables for obj in entry["objects"]]
    if options.output in ("json", "yaml"):
        write = as_json if options.output == "json" else as_yaml
        print(write(items_of(objects, single=name is not None)))
    elif options.output == "name":
        for entry in tables:
            for obj in entry["objects"]:
                print(f"{entry['kind']}/{obj['metadata']['name']}")
    elif not objects:
        where = "" if options.all_namespaces else f" in namespace {options.namespace}"
        print(f"No resources found{where}.", file=sys.stderr)
    else:
        print("\n\n".join(_table(options, entry, several=len(tables) > 1) for entry in tables if entry["rows"]))
    return 0


def _table(options: argparse.Namespace, entry: dict[str, Any], *, several: bool) -> str:
    header, rows = entry["header"], entry["rows"]
    if several:
        rows = [[f"{entry['kind']}/{row[0]}", *row[1:]] for row in rows]
    if options.all_namespaces:
        namespaces = [obj["metadata"]["namespace"] for obj in entry["objects"]]
        header = ["NAMESPACE", *header]
        rows = [[namespace, *row] for namespace, row in zip(namespaces, rows, strict=True)]
    return table(header, rows)


def _delete(options: argparse.Namespace, client: Client) -> int:
    targets = _targets(options.target)
    namespaces = [options.namespace] * len(targets)
    if options.filename:
        from modelyard_local.documents import read_documents  # noqa: PLC0415

        for document in read_documents(options.filename, sys.stdin):
            metadata = document.object.get("metadata") or {}
            targets.append((str(document.object.get("kind")), str(metadata.get("name"))))
            namespaces.append(metadata.get("namespace") or options.namespace)
    if not targets:
        raise LocalError("say what to delete: KIND NAME, or -f FILE")
    deleted, failed = [], False
    for (kind, name), namespace in zip(targets, namespaces, strict=True):
        try:
            answer = client.post("/delete", kind=kind, name=name, namespace=namespace)
        except Refused as refused:
            failed = True
            print(f"error: {refused}", file=sys.stderr)
        else:
            deleted.append({"kind": kind, "name": name, "namespace": namespace})
            if options.output == "text":
                print(f"{answer['name']} deleted")
    if options.output == "json":
        print(as_json({"deleted": deleted}))
    return 1 if failed else 0


def _logs(options: argparse.Namespace, client: Client) -> int:
    answer = client.get("/logs", name=options.name, container=options.container, namespace=options.namespace)
    logs = answer["logs"]
    several = len(logs) > 1
    positions: dict[str, int] = {}
    while True:
        for entry in logs:
            path = entry["path"]
            first = path not in positions
            lines, positions[path] = _lines_from(Path(path), positions.get(path, 0))
            if first and options.tail >= 0:
                lines = lines[len(lines) - min(options.tail, len(lines)) :]
            for line in lines:
                print(f"[{entry['pod']}/{entry['container']}] {line}" if several else line, flush=options.follow)
        if not options.follow:
            return 0
        time.sleep(_POLL_SECONDS * 2)


def _lines_from(path: Path, position: int) -> tuple[list[str], int]:
    """Return the complete lines from a position on, and where the next begin."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(position if position <= size else 0)  # a log that was shortened begins anew
            data = file.read()
            end = file.tell()
    except FileNotFoundError:
        return [], 0
    return data.decode(errors="replace").splitlines(), end


def _wait(options: argparse.Namespace, client: Client) -> int:
    wanted, _, value = options.wanted.partition("=")
    type_, _, status = value.partition("=")
    if wanted not in ("condition", "delete") or (wanted == "condition") != bool(type_):
        raise LocalError("--for takes condition=TYPE, condition=TYPE=STATUS or delete")
    end = time.monotonic() + _seconds(options.timeout)
    met = []
    for kind, name in _targets(options.target):
        while True:
            obj = _find(client, options, kind, name, missing_is_fine=wanted == "delete")
            if obj is None or (wanted == "condition" and _holds(obj, type_, status or "True")):
                break
            if time.monotonic() >= end:
                raise LocalError(f"timed out waiting for {options.wanted} on {kind}/{name}{_why(obj, type_)}")
            time.sleep(_POLL_SECONDS)
        met.append({"kind": kind, "name": name})
        if options.output == "text":
            print(f"{kind}/{name} {'deleted' if wanted == 'delete' else 'condition met'}")
    if options.output == "json":
        print(as_json({"met": met}))
    return 0


def _find(
    client: Client, options: argparse.Namespace, kind: str, name: str, *, missing_is_fine: bool
) -> dict[str, Any] | None:
    try:
        answer = client.get("/objects", kind=kind, name=name, namespace=options.namespace)
    except Refused as refused:
        if refused.status == 404 and missing_is_fine:
            return None
        raise
    found: dict[str, Any] = answer["tables"][0]["objects"][0]
    return found


def _conditions(obj: dict[str, Any], type_: str) -> Iterator[dict[str, Any]]:
    entries = obj.get("status", {}).get("conditions", [])
    return (entry for entry in entries if entry["type"].lower() == type_.lower())


def _holds(obj: dict[str, Any], type_: str, status: str) -> bool:
    """Return whether a condition holds for the newest generation: a True of before an edit does not count."""
    generation = obj["metadata"].get("generation", 0)
    return any(
        entry["status"].lower() == status.lower() and entry.get("observedGeneration", generation) >= generation
        for entry in _conditions(obj, type_)
    )


def _why(obj: dict[str, Any], type_: str) -> str:
    entry = next(_conditions(obj, type_), None)
    return "" if entry is None else f": {entry['reason']}: {entry.get('message', '')}".rstrip(": ")


def _down(options: argparse.Namespace, client: Client) -> int:
    pid = client.post("/down")["pid"]
    while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
        time.sleep(_POLL_SECONDS / 2)
    print(as_json({"stopped": pid}) if options.output == "json" else f"stopped process {pid}")
    return 0


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _seconds(text: str) -> float:
    number = text.rstrip("hms")
    unit = text[len(number) :] or "s"
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise LocalError(f"{text!r} is not a duration: write 30s, 2m or 500ms") from None


def _split(kind: str, name: str | None) -> tuple[str, str | None]:
    if name is None and "/" in kind:
        kind, _, name = kind.partition("/")
    return kind, name


def _targets(words: list[str]) -> list[tuple[str, str]]:
    """Return (kind, name) pairs from `KIND/NAME …` or `KIND NAME …`."""
    if not words:
        return []
    if all("/" in word for word in words):
        pairs = [word.split("/", 1) for word in words]
        return [(kind, name) for kind, name in pairs]
    if len(words) < 2:
        raise LocalError(f"{words[0]}: give KIND/NAME, or KIND and NAME")
    return [(words[0], name) for name in words[1:]]


_COMMANDS: dict[str, Callable[[argparse.Namespace, Client], int]] = {
    "apply": _apply,
    "get": _get,
    "delete": _delete,
    "logs": _logs,
    "wait": _wait,
    "down": _down,
}
