"""From the words in which a cluster refuses an object to a reason that a user can act on. Pure functions."""

from __future__ import annotations

import re

from modelyard_operator.reconcile.verbs import Forbidden

__all__ = ["reason_of_refusal"]

# Messages of the admission plugins ResourceQuota and LimitRanger of Kubernetes; both answer 403 without a field path.
_LIMITS = re.compile(
    r"exceeded quota|failed quota"
    r"|(maximum|minimum) [\w./-]+ usage per \w+ is|[\w./-]+ max limit to request ratio per \w+ is"
)


def reason_of_refusal(error: Exception | str) -> str | None:
    """Return the reason for what the cluster said, or None where its words tell of none."""
    if isinstance(error, Forbidden):
        return "Forbidden"
    return "QuotaExceeded" if _LIMITS.search(str(error)) else None
