"""`python -m modelyard_cluster`, which is what `scripts/cluster` runs."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
