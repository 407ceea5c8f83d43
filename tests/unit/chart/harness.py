"""Runs the real Helm on the chart, and looks at what it renders."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

__all__ = ["REPOSITORY", "Chart", "Object", "Rendered"]

Object = dict[str, Any]
REPOSITORY = Path(__file__).parents[3]
RELEASE, NAMESPACE = "modelyard", "modelyard-system"
# The oldest that the chart takes; without a cluster, old versions of Helm assume one that is older still.
_KUBE_VERSION = ("--kube-version", "1.29.0")


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key that is there twice, as Kubernetes does; PyYAML itself takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Rendered:
    """The objects of a release."""

    objects: tuple[Object, ...]

    def of_kind(self, kind: str) -> list[Object]:
        return [obj for obj in self.objects if obj["kind"] == kind]

    def names(self, kind: str) -> set[str]:
        return {obj["metadata"]["name"] for obj in self.of_kind(kind)}

    @property
    def pod(self) -> Object:
        [deployment] = self.of_kind("Deployment")
        template: Object = deployment["spec"]["template"]
        return template

    @property
    def container(self) -> Object:
        [container] = self.pod["spec"]["containers"]
        result: Object = container
        return result

    @property
    def env(self) -> dict[str, str]:
        return {variable["name"]: variable.get("value") for variable in self.container["env"]}


@dataclass(frozen=True)
class Chart:
    """Runs Helm on the chart."""

    helm: Path
    folder: Path
    scratch: Path

    @cached_property
    def defaults(self) -> Rendered:
        return self.render()

    def render(self, **values: Any) -> Rendered:
        return Rendered(
            tuple(self._load(self._succeed("template", RELEASE, self.folder, *_KUBE_VERSION, *self._options(values))))
        )

    def refusal(self, **values: Any) -> str:
        done = self._run("template", RELEASE, self.folder, *_KUBE_VERSION, *self._options(values))
        assert done.returncode != 0, f"Helm took {values}"
        return done.stderr

    def lint(self, **values: Any) -> str:
        return self._succeed("lint", "--strict", self.folder, *self._options(values))

    def notes(self, **values: Any) -> str:
        # `helm template` leaves them out, and Helm 3 prints them with a cluster only: a template of ours tells them.
        copy = self.scratch / "chart"
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        told = copy / "templates" / "told.yaml"
        told.write_text('notes: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}')
        arguments = ("--show-only", "templates/told.yaml", *_KUBE_VERSION, *self._options(values))
        [document] = self._load(self._succeed("template", RELEASE, copy, *arguments))
        return str(document["notes"])

    def _options(self, values: Object) -> list[str | Path]:
        file = self.scratch / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return ["--namespace", NAMESPACE, "--values", file]

    def _succeed(self, *arguments: str | Path) -> str:
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        home = {f"HELM_{name}_HOME": str(self.scratch) for name in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [self.helm, *arguments],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": os.devnull, **home},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @staticmethod
    def _load(text: str) -> Iterator[Object]:
        yield from (obj for obj in yaml.load_all(text, _StrictLoader) if obj)
