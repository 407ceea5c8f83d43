"""The documents: nothing in them leads nowhere, and what a status can say is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard_runtime.contract import FailureReason

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
_REASON = re.compile(r"([A-Z][a-z]+)+")


def _calls(*names: str) -> Iterator[ast.Call]:
    """Yield every call of these names in reconcile/."""
    for module in (REPOSITORY / "operator/modelyard_operator/reconcile").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield node


def _texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _reasons() -> set[str]:
    """Return the reasons of conditions that are not true."""
    found = {str(reason.value) for reason in FailureReason}
    for call in _calls("Verdict", "Failure", "Blocked", "_blocked"):
        good = _keyword(call, "ok")
        if isinstance(good, ast.Constant) and good.value is True:
            continue
        where = _keyword(call, "reason") or (call.args[0] if call.args else None)
        assert where is not None
        found |= {text for text in _texts(where) if _REASON.fullmatch(text)}
    for call in _calls("Verdict"):
        found -= set(_texts(call.args[0]))
    refusals = ast.parse((REPOSITORY / "operator/modelyard_operator/reconcile/refusals.py").read_text())
    returns = [node for node in ast.walk(refusals) if isinstance(node, ast.Return)]
    return found | {text for node in returns for text in _texts(node) if _REASON.fullmatch(text)}


def test_every_reason_that_a_status_can_show_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", (REPOSITORY / "docs/conditions.md").read_text()))

    reasons = _reasons()

    assert {"NameConflict", "Unschedulable", "QuotaExceeded", "LoadFailed", "VariantNotAvailable"} <= reasons
    assert reasons <= explained


def test_every_condition_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs/conditions.md").read_text(), re.MULTILINE))

    conditions = {text for call in _calls("Verdict") for text in _texts(call.args[0])}

    assert {"Available", "WeightsApplied"} <= conditions <= explained


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]

    assert broken == []


def test_the_index_lists_every_page() -> None:
    listed = set(_LINK.findall((REPOSITORY / "docs/README.md").read_text()))

    pages = {page.name for page in REPOSITORY.glob("docs/*.md")} - {"README.md"}

    assert pages <= listed
