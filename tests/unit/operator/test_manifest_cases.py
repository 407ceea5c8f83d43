"""Local mode's verdict on the table of wrong manifests; tests/cluster asks a real API server for its own."""

import pytest
from manifest_cases import CASES, Case
from modelyard_operator.api.kinds import parse_manifest
from modelyard_operator.api.schema import InvalidManifest


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdict_and_field(case: Case) -> None:
    if case.path is None:
        parse_manifest(case.manifest)
        return

    with pytest.raises(InvalidManifest) as refused:
        parse_manifest(case.manifest)

    assert case.path in [error.path for error in refused.value.errors]
    assert all(error.message for error in refused.value.errors)
