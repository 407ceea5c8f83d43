"""What PyTorch's files say of themselves when they are loaded, and why some are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard_runtime.artifacts.fetch import fetch
from modelyard_runtime.errors import UnsafeArtifact
from modelyard_runtime.formats import detect
from modelyard_runtime.formats import torch as torch_format
from modelyard_runtime.formats.torchfiles import TorchKind, torch_kind

EVERY = {
    "program": TorchKind.PROGRAM,
    "two": TorchKind.PROGRAM,
    "script": TorchKind.SCRIPT,
    "two-script": TorchKind.SCRIPT,
    "writes": TorchKind.SCRIPT,
    "module": TorchKind.PICKLE,
    "how-it-runs": TorchKind.PICKLE,
    "state-dict": TorchKind.PICKLE,
    "old": TorchKind.PICKLE,
}


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_loaded_without_leave(name: str, artifacts: Path, tmp_path: Path) -> None:
    file = detect(artifacts / name, allow_pickle=True).path

    with pytest.raises(UnsafeArtifact, match=r"ONNX instead.*spec\.model\.allowPickle: true") as caught:
        fetch((artifacts / name).as_uri(), tmp_path)
    with pytest.raises(UnsafeArtifact) as direct:
        torch_format.load(file)

    assert torch_kind(file) is EVERY[name]
    assert f"{file.name} is {EVERY[name].value}" in caught.value.message == direct.value.message


def test_torchscript_can_write_files_when_it_is_loaded(told: dict[str, Any], artifacts: Path) -> None:
    """It is why TorchScript needs leave."""
    assert "predictions" in told["writes"]
    assert (artifacts / "written").exists()


@pytest.mark.parametrize("name", ["program", "one-row"])
def test_an_exported_program_knows_its_inputs_and_outputs(name: str, told: dict[str, Any]) -> None:
    assert told[name]["features"] == 3
    assert told[name]["inputs"] == [["input", "FP32", [-1, 3]]]
    assert told[name]["outputs"] == [["prediction", "FP32", [-1, 1]]]


def test_inputs_and_outputs_of_several_types(told: dict[str, Any]) -> None:
    assert told["two"]["features"] is None
    assert told["two"]["inputs"] == [["numbers", "FP32", [-1, 3]], ["code", "INT64", [-1]]]
    assert told["two"]["outputs"] == [["score", "FP32", [-1]], ["top", "INT64", [-1]]]
    assert "several inputs (numbers, code)" in told["two"]["refused"]


def test_bfloat16_is_answered_as_float32(told: dict[str, Any], answers: dict[str, Any]) -> None:
    assert told["bfloat16"]["inputs"] == [["input", "BF16", [-1, 3]]]
    assert told["bfloat16"]["outputs"] == [["prediction", "FP32", [-1, 2]]]
    np.testing.assert_allclose(told["bfloat16"]["predictions"], answers["bfloat16"][0], rtol=1e-2)


def test_what_torchscript_does_not_say_is_taken_as_rows_of_float32(told: dict[str, Any]) -> None:
    assert told["bare-script"]["inputs"] == [["features", "FP32", [-1, -1]]]
    assert told["bare-script"]["outputs"] == [["prediction", "FP64", [-1, -1]]]
    assert told["two-script"]["inputs"] == [["numbers", "FP32", [-1, -1]], ["code", "FP32", [-1, -1]]]


def test_each_version_of_a_module_has_its_own_code(told: dict[str, Any], answers: dict[str, Any]) -> None:
    for name in ("module", "module-again"):
        np.testing.assert_allclose(told[name]["predictions"], answers[name][0], rtol=1e-5, atol=1e-6)


def test_files_of_older_versions_of_torch_save_are_read(told: dict[str, Any]) -> None:
    assert np.array(told["old"]["predictions"]).shape == (3,)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("state-dict", r"model\.pt is a state dict: weights, and no code.*torch\.export\.save"),
        ("list", r"holds a list, and no module.*torch\.export\.save"),
        ("without-code", r"needs code that is not here \(No module named 'net'\); put the Python file"),
        ("two-rows", r"exported for 2 rows, no more and no fewer.*dynamic_shapes"),
        ("wrong-signature", r"can't compute the zeros that signature\.json describes \(.*Dimension"),
        ("damaged", r"model\.pt2 can't be loaded \(.*save it again with PyTorch 2"),
        ("bad-signature", r"signature\.json can't be used.*\"datatype\""),
        ("odd-datatype", r"signature\.json: 'FLOAT' of x is none of BOOL"),
        ("fixed-signature", r"signature\.json: the shape of x needs to start with -1"),
    ],
)
def test_what_can_not_be_served_is_refused_with_what_to_do(name: str, reason: str, told: dict[str, Any]) -> None:
    assert re.match(f"LoadFailed: .*{reason}", told[name]["error"], re.DOTALL), told[name]["error"]
