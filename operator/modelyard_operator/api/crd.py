"""The CustomResourceDefinitions, made from the typed specs. `python -m modelyard_operator.api.crd DIR` writes them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

from modelyard_operator.api.kinds import API_GROUP, API_VERSION, CUSTOM_KINDS, CustomKind
from modelyard_operator.api.schema import NAME_LENGTH, NAME_PATTERN, Spec

__all__ = ["crd", "structural_schema", "write_crds"]

_KEYWORDS = frozenset(
    (
        *(
            "type",
            "format",
            "description",
            "default",
            "enum",
            "pattern",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
        ),
        *("minItems", "maxItems", "maxProperties", "required", "items", "properties", "additionalProperties", "anyOf"),
    )
)


def structural_schema(model: type[Spec]) -> dict[str, Any]:
    """Return a model's schema in the structural form that Kubernetes asks for: no references, no nulls, no titles."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}))


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _structural({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "x-kubernetes-int-or-string" in node:
        return {key: value for key, value in node.items() if key in _KEYWORDS or key.startswith("x-")}
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:  # `X | None`: absent is how Kubernetes says None
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _structural({**options[0], **rest}, definitions)
    result = {key: value for key, value in node.items() if key in _KEYWORDS or key.startswith("x-kubernetes-")}
    result = copy.deepcopy(result)  # of a type that is used twice, YAML would write the second as an alias
    if not result.get("properties"):
        result.pop("properties", None)  # an API server keeps no empty ones: tools would find a difference for ever
    else:
        result["properties"] = {name: _structural(child, definitions) for name, child in node["properties"].items()}
        if (
            "default" not in result
            and "required" not in result
            and all("default" in child for child in result["properties"].values())
        ):
            result["default"] = {}  # so that the API server fills in the defaults below
    result.pop("additionalProperties", None)
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], definitions)
        result.pop("default", None)
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    return result


def _without_defaults(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return [_without_defaults(item) for item in node] if isinstance(node, list) else node


def crd(kind: CustomKind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    status = _without_defaults(structural_schema(kind.status))
    name_schema = {"type": "string", "maxLength": NAME_LENGTH, "pattern": NAME_PATTERN}
    subresources: dict[str, Any] = {"status": {}}
    if kind.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short_name],
                "categories": ["modelyard"],
            },
            "versions": [
                {
                    "name": API_VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [
                        {"name": column.name, "type": column.type, "jsonPath": column.json_path}
                        for column in kind.columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": kind.description,
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object", "properties": {"name": name_schema}},
                                "spec": structural_schema(kind.spec),
                                "status": status,
                            },
                        }
                    },
                }
            ],
        },
    }


def write_crds(folder: Path) -> list[Path]:
    """Write one file per kind; return their paths."""
    paths = []
    for kind in CUSTOM_KINDS.values():
        path = folder / f"{kind.plural}.yaml"
        header = "# Generated from operator/modelyard_operator/api by scripts/generate: do not edit.\n"
        path.write_text(header + yaml.safe_dump(crd(kind), sort_keys=False, width=120, allow_unicode=True))
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_crds(Path(sys.argv[1])):
        print(written)
