"""Manifests from files, folders and standard input, read as kubectl reads them. Light: clients import it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from modelyard_local.errors import LocalError

__all__ = ["Document", "read_documents"]

_SUFFIXES = (".yaml", ".yml", ".json")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Document:
    """One object of a manifest, and where it stands."""

    source: str
    object: dict[str, Any]

    @property
    def title(self) -> str:
        """The name that messages give it."""
        metadata = self.object.get("metadata")
        name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
        return f'{self.source}: {self.object.get("kind", "?")} "{name}"'


class _Loader(yaml.SafeLoader):
    """JSON's types only: a date stays a string, keys are strings, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return {str(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(names: Iterable[str], stdin: TextIO) -> list[Document]:
    """Return the objects in files and folders; `-` stands for standard input.

    Raises:
        LocalError: a file is missing, is not YAML or JSON, or holds something else than objects.
    """
    found = [document for name in names for document in _read(name, stdin)]
    if not found:
        raise LocalError("there is no object in what was given")
    return found


def _read(name: str, stdin: TextIO) -> Iterator[Document]:
    if name == "-":
        yield from _parse("standard input", stdin.read())
        return
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not files:
            raise LocalError(f"{name}: the folder holds no {', '.join(_SUFFIXES)}")
    else:
        files = [path]
    for file in files:
        try:
            yield from _parse(str(file), file.read_text())
        except OSError as error:
            raise LocalError(f"{file}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise LocalError(f"{file}: not a text file") from None


def _parse(source: str, text: str) -> Iterator[Document]:
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise LocalError(f"{source}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise LocalError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise LocalError(f"{source}: an object with apiVersion, kind, metadata and spec was expected")
        if document.get("kind") == "List" and isinstance(document.get("items"), list):
            yield from (Document(source, item) for item in document["items"] if isinstance(item, dict))
        else:
            yield Document(source, json.loads(json.dumps(document, default=str)))
