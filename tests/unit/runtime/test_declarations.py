"""Each format is declared in its one file, and everything that lists formats says the same."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from modelyard_operator.api.crd import structural_schema
from modelyard_operator.api.modeldeployment import ModelDeploymentSpec
from modelyard_runtime import formats
from modelyard_runtime.contract import FORMATS
from modelyard_runtime.errors import UnknownFormat
from modelyard_runtime.formats import detect
from modelyard_runtime.formats.format import Format, format_named

ROOT = Path(__file__).resolve().parents[3]


def test_every_declared_format_is_in_the_contract() -> None:
    modules = [importlib.import_module(f"{formats.__name__}.{m.name}") for m in pkgutil.iter_modules(formats.__path__)]

    declared = [module.FORMAT.name for module in modules if isinstance(getattr(module, "FORMAT", None), Format)]

    assert tuple(sorted(declared)) == FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_the_name_of_its_module_and_an_extra_that_exists(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    declared = format_named(name)

    assert declared.name == name
    assert not declared.extra or declared.extra in extras


def test_the_crd_takes_these_formats_and_no_other() -> None:
    schema = structural_schema(ModelDeploymentSpec)

    assert schema["properties"]["model"]["properties"]["format"]["enum"] == list(FORMATS)


def test_a_format_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="it is one of: catboost, lightgbm"):
        detect(tmp_path, "base")


def test_looking_for_a_format_imports_no_library_of_one() -> None:
    libraries = {"catboost", "lightgbm", "onnxruntime", "pandas", "scipy", "sklearn", "torch", "xgboost"}
    script = f"""
import sys
from modelyard_runtime.formats.format import format_named
for name in {FORMATS}: format_named(name)
print(sorted({libraries} & {{*sys.modules}}))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
