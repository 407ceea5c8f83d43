"""The API server's verdict on the table of wrong manifests; tests/unit asks local mode for its own."""

import re

import pytest
from manifest_cases import CASES, Case
from modelyard_cluster.api import ApiError
from modelyard_cluster.control_plane import ControlPlane
from modelyard_operator.api.kinds import CUSTOM_KINDS, GROUP_VERSION


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdict_and_field(crds: ControlPlane, case: Case) -> None:
    plural = CUSTOM_KINDS[case.manifest["kind"]].plural
    # What `kubectl create --dry-run=server` sends.
    path = f"/apis/{GROUP_VERSION}/namespaces/default/{plural}?dryRun=All&fieldValidation=Strict"
    if case.path is None:
        crds.api.request("POST", path, case.manifest)
        return

    with pytest.raises(ApiError) as refused:
        crds.api.request("POST", path, case.manifest)

    assert refused.value.status in (400, 422)
    assert re.search(rf"(?<![\w.]){re.escape(case.path)}(?![\w.\[])", str(refused.value))
