"""`modelyard operator`: what the operator's image runs."""

from __future__ import annotations

import argparse

from modelyard_operator.main import main as run_operator

__all__ = ["run"]


def run(_options: argparse.Namespace) -> int:
    """Run the operator until told to stop."""
    run_operator()
    return 0
